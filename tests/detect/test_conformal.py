"""The bound holds at every n in a simulation with a known distribution, and does not without the correction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta

from failwise.detect.conformal import (
    Band,
    Shift,
    conformal_quantile,
    constant_band,
    functional_band,
    smallest_n,
    weighted_quantile,
)
from failwise.errors import DataError, SetupError

REPEATS = 2000
ALPHA = 0.1


def episode(random) -> np.ndarray:
    """Scores of a success: a drifting walk of random length, which no band is told about."""
    steps = int(random.integers(20, 60))
    return np.cumsum(random.normal(0.02, 0.1, steps)) + random.normal(0, 0.3)


def false_alarm_rate(make, n, repeats=REPEATS, seed=0) -> float:
    random = np.random.default_rng(seed)
    crossed = 0
    for r in range(repeats):
        band = make([episode(random) for _ in range(n)], r)
        crossed += band.first_alarm(episode(random)) is not None
    return crossed / repeats


def monte_carlo_bound(rate, repeats=REPEATS) -> float:
    """What a true rate of at most ``rate`` exceeds in one of 10,000 simulations."""
    from scipy.stats import binom

    return binom.ppf(1 - 1e-4, repeats, rate) / repeats


@pytest.mark.parametrize("n", [10, 20, 50])
@pytest.mark.parametrize("kind", ["functional", "constant"])
def test_the_nominal_rate_holds_with_few_successes(n, kind):
    make = {
        "functional": lambda s, r: functional_band(s, ALPHA, seed=r),
        "constant": lambda s, r: constant_band(s, ALPHA),
    }[kind]
    rate = false_alarm_rate(make, n)
    assert rate <= monte_carlo_bound(ALPHA)
    assert rate >= 0.03, "a bound that is never crossed would hold as well"


@pytest.mark.parametrize("n", [10, 20])
def test_the_quantile_without_the_correction_does_not_hold(n):
    def uncorrected(successes, _):
        largest = np.sort([s.max() for s in successes])
        return Band(np.zeros(1), np.ones(1), float(largest[math.ceil(n * (1 - ALPHA)) - 1]), ALPHA, n, 0)

    assert false_alarm_rate(uncorrected, n) > monte_carlo_bound(ALPHA)


@pytest.mark.parametrize("n", [9, 10, 19, 20, 50])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25])
def test_the_coverage_is_exactly_that_of_the_order_statistic(n, alpha):
    """For continuous values, P(new <= k-th smallest of n) is k / (n + 1)."""
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    values = np.random.default_rng(n).normal(size=n)
    quantile = conformal_quantile(values, alpha)
    if rank > n:
        assert math.isinf(quantile) and n < smallest_n(alpha)
    else:
        assert quantile == np.sort(values)[rank - 1] and n >= smallest_n(alpha)
        assert beta(rank, n + 1 - rank).mean() == pytest.approx(rank / (n + 1)) and rank / (n + 1) >= 1 - alpha - 1e-12


@pytest.mark.parametrize("alpha", [0.5, 0.3, 0.25, 0.2, 0.1, 0.05, 0.01, 1 / 3, 0.07])
def test_the_smallest_n_is_the_first_with_a_finite_bound(alpha):
    n = smallest_n(alpha)
    assert math.isfinite(conformal_quantile(np.zeros(n), alpha))
    assert n == 1 or math.isinf(conformal_quantile(np.zeros(n - 1), alpha))
    assert n == math.ceil(1 / alpha - 1 - 1e-9)


def test_few_successes_are_split_so_that_the_bound_stays_finite():
    random = np.random.default_rng(0)
    for n, expected in ((10, 1), (11, 2), (20, 6), (100, 30)):
        band = functional_band([episode(random) for _ in range(n)], ALPHA)
        assert (band.n_mean, band.n) == (expected, n - expected) and not band.vacuous
    assert functional_band([episode(random) for _ in range(9)], ALPHA).vacuous


def test_equal_weights_are_the_plain_quantile_and_mass_moves_it():
    values = np.random.default_rng(1).normal(size=30)
    assert weighted_quantile(values, np.ones(30), 1.0, ALPHA) == conformal_quantile(values, ALPHA)
    upper = np.where(values > np.median(values), 1.0, 0.1)
    lower = np.where(values > np.median(values), 0.1, 1.0)
    assert weighted_quantile(values, upper, 1.0, 0.3) > weighted_quantile(values, lower, 1.0, 0.3)
    assert math.isinf(weighted_quantile(values, np.full(30, 0.01), 1.0, ALPHA))


def test_weights_mend_a_shift():
    """Calibration from N(0, 1), the new value from N(1, 1): the plain quantile fails, likelihood ratios do not."""
    random = np.random.default_rng(2)
    plain = weighted = 0
    for _ in range(REPEATS):
        x, new = random.normal(0, 1, 200), random.normal(1, 1)
        ratio = lambda v: np.exp(v - 0.5)  # noqa: E731 - the density of N(1, 1) over that of N(0, 1)
        plain += new > conformal_quantile(x, ALPHA)
        weighted += new > weighted_quantile(x, ratio(x), float(ratio(new)), ALPHA)
    assert plain / REPEATS > 0.3 and weighted / REPEATS <= monte_carlo_bound(ALPHA)


@pytest.mark.parametrize("make", [functional_band, constant_band])
def test_bands_with_weights_hold_after_a_shift_and_without_do_not(make):
    """Calibration mostly on easy episodes, then mostly hard ones, which score higher: the mixture has shifted."""
    random = np.random.default_rng(6)

    def drawn(hard: float) -> tuple[np.ndarray, bool]:
        is_hard = bool(random.random() < hard)
        return episode(random) + 1.5 * is_hard, is_hard

    ratio = {True: 0.8 / 0.3, False: 0.2 / 0.7}
    crossed = {"plain": 0, "weighted": 0}
    repeats = 600
    for r in range(repeats):
        given = [drawn(0.3) for _ in range(60)]
        new, _ = drawn(0.8)
        shift = Shift(np.array([ratio[hard] for _, hard in given]), max(ratio.values()))
        options = {"seed": r} if make is functional_band else {}
        scores = [s for s, _ in given]
        crossed["plain"] += make(scores, ALPHA, **options).first_alarm(new) is not None
        band = make(scores, ALPHA, shift=shift, **options)
        crossed["weighted"] += band.first_alarm(new) is not None
        assert 1 < band.n < 60
    assert crossed["weighted"] / repeats <= monte_carlo_bound(ALPHA, repeats) < crossed["plain"] / repeats


def test_equal_weights_change_no_band():
    random = np.random.default_rng(7)
    scores = [episode(random) for _ in range(30)]
    same = Shift(np.ones(30), 1.0)
    for band, plain in (
        (functional_band(scores, ALPHA, seed=2, shift=same), functional_band(scores, ALPHA, seed=2)),
        (constant_band(scores, ALPHA, shift=same), constant_band(scores, ALPHA)),
    ):
        assert band.width == plain.width and band.n == plain.n and (band.mean == plain.mean).all()


def test_a_tie_with_the_bound_is_no_alarm_however_it_rounds():
    """Mean + width * scale may round to below the very score that gave the width."""
    random = np.random.default_rng(3)
    rounded = 0
    for _ in range(300):
        mean, scale, score = random.normal(0, 1), random.uniform(0.1, 1), random.normal(3, 1)
        band = Band(np.array([mean]), np.array([scale]), (score - mean) / scale, ALPHA, 10, 3)
        assert not band.crossed(0, score) and band.first_alarm(np.array([score])) is None
        rounded += score > band.upper(0)
    assert rounded, "otherwise this would test nothing"


def test_the_first_alarm_is_the_first_step_above_the_bound():
    band = Band(np.array([0.0, 1.0]), np.array([1.0, 0.5]), 2.0, ALPHA, 10, 3)
    assert [band.upper(t) for t in (0, 1, 7)] == [2.0, 2.0, 2.0]
    scores = np.array([1.9, 2.0, 1.0, 2.1, 5.0])
    assert band.first_alarm(scores) == 3 and band.first_alarm(scores[:3]) is None
    assert band.exceedance(scores) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional_band([np.zeros(3)], 0.1), DataError, "at least 2 successes"),
        (lambda: constant_band([], 0.1), DataError, "at least 1 success"),
        (lambda: constant_band([np.array([0.0, np.nan])], 0.1), DataError, "score nan at step 1"),
        (lambda: constant_band([np.zeros(0)], 0.1), DataError, "one number a step"),
        (lambda: constant_band([np.zeros(3)], 1.0), SetupError, "between 0 and 1"),
        (lambda: conformal_quantile(np.array([np.nan]), 0.1), DataError, "no NaN"),
        (lambda: weighted_quantile(np.zeros(2), np.array([1.0, -1.0]), 1.0, 0.1), DataError, "not negative"),
    ],
)
def test_bad_input_is_one_clear_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
