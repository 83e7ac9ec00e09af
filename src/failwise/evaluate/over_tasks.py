"""Figures of detectors with intervals over tasks, by resampling tasks and the episodes inside each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from failwise.errors import DataError
from failwise.evaluate.detection import Counts, Scored, roc_aucs

Figure = Callable[[Sequence[Scored], Counts], NDArray[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """A figure with a percentile interval over resampled tasks; NaN bounds where there was one task only."""

    point: float
    lower: float
    upper: float
    n: int


def over_tasks(
    folds: Sequence[Sequence[Scored]], figure: Figure, *, repeats: int = 500, seed: int = 0, confidence: float = 0.95
) -> Estimate:
    """A figure, averaged over folds, with a bootstrap interval that draws tasks, then episodes inside each.

    Tasks differ more than episodes of one task do, so an interval over episodes alone would be too narrow. A task that
    is judged in several folds is drawn once for all of them, and so is an episode: counted apart, they would pass for
    further tasks. Scores of different folds come from detectors that were fitted apart, so they are never ranked
    against each other.

    Args:
        folds: the episodes of each fold.
        figure: ``roc_aucs`` for example; NaN where it is not defined, which leaves the fold out.
        repeats: bootstrap samples; 0 for the figure alone.
        seed: of the drawing.
        confidence: of the interval.

    Raises:
        DataError: no episodes.
    """
    if not any(folds):
        raise DataError("no episodes to evaluate a detector on")
    given = [fold for fold in folds if fold]
    whole = [float(figure(fold, np.ones((1, len(fold)), np.int64))[0]) for fold in given]
    defined = [x for x in whole if not np.isnan(x)]
    point = float(np.mean(defined)) if defined else float("nan")
    low = high = float("nan")
    if repeats and len({e.task for fold in given for e in fold}) > 1:
        drawn = _drawn(given, repeats, np.random.default_rng(seed))
        values_FR = np.stack([figure(fold, counts_RM) for fold, counts_RM in zip(given, drawn, strict=True)])
        defined_R = ~np.isnan(values_FR).all(0)
        if defined_R.any():
            means = np.nanmean(values_FR[:, defined_R], axis=0)
            low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Estimate(point, low, high, sum(map(len, given)))


def over_length(folds: Sequence[Sequence[Scored]], *, repeats: int = 500, seed: int = 0) -> Estimate:
    """How much the pooled ROC-AUC is above that of the steps so far, pairwise: both on the same resamples.

    Tasks differ so much that two intervals overlap long before it is open which of the two scores is the better one.
    """

    def gained(episodes: Sequence[Scored], counts_RM: Counts) -> NDArray[np.float64]:
        steps = [replace(e, scores=np.arange(1.0, len(e.scores) + 1)) for e in episodes]
        return roc_aucs(episodes, counts_RM) - roc_aucs(steps, counts_RM)

    return over_tasks(folds, gained, repeats=repeats, seed=seed)


def _drawn(folds: Sequence[Sequence[Scored]], repeats: int, random: np.random.Generator) -> list[Counts]:
    """How often each fold's episodes occur in each of R resamples: tasks drawn, then of each as many as it has."""
    columns: dict[tuple[str, str], int] = {}
    by_task: dict[str, list[int]] = {}
    places: list[list[int]] = []
    for number, fold in enumerate(folds):
        places.append([])
        for i, e in enumerate(fold):
            key = (e.task, e.episode or f"{number} {i}")
            if key not in columns:
                columns[key] = len(columns)
                by_task.setdefault(e.task, []).append(columns[key])
            places[-1].append(columns[key])
    counts_RU = np.zeros((repeats, len(columns)), np.int64)
    times_RK = random.multinomial(len(by_task), [1 / len(by_task)] * len(by_task), size=repeats)
    for times_R, rows in zip(times_RK.T, by_task.values(), strict=True):
        counts_RU[:, rows] = random.multinomial(times_R * len(rows), [1 / len(rows)] * len(rows))
    return [counts_RU[:, place] for place in places]
