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
    y, s = _labels(episodes)
    if y.all() or not y.any():
        return float("nan")
    wins, lost = np.sort(s[~y]), s[y]
    below_or_tied = np.searchsorted(wins, lost, "left") + np.searchsorted(wins, lost, "right")
    return float(below_or_tied.mean() / (2 * len(wins)))


def within_tasks(episodes: Sequence[Scored]) -> float:
    """Mean over tasks of the ROC-AUC among the episodes of each; NaN where no task has both outcomes.

    Pooled, a score that only told the tasks apart would do better than chance wherever tasks differ in difficulty: so
    does ``length`` by earliest stop, which is then one number a task. Within a task it cannot.
    """
    values = [x for x in map(roc_auc, _by_task(episodes).values()) if not np.isnan(x)]
    return float(np.mean(values)) if values else float("nan")


def pr_auc(episodes: Sequence[Scored]) -> float:
    """Average precision, failures positive; NaN without both outcomes."""
    from sklearn.metrics import average_precision_score

    y, s = _labels(episodes)
    return float("nan") if y.all() or not y.any() else float(average_precision_score(y, s))


def summarised(episodes: Sequence[Scored]) -> list[Scored]:
    """Each episode with its largest score alone: all that ROC- and PR-AUC read, and quick to resample."""
    return [Scored(e.task, e.failed, e.scores.max(keepdims=True)) for e in episodes]


def early_auc(episodes: Sequence[Scored], share: float) -> float:
    """ROC-AUC when only ``share`` of the task's shortest episode has been seen."""
    cut = [
        Scored(e.task, e.failed, e.scores[: max(1, round(share * len(e.scores)))]) for e in at_earliest_stop(episodes)
    ]
    return roc_auc(cut)


def over_tasks(
    folds: Sequence[Sequence[Scored]], figure: Callable[[Sequence[Scored]], float], *, repeats: int = 500,
    seed: int = 0, confidence: float = 0.95,
) -> Estimate:  # fmt: skip
    """A figure, averaged over folds, with a bootstrap interval that draws tasks, then episodes inside each.

    Tasks differ more than episodes of one task do, so an interval over episodes alone would be too narrow. Scores of
    different folds come from detectors that were fitted apart, so they are never ranked against each other.

    Args:
        folds: the episodes of each fold.
        figure: of one fold's episodes; NaN where it is not defined, which leaves the fold out.
        repeats: bootstrap samples; 0 for the figure alone.
        seed: of the drawing.
        confidence: of the interval.

    Raises:
        DataError: no episodes.
    """
    if not any(folds):
        raise DataError("no episodes to evaluate a detector on")
    by_task = [_by_task(fold) for fold in folds if fold]
    random = np.random.default_rng(seed)

    def draw(tasks: dict[str, list[Scored]]) -> list[Scored]:
        sample: list[Scored] = []
        for name in random.choice(sorted(tasks), len(tasks)):
            mine = tasks[str(name)]
            sample += [mine[i] for i in random.integers(len(mine), size=len(mine))]
        return sample

    def average(samples: Sequence[Sequence[Scored]]) -> float:
        values = [x for x in map(figure, samples) if not np.isnan(x)]
        return float(np.mean(values)) if values else float("nan")

    enough = all(len(tasks) > 1 for tasks in by_task)
    drawn = [average([draw(tasks) for tasks in by_task]) for _ in range(repeats if enough else 0)]
    kept = [x for x in drawn if not np.isnan(x)]
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2]) if kept else (np.nan, np.nan)
    return Estimate(average([fold for fold in folds if fold]), float(low), float(high), sum(map(len, folds)))


def _by_task(episodes: Sequence[Scored]) -> dict[str, list[Scored]]:
    out: dict[str, list[Scored]] = {}
    for e in episodes:
        out.setdefault(e.task, []).append(e)
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
