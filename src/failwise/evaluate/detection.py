"""How well detectors tell failures from successes, when, and at what rate of false alarms.

Two ends, as in SAFE (arXiv 2506.09937): ``final`` reads every episode to its own end, ``earliest`` only for as long as
the task's shortest episode ran. Successes stop when they succeed and failures run to the time limit, so that by the
final end the length alone separates them; by the earliest stop it says nothing.

An episode's score is the running maximum of its scores. Positive means failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.detect.conformal import Band
from failwise.errors import DataError

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """One episode as a detector scored it.

    Attributes:
        task: its environment's id. failed: whether it did not succeed. scores: float64 (T,), one a step.
    """

    task: str
    failed: bool
    scores: NDArray[np.float64]

    @cached_property
    def peak(self) -> float:
        """The largest score, kept: intervals ask for it thousands of times."""
        return float(self.scores.max())


@dataclass(frozen=True)
class Estimate:
    """A figure with a percentile interval over resampled tasks; NaN bounds where there was one task only."""

    point: float
    lower: float
    upper: float
    n: int


def at_earliest_stop(episodes: Sequence[Scored]) -> list[Scored]:
    """The episodes, cut to the length of the shortest one of their task."""
    shortest: dict[str, int] = {}
    for e in episodes:
        shortest[e.task] = min(shortest.get(e.task, len(e.scores)), len(e.scores))
    return [Scored(e.task, e.failed, e.scores[: shortest[e.task]]) for e in episodes]


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
    from sklearn.metrics import average_precision_score

    y, s = _labels(episodes)
    return float("nan") if y.all() or not y.any() else float(average_precision_score(y, s))


def early_auc(episodes: Sequence[Scored], share: float) -> float:
    """ROC-AUC when only ``share`` of the task's shortest episode has been seen."""
    cut = [
        Scored(e.task, e.failed, e.scores[: max(1, round(share * len(e.scores)))]) for e in at_earliest_stop(episodes)
    ]
    return roc_auc(cut)


def over_folds(folds: Sequence[Sequence[Scored]], figure: Callable[[Sequence[Scored]], float]) -> Estimate:
    """A figure, averaged over the folds in which it is defined, without an interval.

    Raises:
        DataError: no episodes.
    """
    values = [x for x in (figure(fold) for fold in _given(folds)) if not np.isnan(x)]
    point = float(np.mean(values)) if values else float("nan")
    return Estimate(point, float("nan"), float("nan"), sum(map(len, folds)))


def over_tasks(
    folds: Sequence[Sequence[Scored]], figure: Callable[[Sequence[Scored], Counts], NDArray[np.float64]], *,
    repeats: int = 500, seed: int = 0, confidence: float = 0.95,
) -> Estimate:  # fmt: skip
    """A figure, averaged over folds, with a bootstrap interval that draws tasks, then episodes inside each.

    Tasks differ more than episodes of one task do, so an interval over episodes alone would be too narrow. Scores of
    different folds come from detectors that were fitted apart, so they are never ranked against each other.

    Args:
        folds: the episodes of each fold.
        figure: ``roc_aucs`` or ``within_tasks_of``; NaN where it is not defined, which leaves the fold out.
        repeats: bootstrap samples; 0 for the figure alone.
        seed: of the drawing.
        confidence: of the interval.

    Raises:
        DataError: no episodes.
    """
    given = _given(folds)
    random = np.random.default_rng(seed)
    point = over_folds(given, lambda fold: float(figure(fold, _once(fold))[0])).point
    low = high = float("nan")
    if repeats and all(len(_rows_by_task(fold)) > 1 for fold in given):
        values_FR = np.stack([figure(fold, _drawn(fold, repeats, random)) for fold in given])
        defined_R = ~np.isnan(values_FR).all(0)
        if defined_R.any():
            means = np.nanmean(values_FR[:, defined_R], axis=0)
            low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Estimate(point, low, high, sum(map(len, folds)))


def over_length(folds: Sequence[Sequence[Scored]], *, repeats: int = 500, seed: int = 0) -> Estimate:
    """How much the pooled ROC-AUC is above that of the steps so far, pairwise: both on the same resamples.

    Tasks differ so much that two intervals overlap long before it is open which of the two scores is the better one.
    """

    def gained(episodes: Sequence[Scored], counts_RM: Counts) -> NDArray[np.float64]:
        steps = [Scored(e.task, e.failed, np.arange(1.0, len(e.scores) + 1)) for e in episodes]
        return roc_aucs(episodes, counts_RM) - roc_aucs(steps, counts_RM)

    return over_tasks(folds, gained, repeats=repeats, seed=seed)


def _given(folds: Sequence[Sequence[Scored]]) -> list[Sequence[Scored]]:
    if not any(folds):
        raise DataError("no episodes to evaluate a detector on")
    return [fold for fold in folds if fold]


def _once(episodes: Sequence[Scored]) -> Counts:
    return np.ones((1, len(episodes)), np.int64)


def _drawn(episodes: Sequence[Scored], repeats: int, random: np.random.Generator) -> Counts:
    """How often each episode occurs in each of R resamples: tasks drawn, then as many episodes of each as it has."""
    by_task = list(_rows_by_task(episodes).values())
    counts_RM = np.zeros((repeats, len(episodes)), np.int64)
    for row_M in counts_RM:
        for task, times in enumerate(np.bincount(random.integers(len(by_task), size=len(by_task)))):
            rows = by_task[task]
            drawn = random.integers(len(rows), size=times * len(rows))
            row_M[rows] = np.bincount(drawn, minlength=len(rows))
    return counts_RM


def _rows_by_task(episodes: Sequence[Scored]) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for i, e in enumerate(episodes):
        out.setdefault(e.task, []).append(i)
    return out


@dataclass(frozen=True)
class Alarms:
    """What a band's alarms came to.

    Attributes:
        false_alarms, successes: successes with an alarm, out of how many.
        detected, failures: failures with an alarm, out of how many.
        balanced_accuracy: mean of the two rates that are right; NaN without both outcomes.
        mean_detection: mean time of the alarm over detected failures, as a share of the episode; NaN without any.
    """

    false_alarms: int
    successes: int
    detected: int
    failures: int
    balanced_accuracy: float
    mean_detection: float


def alarms(episodes: Sequence[Scored], band: Callable[[str], Band]) -> Alarms:
    """Alarms of the band of each episode's task."""
    at = [(e, band(e.task).first_alarm(e.scores)) for e in episodes]
    wins = [a for e, a in at if not e.failed]
    lost = [(e, a) for e, a in at if e.failed]
    false, found = sum(a is not None for a in wins), [(a + 1) / len(e.scores) for e, a in lost if a is not None]
    balanced = (1 - false / len(wins) + len(found) / len(lost)) / 2 if wins and lost else float("nan")
    return Alarms(false, len(wins), len(found), len(lost), balanced, float(np.mean(found)) if found else float("nan"))


def timestep_accuracy(episodes: Sequence[Scored], thresholds: NDArray[Any]) -> float:
    """Best balanced accuracy over thresholds when every step is judged by its own score against the outcome."""
    y = np.concatenate([np.full(len(e.scores), e.failed) for e in episodes])
    s = np.concatenate([e.scores for e in episodes])
    if y.all() or not y.any():
        return float("nan")
    order = np.sort(s[y]), np.sort(s[~y])
    right = 1 - np.searchsorted(order[0], thresholds, side="right") / y.sum()
    left = np.searchsorted(order[1], thresholds, side="right") / (~y).sum()
    return float(((right + left) / 2).max())


def _labels(episodes: Sequence[Scored]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    return np.array([e.failed for e in episodes], bool), np.array([e.peak for e in episodes], np.float64)
