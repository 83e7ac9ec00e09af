"""Intervals and tests against their definitions, by exact enumeration of every possible result."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy.stats import beta, binom, multinomial

from failwise.evaluate import statistics as st

SMALL = 14


@pytest.mark.parametrize("n", [1, 5, 14, 40])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_clopper_pearson_covers_at_least_its_confidence_for_every_p(n: int, confidence: float) -> None:
    k = np.arange(n + 1)
    limits = np.array([(i.lower, i.upper) for i in (st.clopper_pearson(int(x), n, confidence) for x in k)])
    ends = np.concatenate([limits.ravel() - 1e-9, limits.ravel() + 1e-9, np.linspace(0, 1, 201)])
    for p in np.clip(ends, 0, 1):  # coverage has its minima next to the limits themselves
        inside = (limits[:, 0] <= p) & (p <= limits[:, 1])
        assert binom.pmf(k, n, p)[inside].sum() >= confidence - 1e-7


@given(n=some.integers(1, 200), data=some.data(), confidence=some.floats(0.5, 0.999))
@settings(max_examples=80, deadline=None)
def test_clopper_pearson_limits_solve_their_defining_equations(n, data, confidence) -> None:
    k = data.draw(some.integers(0, n))
    found, tail = st.clopper_pearson(k, n, confidence), (1 - confidence) / 2
    assert found.lower <= found.point <= found.upper
    assert found.lower == 0 if k == 0 else binom.sf(k - 1, n, found.lower) == pytest.approx(tail, rel=1e-5)
    assert found.upper == 1 if k == n else binom.cdf(k, n, found.upper) == pytest.approx(tail, rel=1e-5)


def test_wilson_limits_solve_the_score_equation_and_cover_nearly() -> None:
    n, z = 30, 1.959963984540054
    k = np.arange(n + 1)
    found = [st.wilson(int(x), n) for x in k]
    for x, interval in zip(k[1:-1], found[1:-1], strict=True):
        for p in (interval.lower, interval.upper):
            assert abs(x / n - p) == pytest.approx(z * np.sqrt(p * (1 - p) / n), rel=1e-6)
    grid = np.linspace(0.001, 0.999, 999)
    coverage = np.array(
        [sum(binom.pmf(x, n, p) for x, i in zip(k, found, strict=True) if i.lower <= p <= i.upper) for p in grid]
    )
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)
    assert 0.82 < coverage.min() < 0.95  # the weak region that the docstring admits


def exact_p(lost: int, won: int) -> Fraction:
    m = lost + won
    as_extreme = [k for k in range(m + 1) if abs(2 * k - m) >= abs(won - lost)]
    return sum((Fraction(comb(m, k), 2**m) for k in as_extreme), Fraction(0))


def test_mcnemar_is_the_two_sided_binomial_test_by_enumeration() -> None:
    for lost, won in product(range(SMALL), repeat=2):
        assert st.mcnemar_exact(lost, won).p_value == pytest.approx(float(exact_p(lost, won)), rel=1e-12)


@pytest.mark.parametrize("n", [5, 6, 10, 14])
@pytest.mark.parametrize("level", [0.05, 0.2])
def test_mcnemar_rejects_a_true_null_hypothesis_at_most_at_its_level(n: int, level: float) -> None:
    outcomes = [(lost, won) for lost in range(n + 1) for won in range(n + 1 - lost)]
    rejects = np.array([st.mcnemar_exact(lost, won).p_value <= level for lost, won in outcomes])
    counts = [(lost, won, n - lost - won) for lost, won in outcomes]
    for discordant in np.linspace(0, 1, 51):
        chance = multinomial.pmf(counts, n, [discordant / 2, discordant / 2, 1 - discordant])
        assert chance[rejects].sum() <= level + 1e-12


def test_the_fewest_decisive_pairs_are_those_with_which_some_result_rejects() -> None:
    for level in (0.5, 0.2, 0.1, 0.05, 0.01, 0.001):
        least = st.smallest_decisive_n(level)
        assert st.mcnemar_exact(0, least).p_value <= level
        assert least == 1 or st.mcnemar_exact(0, least - 1).p_value > level
    assert st.smallest_decisive_n(0.05) == 6


@pytest.mark.parametrize("n", [1, 3, 7, 12])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_paired_difference_covers_at_least_its_confidence(n: int, confidence: float) -> None:
    outcomes = [(lost, won) for lost in range(n + 1) for won in range(n + 1 - lost)]
    found = [st.paired_difference(lost, won, n, confidence) for lost, won in outcomes]
    lower, upper = np.array([i.lower for i in found]), np.array([i.upper for i in found])
    counts = [(lost, won, n - lost - won) for lost, won in outcomes]
    worst = 1.0
    for p_lost in np.linspace(0, 1, 26):
        for p_won in np.linspace(0, 1 - p_lost, 26):
            chance = multinomial.pmf(counts, n, [p_lost, p_won, max(0.0, 1 - p_lost - p_won)])
            inside = (lower - 1e-9 <= p_won - p_lost) & (p_won - p_lost <= upper + 1e-9)
            worst = min(worst, chance[inside].sum())
    assert worst >= confidence


@given(lost=some.integers(0, 60), won=some.integers(0, 60), agree=some.integers(0, 400))
@settings(max_examples=150, deadline=None)
def test_paired_difference_excludes_zero_exactly_when_the_test_rejects(lost, won, agree) -> None:
    n = lost + won + agree
    if n == 0:
        return
    for confidence in (0.9, 0.95, 0.99):
        found = st.paired_difference(lost, won, n, confidence)
        assert -1 <= found.lower <= found.point <= found.upper <= 1
        excludes = found.lower > 0 or found.upper < 0
        assert excludes == (st.mcnemar_exact(lost, won).p_value <= 1 - confidence)
        mirror = st.paired_difference(won, lost, n, confidence)
        assert (mirror.lower, mirror.upper) == (-found.upper, -found.lower)


def melded_chance(difference: float, lost: int, won: int, n: int) -> float:
    """P(theta (2 b - 1) <= difference) by its definition, integrated over theta instead of over b, on fine panels."""
    m = lost + won
    theta = beta(m, n - m + 1) if difference > 0 else beta(m + 1, n - m)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    lower, upper = (max(abs(difference), theta.ppf(1e-15)), theta.ppf(1 - 1e-15)) if m < n or difference > 0 else (0, 1)
    edges = np.linspace(lower, max(upper, lower), 2001)
    half = np.diff(edges)[:, None] / 2
    t = edges[:-1, None] + half * (nodes + 1)
    reached = beta(won, lost + 1).cdf((1 + difference / t) / 2)
    below = float((half * weights * theta.pdf(t) * reached).sum())
    return below + (float(theta.cdf(lower)) if difference > 0 else 0.0)


CASES = [
    (3, 9, 40), (60, 130, 600), (2, 4, 7), (9, 2, 15), (1, 1, 30), (0, 7, 30), (0, 20, 20), (0, 10, 10), (1, 9, 10),
    (0, 1, 1000), (200, 300, 1000), (5, 40, 2000),
]  # fmt: skip


@pytest.mark.parametrize(("lost", "won", "n"), CASES)
def test_melded_limits_solve_their_definition_to_a_billionth(lost: int, won: int, n: int) -> None:
    """On either side of a limit, 1e-9 away, the chance lies on its own side of the tail."""
    found = st.paired_difference(lost, won, n)
    for limit, (fewer, more) in ((found.lower, (lost, won)), (-found.upper, (won, lost))):
        if more == 0:  # nothing to integrate: see the closed forms below
            continue
        if fewer + more == n and limit <= 0:
            continue
        below, above = (melded_chance(limit + step, fewer, more, n) for step in (-1e-9, 1e-9))
        assert below < 0.025 < above or below == pytest.approx(0.025, abs=2e-11), (limit, below, above)


def test_melded_limits_in_closed_form() -> None:
    assert st.paired_difference(0, 20, 20).lower == pytest.approx(0.6209054892674, abs=1e-9)
    # Nobody wins: the effect is minus the share of discordant pairs, whose limits are Clopper and Pearson's.
    for lost, n in ((0, 20), (3, 20), (1, 1000)):
        worst = st.paired_difference(lost, 0, n).lower
        assert worst == pytest.approx(-st.clopper_pearson(lost, n).upper, abs=1e-12)
    # All pairs are discordant and the test does not reject: only the share of wins is left.
    assert st.paired_difference(4, 6, 10).lower == pytest.approx(2 * st.clopper_pearson(6, 10).lower - 1, abs=1e-12)
    for lost, won, n in CASES:
        one, other = st.paired_difference(lost, won, n), st.paired_difference(won, lost, n)
        assert (one.lower, one.upper) == (-other.upper, -other.lower)


@pytest.mark.parametrize("n", [6, 8, 20, 50])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_limit_of_a_clean_sweep_is_the_root_of_its_polynomial(n: int, confidence: float) -> None:
    """All of n pairs are won: b ~ Beta(n, 1) and theta ~ Beta(n, 1), whose integral is a finite sum.

    P(theta (2 b - 1) <= d) = d^n + n 2^-n (d^n log(1/d) + sum over k of C(n, k) d^(n-k) (1 - d^k) / k), k from 1 to n.
    """
    d, k = st.paired_difference(0, n, n, confidence).lower, np.arange(1, n + 1)
    binomials = np.array([comb(n, int(j)) for j in k], np.float64)
    tails = d**n * np.log(1 / d) + (binomials * d ** (n - k) * (1 - d**k) / k).sum()
    slope = 2 * (1 - confidence) / (1 - d)  # at most about the density there; 1e-9 in d is far below it
    assert d**n + n * 0.5**n * tails == pytest.approx((1 - confidence) / 2, abs=slope * 1e-10)


def test_limits_of_every_size_agree_with_fine_panels() -> None:
    rng = np.random.default_rng(1)
    nodes, weights = np.polynomial.legendre.leggauss(30)
    for n in (1, 2, 7, 40, 400, 1000, 20_000):
        lost = int(rng.integers(0, n))
        won = int(rng.integers(1, n - lost + 1))
        for confidence in (0.8, 0.95, 0.999):
            d, m = st.paired_difference(lost, won, n, confidence).lower, lost + won
            if m == n and d <= 0:
                continue  # a closed form: see above
            theta = beta(m, n - m + 1) if d > 0 else beta(m + 1, n - m)
            edges = np.linspace(max(abs(d), theta.ppf(1e-16)), max(abs(d), theta.isf(1e-16)), 501)
            half = np.diff(edges)[:, None] / 2
            t = edges[:-1, None] + half * (nodes + 1)
            reached = beta(won, lost + 1).cdf((1 + d / t) / 2)
            chance = float((half * weights * theta.pdf(t) * reached).sum()) + (theta.cdf(edges[0]) if d > 0 else 0.0)
            assert chance == pytest.approx((1 - confidence) / 2, abs=1e-11), (lost, won, n, confidence)


def test_an_interval_takes_few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page computes hundreds of intervals: what a limit costs is counted in values of the beta distribution."""
    nodes, once = [0], st.betainc

    def counted(*arguments):
        nodes[0] += np.size(arguments[-1])
        return once(*arguments)

    monkeypatch.setattr(st, "betainc", counted)
    for lost, won, n in [*CASES, (300, 310, 1000), (3, 3, 1000), (5000, 5300, 100_000)]:
        nodes[0] = 0
        st._melded_lower(lost, won, n, 0.025)
        assert nodes[0] <= 4000, (lost, won, n, nodes[0])


def test_no_discordant_pair_leaves_what_clopper_pearson_says_about_discordance() -> None:
    found = st.paired_difference(0, 0, 20)
    assert found.upper == pytest.approx(st.clopper_pearson(0, 20).upper, abs=1e-6)
    assert found.lower == -found.upper


def test_holm_by_its_definition() -> None:
    assert st.holm([]) == ()
    assert st.holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    rng = np.random.default_rng(0)
    for _ in range(30):
        p = rng.uniform(size=rng.integers(1, 8))
        order, adjusted, running = np.argsort(p), np.empty(len(p)), 0.0
        for rank, index in enumerate(order):
            running = max(running, min(1.0, (len(p) - rank) * p[index]))
            adjusted[index] = running
        assert st.holm(p.tolist()) == pytest.approx(tuple(adjusted))


def test_power_is_the_probability_of_a_rejection_in_the_right_direction() -> None:
    n, difference, discordant = 18, 0.3, 0.5
    p_won, p_lost = (discordant + difference) / 2, (discordant - difference) / 2
    expected = sum(
        multinomial.pmf((lost, won, n - lost - won), n, [p_lost, p_won, 1 - discordant])
        for lost in range(n + 1)
        for won in range(n + 1 - lost)
        if won > lost and exact_p(lost, won) <= Fraction(5, 100)
    )
    assert st.mcnemar_power(n, difference, discordant) == pytest.approx(expected, rel=1e-9)
    assert st.mcnemar_power(n, -difference, discordant) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("difference", "discordant"), [(0.1, 0.3), (0.1, 0.1), (-0.2, 0.4), (0.05, 0.5)])
def test_pairs_needed_reach_the_power_and_about_nine_tenths_of_them_do_not(difference, discordant) -> None:
    n = st.pairs_needed(difference, discordant)
    assert st.mcnemar_power(n, difference, discordant) >= 0.8
    assert st.mcnemar_power(int(0.9 * n), difference, discordant) < 0.8


@pytest.mark.parametrize(
    "call",
    [
        lambda: st.clopper_pearson(3, 2),
        lambda: st.wilson(0, 0),
        lambda: st.wilson(1, 2, confidence=1.0),
        lambda: st.mcnemar_exact(-1, 2),
        lambda: st.paired_difference(3, 3, 5),
        lambda: st.paired_difference(-1, 3, 5),
        lambda: st.holm([0.5, 1.5]),
        lambda: st.pairs_needed(0.0, 0.3),
        lambda: st.mcnemar_power(10, 0.5, 0.3),
        lambda: st.smallest_decisive_n(0),
    ],
)
def test_impossible_counts_are_refused(call) -> None:
    with pytest.raises(ValueError):
        call()
