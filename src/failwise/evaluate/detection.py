"""How well detectors tell failures from successes, when, and at what rate of false alarms.

Two ends, as in SAFE (arXiv 2506.09937): ``final`` reads every episode to its own end, ``earliest`` only for as long as
the task's shortest episode ran. Successes stop when they succeed and failures run to the time limit, so that by the
final end the length alone separates them; by the earliest stop it says nothing.

An episode's score is the running maximum of its scores. Positive means failure, timeouts among them.

Figures come twice: of the episodes as they are, and of R resamples at once, in which episode m occurs counts_RM[r, m]
times; ``failwise.evaluate.over_tasks`` draws these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.detect.conformal import Band

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """One episode as a detector scored it.

    Attributes:
        task: its environment's id. failed: whether it did not succeed. scores: float64 (T,), one a step.
        episode: its id, by which an episode that is judged in several folds is known; "" where each is another one.
        timed_out: whether it failed by reaching the step limit.
    """

    task: str
    failed: bool
    scores: NDArray[np.float64]
    episode: str = ""
    timed_out: bool = False

    @cached_property
    def peak(self) -> float:
        """The largest score, kept: intervals ask for it thousands of times."""
        return float(self.scores.max())


def shortest_of(lengths: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Task -> the fewest steps of its episodes."""
    out: dict[str, int] = {}
    for task, steps in lengths:
        out[task] = min(out.get(task, steps), steps)
    return out


def at_earliest_stop(
    episodes: Sequence[Scored], shortest: Mapping[str, int] | None = None, share: float = 1.0
) -> list[Scored]:
    """The episodes, cut to the length of the shortest one of their task.

    Args:
        episodes: to cut.
        shortest: steps of each task's shortest episode, where these episodes are only a part of the task's; a few of
            them would be read for longer than all of them. Without it, the shortest of these.
        share: of that length to keep, at least one step.
    """
    if shortest is None:
        shortest = shortest_of((e.task, len(e.scores)) for e in episodes)
    return [replace(e, scores=e.scores[: max(1, round(share * shortest[e.task]))]) for e in episodes]


def roc_auc(episodes: Sequence[Scored]) -> float:
    """Chance that a failure's largest score is above a success's, ties counting half; NaN without both outcomes."""
    return float(roc_aucs(episodes, _once(episodes))[0])


def roc_aucs(episodes: Sequence[Scored], counts_RM: Counts) -> NDArray[np.float64]:
    """``roc_auc`` of R resamples, (R,), in which episode m occurs counts_RM[r, m] times."""
    y_M, s_M = _labels(episodes)
    order_M = np.argsort(s_M, kind="stable")
    starts_G = np.flatnonzero(np.diff(s_M[order_M], prepend=-np.inf) > 0)  # of each group of equal scores
    ordered_RM = counts_RM[:, order_M].astype(np.float64)
    lost_RG = np.add.reduceat(ordered_RM * y_M[order_M], starts_G, axis=1)
    won_RG = np.add.reduceat(ordered_RM * ~y_M[order_M], starts_G, axis=1)
    below_RG = won_RG.cumsum(1) - won_RG / 2
    pairs_R = lost_RG.sum(1) * won_RG.sum(1)
    with np.errstate(invalid="ignore"):
        out: NDArray[np.float64] = np.where(pairs_R > 0, (lost_RG * below_RG).sum(1) / pairs_R, np.nan)
    return out


def within_tasks(episodes: Sequence[Scored]) -> float:
    """Mean over tasks of the ROC-AUC among the episodes of each; NaN where no task has both outcomes.

    Pooled, a score that only told the tasks apart would do better than chance wherever tasks differ in difficulty: so
    does ``length`` by earliest stop, which is then one number a task. Within a task it cannot.
    """
    return float(within_tasks_of(episodes, _once(episodes))[0])


def within_tasks_of(episodes: Sequence[Scored], counts_RM: Counts) -> NDArray[np.float64]:
    """``within_tasks`` of R resamples, (R,), in which episode m occurs counts_RM[r, m] times.

    A task counts as often as it was drawn, which is the mean of its episodes' counts.
    """
    total_R, weight_R = np.zeros(len(counts_RM)), np.zeros(len(counts_RM))
    for rows in _rows_by_task(episodes).values():
        auc_R = roc_aucs([episodes[i] for i in rows], counts_RM[:, rows])
        drawn_R = np.where(np.isnan(auc_R), 0.0, counts_RM[:, rows].mean(1))
        total_R += drawn_R * np.nan_to_num(auc_R)
        weight_R += drawn_R
    with np.errstate(invalid="ignore"):
        out: NDArray[np.float64] = np.where(weight_R > 0, total_R / weight_R, np.nan)
    return out


def pr_auc(episodes: Sequence[Scored]) -> float:
    """Average precision, failures positive; NaN without both outcomes."""
    return float(pr_aucs(episodes, _once(episodes))[0])


def pr_aucs(episodes: Sequence[Scored], counts_RM: Counts) -> NDArray[np.float64]:
    """``pr_auc`` of R resamples, (R,): precision at each threshold, weighted with the recall that it adds."""
    y_M, s_M = _labels(episodes)
    order_M = np.argsort(-s_M, kind="stable")
    starts_G = np.flatnonzero(np.diff(s_M[order_M], prepend=np.inf) < 0)  # of each group of equal scores
    ordered_RM = counts_RM[:, order_M].astype(np.float64)
    found_RG = np.add.reduceat(ordered_RM * y_M[order_M], starts_G, axis=1)
    all_RG = np.add.reduceat(ordered_RM, starts_G, axis=1)
    precise_RG = found_RG.cumsum(1) / np.maximum(all_RG.cumsum(1), 1)
    failures_R, wins_R = found_RG.sum(1), (all_RG - found_RG).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        out: NDArray[np.float64] = (found_RG * precise_RG).sum(1) / failures_R
    return np.where((failures_R > 0) & (wins_R > 0), out, np.nan)


def timestep_accuracy(episodes: Sequence[Scored], thresholds: NDArray[Any]) -> float:
    """Best balanced accuracy over thresholds when every step is judged by its own score against the outcome.

    The threshold is chosen on the same episodes, so it says what the score allows, not what a band reaches.
    """
    return float(timestep_accuracies(episodes, _once(episodes), thresholds)[0])


def timestep_accuracies(episodes: Sequence[Scored], counts_RM: Counts, thresholds: NDArray[Any]) -> NDArray[np.float64]:
    """``timestep_accuracy`` of R resamples, (R,), each with its own best threshold."""
    y_M = np.array([e.failed for e in episodes])
    steps_M = np.array([len(e.scores) for e in episodes], np.float64)
    at_most_MK = np.stack([np.searchsorted(np.sort(e.scores), thresholds, side="right") for e in episodes])
    weights_RM = counts_RM.astype(np.float64)
    total_RL = np.stack([weights_RM @ (steps_M * kind) for kind in (y_M, ~y_M)], axis=1)
    missed_RK, quiet_RK = (weights_RM @ (at_most_MK * kind[:, None]) for kind in (y_M, ~y_M))
    with np.errstate(invalid="ignore", divide="ignore"):
        both_RK = (1 - missed_RK / total_RL[:, :1] + quiet_RK / total_RL[:, 1:]) / 2
    return np.where((total_RL > 0).all(1), both_RK.max(1), np.nan)


@dataclass(frozen=True)
class Alarms:
    """What a band's alarms came to.

    Attributes:
        false_alarms, successes: successes with an alarm, out of how many.
        detected, failures: failures with an alarm, out of how many, timeouts among them.
        detected_timeouts, timeouts: of these, those that ran into the step limit.
        balanced_accuracy: mean of the two rates that are right; NaN without both outcomes.
        mean_detection: mean time of the alarm over detected failures, as a share of the episode; NaN without any.
    """

    false_alarms: int
    successes: int
    detected: int
    failures: int
    detected_timeouts: int
    timeouts: int
    balanced_accuracy: float
    mean_detection: float


def alarms(episodes: Sequence[Scored], band: Callable[[str], Band]) -> Alarms:
    """Alarms of the band of each episode's task."""
    at = [(e, band(e.task).first_alarm(e.scores)) for e in episodes]
    wins = [a for e, a in at if not e.failed]
    lost = [(e, a) for e, a in at if e.failed]
    late = [a for e, a in lost if e.timed_out]
    false, found = sum(a is not None for a in wins), [(a + 1) / len(e.scores) for e, a in lost if a is not None]
    balanced = (1 - false / len(wins) + len(found) / len(lost)) / 2 if wins and lost else float("nan")
    return Alarms(
        false, len(wins), len(found), len(lost), sum(a is not None for a in late), len(late), balanced,
        float(np.mean(found)) if found else float("nan"),
    )  # fmt: skip


def _once(episodes: Sequence[Scored]) -> Counts:
    return np.ones((1, len(episodes)), np.int64)


def _rows_by_task(episodes: Sequence[Scored]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for i, e in enumerate(episodes):
        out.setdefault(e.task, []).append(i)
    return out


def _labels(episodes: Sequence[Scored]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    return np.array([e.failed for e in episodes], bool), np.array([e.peak for e in episodes], np.float64)
