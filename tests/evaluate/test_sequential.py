"""Looking as often as one likes: never more false verdicts than the level allows, by enumeration and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from failwise.errors import DataError
from failwise.evaluate import compare, evaluate, run, verdicts, was_stopped_early
from failwise.evaluate import sequential as sq
from failwise.evaluate import statistics as st
from failwise.types import Outcome

from .synthetic import episodes
from .test_run import items  # noqa: F401  (a fixture)


def capital_by_definition(difference: float, lost: int, won: int, n: int) -> float:
    """The mixture of products of bets, integrated adaptively."""
    m = (1 + difference) / 2

    def bets(u: float) -> float:
        win, loss = u / m, (1 - u) / (1 - m)
        return win**won * loss**lost * ((win + loss) / 2) ** (n - won - lost) * beta(sq.PRIOR, sq.PRIOR).pdf(u)

    return quad(bets, 0, 1, limit=200)[0]


@pytest.mark.parametrize("counts", [(0, 0, 4), (2, 5, 9), (4, 1, 30), (12, 25, 60), (0, 7, 7)])
@pytest.mark.parametrize("difference", [-0.6, 0.0, 0.1, 0.5])
def test_capital_is_the_mixture_of_its_bets(counts: tuple[int, int, int], difference: float) -> None:
    assert np.exp(sq.log_capital(difference, *counts)) == pytest.approx(
        capital_by_definition(difference, *counts), rel=1e-6
    )


@pytest.mark.parametrize(("p_lost", "p_won"), [(0.2, 0.2), (0.05, 0.3), (0.6, 0.1), (0.0, 0.4), (0.5, 0.5)])
def test_a_bet_against_the_truth_wins_nothing_on_average(p_lost: float, p_won: float) -> None:
    """The martingale property, one pair at a time: the reason why looking does no harm."""
    truth = p_won - p_lost
    for lost, won, ties in product(range(4), repeat=3):
        n = lost + won + ties
        now = np.exp(sq.log_capital(truth, lost, won, n))
        after = [(p_lost, lost + 1, won), (p_won, lost, won + 1), (1 - p_lost - p_won, lost, won)]
        expected = sum(p * np.exp(sq.log_capital(truth, a, b, n + 1)) for p, a, b in after)
        assert expected == pytest.approx(now, rel=1e-9)


def test_the_closed_form_of_the_test_is_the_capital_against_no_difference() -> None:
    for lost, won in product(range(12), repeat=2):
        p = min(1.0, np.exp(-sq.log_capital(0.0, lost, won, lost + won + 5)))
        assert sq.anytime_mcnemar(lost, won).p_value == pytest.approx(p, rel=1e-9)


def ever_rejects(discordant: float, n: int, level: float, p_value) -> float:
    """Chance that the test rejects at any of n pairs under the null hypothesis, by exact recursion over the counts."""
    alive = {(0, 0): 1.0}  # counts that have not rejected so far -> chance
    rejected = 0.0
    for _ in range(n):
        after: dict[tuple[int, int], float] = {}
        for (lost, won), chance in alive.items():
            for share, key in (
                (discordant / 2, (lost + 1, won)),
                (discordant / 2, (lost, won + 1)),
                (1 - discordant, (lost, won)),
            ):
                if p_value(*key) <= level:
                    rejected += chance * share
                else:
                    after[key] = after.get(key, 0.0) + chance * share
        alive = after
    return rejected


def test_looking_after_every_pair_stays_within_the_level_and_with_the_fixed_test_does_not() -> None:
    anytime = ever_rejects(1.0, 120, 0.05, lambda lost, won: sq.anytime_mcnemar(lost, won).p_value)
    fixed = ever_rejects(1.0, 120, 0.05, lambda lost, won: st.mcnemar_exact(lost, won).p_value)
    assert 0.005 < anytime <= 0.05
    assert fixed > 0.15, "what the fixed test does to somebody who looks: the test above can fail"


def test_type_one_error_by_simulation_with_real_stopping() -> None:
    """10,000 runs of up to 500 pairs, stopped at the first look that rejects, a look after each tenth."""
    random = np.random.default_rng(0)
    d = random.choice(3, p=[0.15, 0.15, 0.7], size=(10_000, 500))
    lost, won = (np.cumsum(d == k, axis=1)[:, 49::50] for k in (0, 1))
    rejects = np.zeros(len(d), bool)
    for look in range(lost.shape[1]):
        for i in np.flatnonzero(~rejects):
            rejects[i] = sq.anytime_mcnemar(int(lost[i, look]), int(won[i, look])).p_value <= 0.05
    assert rejects.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(d))


def test_the_interval_covers_at_every_look_at_once() -> None:
    random = np.random.default_rng(1)
    for p_lost, p_won in ((0.1, 0.3), (0.02, 0.02), (0.3, 0.1)):
        d = random.choice(3, p=[p_lost, p_won, 1 - p_lost - p_won], size=(400, 300))
        lost, won = (np.cumsum(d == k, axis=1)[:, 29::30] for k in (0, 1))
        missed = np.zeros(len(d), bool)
        for look in range(lost.shape[1]):
            for i in np.flatnonzero(~missed):
                counts = (int(lost[i, look]), int(won[i, look]), 30 * (look + 1))
                missed[i] = sq.log_capital(p_won - p_lost, *counts) > np.log(20)  # as in the test below, but faster
        assert missed.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(d))


def test_the_interval_is_where_capital_stays_small() -> None:
    for counts in ((3, 12, 60), (40, 41, 200), (0, 9, 30)):
        found = sq.anytime_difference(*counts)
        for limit, outwards in ((found.lower, -1e-4), (found.upper, 1e-4)):
            assert sq.log_capital(limit - outwards, *counts) < np.log(20) < sq.log_capital(limit + outwards, *counts)


def test_interval_and_test_never_contradict_each_other() -> None:
    for lost, won in product(range(0, 40, 3), repeat=2):
        n = lost + won + 20
        found = sq.anytime_difference(lost, won, n)
        assert -1 <= found.lower <= found.point <= found.upper <= 1
        assert (found.lower > 0 or found.upper < 0) == (sq.anytime_mcnemar(lost, won).p_value <= 0.05)
        mirror = sq.anytime_difference(won, lost, n)
        assert (mirror.lower, mirror.upper) == pytest.approx((-found.upper, -found.lower), abs=1e-6)


def test_the_fewest_discordant_pairs_that_can_reject_are_those_that_the_docstring_names() -> None:
    assert sq.anytime_mcnemar(0, 9).p_value <= 0.05 < sq.anytime_mcnemar(0, 8).p_value


def test_power_and_length_are_those_that_the_docstring_names() -> None:
    random = np.random.default_rng(2)
    d = random.choice(3, p=[0.1, 0.2, 0.7], size=(2000, 400))
    lost, won = np.cumsum(d == 0, axis=1), np.cumsum(d == 1, axis=1)
    stops = [
        next((t + 1 for t in range(400) if sq.anytime_mcnemar(int(a[t]), int(b[t])).p_value <= 0.05), 0)
        for a, b in zip(lost[:400], won[:400], strict=True)
    ]
    assert np.mean([s > 0 for s in stops]) == pytest.approx(0.82, abs=0.06)
    assert np.mean([s or 400 for s in stops]) == pytest.approx(226, abs=20)


def test_impossible_counts_are_refused() -> None:
    for call in (
        lambda: sq.anytime_mcnemar(-1, 2),
        lambda: sq.anytime_difference(3, 3, 5),
        lambda: sq.anytime_difference(1, 1, 5, 1.0),
    ):
        with pytest.raises(ValueError):
            call()


def test_evaluation_stops_where_the_verdict_is_clear(items, tmp_path) -> None:  # noqa: F811
    arms = {"base": "a", "good": "b", "same": "c"}
    found = evaluate(["tiny/reach"], arms, range(100), tmp_path, stop_early=True)
    ran = {arm: sum(i.arm == arm for i in items) for arm in arms}
    assert ran == {"base": 100, "good": 20, "same": 100}, "the clear arm ends, the unclear one goes on"
    good, same = (one.pooled for one in found.against)
    assert (good.n, good.won, good.test) == (20, 20, "anytime-valid sign test")
    assert good.p_value == sq.anytime_mcnemar(0, 20).p_value
    assert same.p_value == 1
    items.clear()
    evaluate(["tiny/reach"], {"base": "a", "good": "b"}, range(100), tmp_path / "two", stop_early=True)
    assert {i.env_seed for i in items} == set(range(10)), "decided at the first look, and no further seed was run"


def test_an_arm_counts_as_decided_only_at_its_share_of_the_level() -> None:
    metas = episodes({"base": {"x/y": "f" * 9}, "a": {"x/y": "s" * 9}, "b": {"x/y": "f" * 9}})
    assert run.undecided(metas, "base", ["a"], 0.95) == []
    assert run.undecided(metas, "base", ["a", "b"], 0.95) == ["a", "b"], "p = .03 is no verdict for one of two arms"
    assert all(m.outcome in (Outcome.SUCCESS, Outcome.FAILURE) for m in metas)


def test_a_comparison_says_which_test_it_used() -> None:
    metas = episodes({"base": {"x/y": "f" * 30}, "a": {"x/y": "s" * 30}})
    fixed, anytime = (compare(metas, "base", anytime=way).against[0].pooled for way in (False, True))
    assert (fixed.test, anytime.test) == ("exact McNemar", "anytime-valid sign test")
    assert anytime.difference.lower < fixed.difference.lower, "the price of being allowed to look"


def test_one_arm_alone_runs_all_of_its_seeds(items, tmp_path) -> None:  # noqa: F811
    found = evaluate(["tiny/reach"], {"good": "b"}, range(30), tmp_path, stop_early=True)
    assert found.arm("good").pooled.n == 30


def test_who_has_looked_keeps_the_test_that_allows_it(items, tmp_path) -> None:  # noqa: F811
    arms = {"base": "a", "good": "b"}
    evaluate(["tiny/reach"], arms, range(100), tmp_path, stop_early=True)
    again = evaluate(["tiny/reach"], arms, range(100), tmp_path)
    assert again.against[0].pooled.test == "anytime-valid sign test"
    assert was_stopped_early(tmp_path)
    assert not was_stopped_early(tmp_path / "elsewhere")


def test_no_plan_is_made_for_a_test_that_is_not_planned_for() -> None:
    metas = episodes({"base": {"x/y": "sf" * 20}, "a": {"x/y": "sf" * 20}})
    fixed, anytime = (verdicts(compare(metas, "base", anytime=way))[0] for way in (False, True))
    assert "power .8" in fixed
    assert "power" not in anytime
    assert anytime.startswith("Cannot tell a from base")


@pytest.mark.parametrize(("level", "anytime", "least"), [(0.05, False, 6), (0.05, True, 9), (0.01, False, 8)])
def test_the_fewest_pairs_are_those_with_which_all_won_is_a_verdict(level, anytime, least) -> None:
    assert sq.fewest_pairs(level, anytime) == least
    test = sq.anytime_mcnemar if anytime else st.mcnemar_exact
    assert test(0, least).p_value <= level < test(0, least - 1).p_value


def test_too_few_pairs_for_looking_are_told_before_anything_runs(tmp_path) -> None:
    with pytest.raises(DataError, match="7 pairs: too few for any verdict, since its test needs at least 9"):
        evaluate(["tiny/reach"], {"a": "random:3", "b": "expert"}, range(7), tmp_path, stop_early=True)
    assert not (tmp_path / "episodes").exists()
