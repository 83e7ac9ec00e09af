"""Bands that a success crosses with a probability of at most alpha, from a finite number of successes.

Split conformal prediction over whole episodes: a band's width is a quantile of the calibration episodes' *largest*
exceedances, so that the bound holds for the episode as a whole and not for a step of it. It needs no more than
exchangeability: the calibration successes and the success to come are drawn alike. That is true for new episodes of the
same tasks and policy; it is not for other tasks, where the coverage has to be measured, or weights given.

Sources: functional bands and their modulation, Diquigiovanni et al. (arXiv 2102.06746); for robot policies, FAIL-Detect
(arXiv 2503.08558) and SAFE (arXiv 2506.09937); weights, Tibshirani et al. (arXiv 1904.06019). The quantile here is the
``ceil((n + 1)(1 - alpha))``-th smallest of n values; the n-th part without the ``+ 1`` covers too little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from failwise.errors import DataError, SetupError

UNREACHABLE = 1e300  # stands for an infinite bound in files, since JSON has no infinity
MEAN_SHARE = 0.3  # of the successes give mean and modulation, the others the width


def smallest_n(alpha: float) -> int:
    """How many exchangeable values a finite bound at level ``alpha`` needs: with fewer, the quantile is infinite."""
    _check_alpha(alpha)
    # ceil((n + 1)(1 - alpha)) <= n; the loop settles what rounding leaves open
    n = max(1, math.floor(1 / alpha) - 2)
    while _rank(n, alpha) > n:
        n += 1
    return n


def conformal_quantile(values: NDArray[Any], alpha: float) -> float:
    """The value that a further exchangeable one exceeds with a probability of at most ``alpha``.

    Returns:
        The ``ceil((n + 1)(1 - alpha))``-th smallest of the n values; inf where that is beyond the n-th.

    Raises:
        DataError: no values, or NaN among them.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
        raise DataError(f"a conformal quantile needs at least one value and no NaN, got {values.shape}")
    rank = _rank(len(values), alpha)
    return float(np.sort(values)[rank - 1]) if rank <= len(values) else math.inf


def weighted_quantile(values: NDArray[Any], weights: NDArray[Any], new_weight: float, alpha: float) -> float:
    """The same under covariate shift: weights are likelihood ratios of the new episode's distribution to each value's.

    Args:
        values: (n,) of the calibration episodes.
        weights: (n,), not negative.
        new_weight: of the episode to be judged; its own mass counts as infinitely large a value.
        alpha: level.

    Raises:
        DataError: shapes differ, a weight is negative or not finite, or a value is NaN.
    """
    _check_alpha(alpha)
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if values.shape != weights.shape or values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise DataError(f"weighted quantile: {values.shape} values without NaN need as many weights, {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and math.isfinite(new_weight) and new_weight >= 0):
        raise DataError("weights must be finite and not negative")
    order = np.argsort(values, kind="stable")
    mass = np.cumsum(weights[order]) / (weights.sum() + new_weight)
    reached = np.flatnonzero(mass >= 1 - alpha - 1e-12)
    return float(values[order][reached[0]]) if len(reached) else math.inf


@dataclass(frozen=True)
class Band:
    """An upper bound over time, ``upper(t) = mean_t + width * scale_t``; beyond its end it stays as at the end.

    Attributes:
        mean, scale: float64 (T,); scale is positive.
        width: the conformal quantile; inf where there were too few successes for any bound.
        alpha: nominal rate of false alarms over episodes.
        n: calibration successes that the width rests on. n_mean: those that mean and scale rest on.
        task: the task it is for, "" for all tasks together.
        reactions: (first step, "stop" or "ask") of each phase, where they were learned; else empty.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    width: float
    alpha: float
    n: int
    n_mean: int
    task: str = ""
    reactions: tuple[tuple[int, str], ...] = ()

    def reaction(self, step: int) -> Literal["stop", "ask"]:
        """What was learned to do at an alarm at a step; a band without ``reactions`` stops."""
        learned = next((what for start, what in reversed(self.reactions) if start <= step), "stop")
        return "ask" if learned == "ask" else "stop"

    @property
    def vacuous(self) -> bool:
        """Whether it can never be crossed, because the successes were too few for this alpha."""
        return math.isinf(self.width)

    def upper(self, step: int) -> float:
        """The bound at a step."""
        at = min(step, len(self.mean) - 1)
        bound = float(self.mean[at] + self.width * self.scale[at])
        return math.copysign(math.inf, bound) if abs(bound) >= UNREACHABLE else bound

    def crossed(self, step: int, score: float) -> bool:
        """Whether a score is above the bound: by the very ratio that the width was taken from.

        ``score > upper(step)`` may round differently, and would then raise an alarm for a mere tie.
        """
        at = min(step, len(self.mean) - 1)
        return bool((score - self.mean[at]) / self.scale[at] > self.width)

    def exceedance(self, scores_T: NDArray[Any]) -> float:
        """The largest ``(s_t - mean_t) / scale_t`` of an episode; an alarm is an exceedance above the width.

        Raises:
            DataError: no scores, or a score that is not finite.
        """
        scores = _finite(scores_T)
        at = np.minimum(np.arange(len(scores)), len(self.mean) - 1)
        return float(np.max((scores - self.mean[at]) / self.scale[at]))

    def first_alarm(self, scores_T: NDArray[Any]) -> int | None:
        """The first step whose score is above the bound, or None."""
        scores = _finite(scores_T)
        at = np.minimum(np.arange(len(scores)), len(self.mean) - 1)
        above = np.flatnonzero((scores - self.mean[at]) / self.scale[at] > self.width)
        return int(above[0]) if len(above) else None


@dataclass(frozen=True)
class Shift:
    """How much likelier each calibration success is among the episodes to come than among those that calibrate.

    Attributes:
        weights: (n,) likelihood ratios, one a success. new_weight: that of an episode to come; the largest that is to
            be expected keeps the bound for all of them.
    """

    weights: NDArray[np.float64]
    new_weight: float

    def of(self, rows: Sequence[int] | NDArray[np.int64]) -> Shift:
        """The same for some of the successes."""
        return Shift(self.weights[np.asarray(rows, np.int64)], self.new_weight)

    @property
    def effective(self) -> int:
        """As many equally likely successes would say as much: ``(sum w)^2 / sum w^2``."""
        return int(self.weights.sum() ** 2 / max(float((self.weights**2).sum()), 1e-300))


def functional_band(
    successes: Sequence[NDArray[Any]], alpha: float, *, seed: int = 0, task: str = "", shift: Shift | None = None
) -> Band:
    """A band that follows the scores of successes over time.

    A part of the successes (30%, fewer where the rest would not suffice for a finite bound) gives mean and modulation,
    the others the width. Episodes that ended keep their last score for the mean; the width counts every episode for as
    long as it ran.

    Args:
        successes: float (T_i,) scores a step of each success.
        alpha: rate of false alarms over episodes, in (0, 1).
        seed: of the random split.
        task: the task that the episodes are of.
        shift: where the episodes to come are distributed otherwise; its weights are of ``successes``, in order.

    Raises:
        DataError: fewer than two successes, an empty one, or a score that is not finite.
    """
    _check_alpha(alpha)
    scores = [_finite(s) for s in successes]
    if len(scores) < 2:
        raise DataError(f"a band needs at least 2 successes, got {len(scores)}; collect more episodes")
    n_mean = _mean_part(len(scores), alpha)
    order = np.random.default_rng(seed).permutation(len(scores))
    shape, rest = [scores[i] for i in order[:n_mean]], [scores[i] for i in order[n_mean:]]
    longest = max(map(len, scores))
    held = np.stack([np.concatenate([s, np.full(longest - len(s), s[-1])]) for s in shape])
    mean = held.mean(0)
    spread = np.abs(held - mean).max(0)
    # A scale of zero (one episode, or scores that are all alike) would make every exceedance infinite.
    floor = max(float(np.median(spread)), 1e-3 * float(np.abs(mean).max()), 1e-9)
    shift = None if shift is None else shift.of(order[n_mean:])
    n = len(rest) if shift is None else shift.effective
    band = Band(mean, np.maximum(spread, floor), 0.0, alpha, n, n_mean, task)
    width = _quantile(np.array([band.exceedance(s) for s in rest]), alpha, shift)
    return Band(band.mean, band.scale, width, alpha, n, n_mean, task)


def constant_band(
    successes: Sequence[NDArray[Any]], alpha: float, *, task: str = "", shift: Shift | None = None
) -> Band:
    """One threshold for all times, from the successes' largest scores; arguments as of ``functional_band``.

    Raises:
        DataError: no successes, an empty one, or a score that is not finite.
    """
    _check_alpha(alpha)
    if not successes:
        raise DataError("a band needs at least 1 success, got none; collect more episodes")
    largest = np.array([_finite(s).max() for s in successes])
    n = len(largest) if shift is None else shift.effective
    return Band(np.zeros(1), np.ones(1), _quantile(largest, alpha, shift), alpha, n, 0, task)


def _quantile(values: NDArray[np.float64], alpha: float, shift: Shift | None) -> float:
    if shift is None:
        return conformal_quantile(values, alpha)
    return weighted_quantile(values, shift.weights, shift.new_weight, alpha)


def _mean_part(n: int, alpha: float) -> int:
    """Successes that may be spent on mean and scale."""
    wanted = max(1, int(MEAN_SHARE * n))
    return max(1, min(wanted, n - smallest_n(alpha)))


def _rank(n: int, alpha: float) -> int:
    """``ceil((n + 1)(1 - alpha))``, immune to a product that rounding put just above an integer."""
    _check_alpha(alpha)
    return max(1, math.ceil((n + 1) * (1 - alpha) - 1e-9))


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise SetupError(f"alpha is a rate of false alarms between 0 and 1, not {alpha}")


def _finite(scores: NDArray[Any]) -> NDArray[np.float64]:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise DataError(f"an episode's scores are one number a step, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise DataError(f"score {scores[~np.isfinite(scores)][0]} at step {np.flatnonzero(~np.isfinite(scores))[0]}")
    return scores
