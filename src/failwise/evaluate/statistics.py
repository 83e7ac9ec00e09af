"""Intervals, tests and planning for success rates. Pure functions of counts: no I/O, no randomness.

Notation of the paired functions: ``n`` pairs of episodes that share task and seed; ``won`` of them the arm
succeeded where the baseline did not, ``lost`` the other way round; the remaining pairs agree and carry no
sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import ceil, log2, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betainccinv, betaincinv, betaln, ndtri, xlog1py, xlogy
from scipy.stats import binom, binomtest, norm
from statsmodels.stats.multitest import multipletests

_FINE_NODES, _FINE = np.polynomial.legendre.leggauss(20)
_COARSE_NODES, _COARSE = np.polynomial.legendre.leggauss(12)
_NODES = np.concatenate([_FINE_NODES, _COARSE_NODES])
_PANEL_ERROR = 1e-13  # the limits' error is this over the density at the limit, about 1e-11
_HALVINGS = 60
_SPLITS = np.array([1e-16, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-16])  # quantiles between which a Beta density is tame
_TINY = 1e-300


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval.

    Attributes:
        point: the estimate.
        lower: lower limit; ``upper``: upper limit; ``lower <= point <= upper``.
        confidence: nominal level in (0, 1).
        method: the construction, in words.
    """

    point: float
    lower: float
    upper: float
    confidence: float
    method: str


@dataclass(frozen=True)
class TestResult:
    """A two-sided test. ``p_value`` in (0, 1]; ``method`` in words."""

    __test__ = False  # not a pytest class

    p_value: float
    method: str


def _check_counts(successes: int, n: int, confidence: float) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")


@lru_cache(maxsize=4096)
def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a binomial proportion (Clopper and Pearson, Biometrika 1934).

    Covers at least ``confidence`` for every n and p. Weak region: conservative, most of all for small n and
    p near 0 or 1, where it may cover .99 and more at a nominal .95.

    Raises:
        ValueError: counts or confidence out of range.
    """
    _check_counts(successes, n, confidence)
    limits = binomtest(successes, n).proportion_ci(confidence, method="exact")
    return Interval(successes / n, float(limits.low), float(limits.high), confidence, "Clopper-Pearson")


@lru_cache(maxsize=4096)
def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a binomial proportion (Wilson, JASA 1927): near-nominal coverage on average.

    Weak region: not guaranteed; for p near 0 or 1 the coverage dips (to about .84 at a nominal .95).

    Raises:
        ValueError: counts or confidence out of range.
    """
    _check_counts(successes, n, confidence)
    limits = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(successes / n, float(limits.low), float(limits.high), confidence, "Wilson")


@lru_cache(maxsize=4096)
def mcnemar_exact(lost: int, won: int) -> TestResult:
    """Exact McNemar test that both arms succeed equally often: ``won`` against a fair coin, two-sided.

    The size is at most the level for every n and every share of discordant pairs (conditional test; McNemar,
    Psychometrika 1947). Weak region: conservative when few pairs are discordant; with fewer than 6 of them
    it can never reach .05. Pooled over tasks it stays valid: under the null hypothesis every discordant pair
    is a fair coin, whatever its task.

    Raises:
        ValueError: a negative count.
    """
    if lost < 0 or won < 0:
        raise ValueError(f"counts must not be negative, got lost={lost}, won={won}")
    discordant = lost + won
    p = binomtest(won, discordant, 0.5).pvalue if discordant else 1.0
    return TestResult(float(p), "exact McNemar")


@lru_cache(maxsize=4096)
def paired_difference(lost: int, won: int, n: int, confidence: float = 0.95) -> Interval:
    """Interval of arm minus baseline, as success rates, that never contradicts ``mcnemar_exact``.

    Melds the Clopper-Pearson confidence distributions of the share of discordant pairs (theta) and of the
    share of wins among them (b) into one for theta (2 b - 1) (Fay and Lumbard, Statistics in Medicine 2021).
    It excludes zero if and only if the exact McNemar test rejects at ``1 - confidence``. Coverage of at
    least ``confidence`` is
    established numerically, not proven. Weak regions: conservative for n under about 30 or few discordant
    pairs. Pairs drawn from a fixed set of tasks (strata) vary less than the model assumes, so the interval
    is then conservative for the mean over that set; it says nothing about tasks outside it.

    Returns:
        point ``(won - lost) / n`` with limits in [-1, 1].

    Raises:
        ValueError: counts or confidence out of range.
    """
    _check_counts(lost + won, n, confidence)
    if lost < 0 or won < 0:
        raise ValueError(f"counts must not be negative, got lost={lost}, won={won}")
    tail = (1 - confidence) / 2
    lower = _melded_lower(lost, won, n, tail)
    upper = -_melded_lower(won, lost, n, tail)
    return Interval((won - lost) / n, lower, upper, confidence, "melded, matches exact McNemar")


def _melded_lower(lost: int, won: int, n: int, tail: float) -> float:
    """Return the ``tail`` quantile of theta (2 b - 1) under the pessimistic confidence distributions, to 1e-10.

    With the density f of theta and the distribution function F of b, the equation to be solved for the quantile d is

        integral over (0, 1) of f(theta) F((1 + d / theta) / 2) dtheta = tail,    F(x) = 0 for x < 0, 1 for x > 1.

    Over theta the integrand stays smooth when d goes to 0; over b it would get a step at 1/2.
    """
    discordant = lost + won
    not_better = float(binom.sf(won - 1, discordant, 0.5)) if won else 1.0  # P(b <= 1/2)
    negative = not_better > tail
    if negative and discordant == n:  # theta = 1 is the pessimist's choice: b alone is left
        return 2 * float(betaincinv(won, lost + 1, tail)) - 1 if won else -1.0
    if negative and not won:  # b = 0 is the pessimist's choice: theta alone is left
        return -float(betainccinv(discordant + 1, n - discordant, tail))
    # A negative effect grows with theta, so the upper distribution is the pessimistic one; a positive one the lower.
    shape = (discordant + 1, n - discordant) if negative else (discordant, n - discordant + 1)
    edges = betaincinv(*shape, _SPLITS)
    log_scale = betaln(*shape)

    def below(difference: float) -> float:
        """P(theta (2 b - 1) <= difference); theta below ``abs(difference)`` puts F to 0 or to 1."""
        first = abs(difference)
        if first >= edges[-1]:
            return 0.0 if negative else 1.0

        def integrand(theta: NDArray[np.float64]) -> NDArray[np.float64]:
            log_density = xlogy(shape[0] - 1, theta) + xlog1py(shape[1] - 1, -theta) - log_scale
            share = np.clip((1 + difference / theta) / 2, 0.0, 1.0)
            return np.asarray(np.exp(log_density) * betainc(won, lost + 1, share))

        inside = edges[edges > first]
        panels = inside if len(inside) == len(edges) else np.append(first, inside)
        certain = 0.0 if negative else float(betainc(*shape, panels[0]))
        return certain + _integral(integrand, panels)

    # In normal scores the distribution function is almost a straight line, on which a root takes few steps.
    target = float(ndtri(tail))

    def excess(difference: float) -> float:
        return float(ndtri(min(max(below(difference), _TINY), 1 - 1e-16))) - target

    ends = (-1.0, 0.0) if negative else (0.0, 1.0)
    return float(brentq(excess, *ends, xtol=1e-12))


def _integral(integrand: Callable[[NDArray[np.float64]], NDArray[np.float64]], edges: NDArray[np.float64]) -> float:
    """Integrate over the panels between ``edges``; those on which two Gauss-Legendre rules differ are halved.

    Args:
        integrand: takes and returns float64 (P, N): N nodes in each of P panels.
        edges: ascending, float64 (P + 1,).
    """
    total, left, right = 0.0, edges[:-1], edges[1:]
    for _ in range(_HALVINGS):
        half, middle = (right - left) / 2, (left + right) / 2
        values = integrand(middle[:, None] + half[:, None] * _NODES)
        fine = half * (values[:, : len(_FINE)] @ _FINE)
        agrees = np.abs(half * (values[:, len(_FINE) :] @ _COARSE) - fine) <= _PANEL_ERROR
        total += float(fine[agrees].sum())
        if agrees.all():
            return total
        left, middle, right = left[~agrees], middle[~agrees], right[~agrees]
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    return total + float(fine[~agrees].sum())


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values, in the given order (Scandinavian Journal of Statistics 1979).

    Comparing each with the level bounds the chance of any false rejection in the family, whatever the
    dependence.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)}")
    if len(p_values) <= 1:  # a family of one; the library below collects all garbage at each call
        return tuple(float(p) for p in p_values)
    return tuple(float(p) for p in multipletests(p_values, method="holm")[1])


def smallest_decisive_n(level: float = 0.05) -> int:
    """Fewest pairs with which the exact McNemar test can reject at ``level`` at all (6 at .05)."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return max(1, ceil(1 - log2(level) - 1e-12))


def mcnemar_power(n: int, difference: float, discordant: float, level: float = 0.05) -> float:
    """Exact unconditional power of ``mcnemar_exact`` with ``n`` independent pairs.

    Args:
        n: pairs.
        difference: true difference in success rate, in (-1, 1).
        discordant: true share of discordant pairs, in [abs(difference), 1].
        level: of the two-sided test.

    Returns:
        Probability that the test rejects in the direction of ``difference``, in [0, 1].

    Raises:
        ValueError: no such pair of shares.
    """
    if n < 1 or not 0 < abs(difference) <= discordant <= 1:
        raise ValueError(f"need n >= 1 and 0 < |difference| <= discordant <= 1, got {n}, {difference}, {discordant}")
    m = np.arange(n + 1)
    wins = (1 + abs(difference) / discordant) / 2
    critical = binom.isf(level / 2, m, 0.5) + 1  # smallest count with upper tail <= level / 2
    return float(binom.pmf(m, n, discordant) @ binom.sf(critical - 1, m, wins))


LARGE = 20_000  # pairs, above which exact power takes minutes


@cache
def pairs_needed(difference: float, discordant: float, power: float = 0.8, level: float = 0.05) -> int:
    """About how many pairs show ``difference`` with ``power``: the first n whose exact power reaches it.

    Searched upwards from below Connor's normal approximation (Biometrics 1987). Power climbs in small teeth,
    so a slightly larger n may fall short of ``power`` again by a hair. Above 20,000 pairs the approximation itself is
    returned: exact power takes minutes there, and differs by less than a per cent.

    Args:
        difference: true difference in success rate, not zero, in (-1, 1).
        discordant: true share of discordant pairs; raised to ``abs(difference)`` where it is smaller.
        power: wanted, in (0, 1).
        level: of the two-sided test.

    Raises:
        ValueError: ``difference`` is zero or out of range, or ``power`` is.
    """
    if not 0 < abs(difference) <= 1 or not 0 < power < 1:
        raise ValueError(f"need 0 < |difference| <= 1 and 0 < power < 1, got {difference}, {power}")
    share = min(1.0, max(discordant, abs(difference)))
    spread = norm.isf(level / 2) * sqrt(share) + norm.isf(1 - power) * sqrt(max(share - difference**2, 0.0))
    about: int = ceil((spread / difference) ** 2)
    if about > LARGE:
        return about
    n = max(smallest_decisive_n(level), int(0.95 * about))
    while mcnemar_power(n, difference, share, level) < power:
        n += max(1, n // 200)
    return n
