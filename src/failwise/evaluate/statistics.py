"""Intervals, tests and planning for success rates. Pure functions of counts: no I/O, no randomness.

Notation of the paired functions: ``n`` pairs of episodes that share task and seed; ``won`` of them the arm
succeeded where the baseline did not, ``lost`` the other way round; the remaining pairs agree and carry no
sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import ceil, exp, log2, sqrt

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import betainc, betaincc, betainccinv, betaincinv, betaln, xlog1py, xlogy
from scipy.stats import binom, binomtest, norm
from statsmodels.stats.multitest import multipletests

_ROOT = 1e-11  # how close a limit comes to the root that defines it
_NEGLIGIBLE = 1e-14


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
    """Return the ``tail`` quantile of theta (2 b - 1) under the pessimistic confidence distributions.

    With b ~ Beta(won, lost + 1), whose density is f: theta has to be integrated out over b. A negative effect grows
    with theta, so there theta ~ Beta(discordant + 1, n - discordant), else Beta(discordant, n - discordant + 1).
    """
    discordant = lost + won
    not_better = float(binom.sf(won - 1, discordant, 0.5)) if won else 1.0  # P(b <= 1/2)
    if not_better > tail and discordant == n:  # theta = 1 is the pessimist's choice: b alone is left
        return 2 * float(betaincinv(won, lost + 1, tail)) - 1 if won else -1.0
    if not won:  # b = 0: the effect is -theta
        return -float(betainccinv(discordant + 1, n - discordant, tail))
    if not_better > tail:

        def excess(difference: float) -> float:
            """P(theta (2 b - 1) <= difference) - tail: only b below (1 + difference) / 2 reach that far."""
            return _mean_over_wins(
                lambda b: betaincc(discordant + 1, n - discordant, -difference / (1 - 2 * b)), lost, won,
                0.0, (1 + difference) / 2,
            ) - tail  # fmt: skip

        return float(brentq(excess, -1.0, 0.0, xtol=_ROOT))

    def shortfall(difference: float) -> float:
        """The same; where b is below (1 + difference) / 2, every theta will do."""
        certain = float(betainc(won, lost + 1, (1 + difference) / 2))
        return certain + _mean_over_wins(
            lambda b: betainc(discordant, n - discordant + 1, difference / (2 * b - 1)), lost, won,
            (1 + difference) / 2, 1.0,
        ) - tail  # fmt: skip

    return float(brentq(shortfall, 0.0, 1.0, xtol=_ROOT))


def _mean_over_wins(chance: Callable[[float], float], lost: int, won: int, lower: float, upper: float) -> float:
    """Integral of ``chance(b) f(b)`` from ``lower`` to ``upper``, f the density of Beta(won, lost + 1); won >= 1.

    Adaptive Gauss-Kronrod quadrature, absolute error below 1e-11. What lies outside the quantiles of 1e-14 is left
    out: a narrow density between far limits would be missed.
    """
    lower = max(lower, float(betaincinv(won, lost + 1, _NEGLIGIBLE)))
    upper = min(upper, float(betainccinv(won, lost + 1, _NEGLIGIBLE)))
    if upper <= lower:
        return 0.0
    scale = betaln(won, lost + 1)

    def weighted(b: float) -> float:
        return float(chance(b) * exp(xlogy(won - 1, b) + xlog1py(lost, -b) - scale))

    # At the end where every theta just reaches, chance may change within a sliver: shrinking steps find it.
    steps = [(upper - lower) * 10.0**-k for k in range(1, 6)]
    points = [lower + step for step in steps] if lower > 0.5 else [upper - step for step in steps]
    return float(quad(weighted, lower, upper, epsabs=1e-12, epsrel=1e-11, limit=400, points=points)[0])


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values, in the given order (Scandinavian Journal of Statistics 1979).

    Comparing each with the level bounds the chance of any false rejection in the family, whatever the
    dependence.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)}")
    if not p_values:
        return ()
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
