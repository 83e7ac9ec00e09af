"""Successive halving: who runs where, who survives, and that the better candidate wins more often than chance."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from failwise.improve.choose import Standing, successive_halving
from failwise.types import EpisodeMeta, Outcome


def meta(arm, seed, success):
    return EpisodeMeta(
        episode_id=f"{arm}-{seed}", env_id="tiny/reach", task="reach", instruction="go", arm=arm, env_seed=seed,
        policy_seed=seed, outcome=Outcome.SUCCESS if success else Outcome.TIMEOUT, success_once=success,
        first_success_step=0 if success else None, n_steps=1, step_limit=1, control_hz=1.0,
    )  # fmt: skip


class Runs:
    """Runs candidates of known success rates and remembers what was asked for."""

    def __init__(self, rates, seed=0):
        self.rates, self.random, self.asked = rates, np.random.default_rng(seed), []

    def __call__(self, names, seeds):
        self.asked.append((tuple(names), tuple(seeds)))
        return [meta(n, s, self.random.random() < self.rates[n]) for n in names for s in seeds]


def test_each_rung_runs_the_better_half_on_new_seeds():
    runs = Runs({"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0, "e": 0.0})
    standings = successive_halving(list("abcde"), [range(4), range(4, 12), range(12, 30)], runs)
    assert [set(names) for names, _ in runs.asked] == [set("abcde"), set("acb"), set("ac")]
    assert [s for _, s in runs.asked] == [tuple(range(4)), tuple(range(4, 12)), tuple(range(12, 30))]
    assert standings[0] == Standing("a", 30, 30)
    assert [s.name for s in standings][:2] == ["a", "c"]
    assert {s.name: s.n for s in standings} == {"a": 30, "c": 30, "b": 12, "d": 4, "e": 4}


def test_a_tie_goes_to_the_first_named():
    assert successive_halving(["plain", "clever"], [range(5)], Runs({"plain": 1.0, "clever": 1.0}))[0].name == "plain"


def test_a_lucky_short_run_does_not_beat_a_long_good_one():
    assert Standing("short", 3, 3).rate < Standing("long", 95, 100).rate


def test_the_better_candidate_is_found():
    rates = {f"weak{i}": 0.5 for i in range(7)} | {"strong": 0.8}
    found = sum(
        successive_halving(list(rates), [range(30), range(30, 90), range(90, 180)], Runs(rates, s))[0].name == "strong"
        for s in range(60)
    )
    assert found >= 57


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_everybody_is_ranked_once_and_counts_add_up(rates, sizes):
    names = {f"c{i}": r for i, r in enumerate(rates)}
    starts = np.cumsum([0, *sizes])
    rungs = [range(a, b) for a, b in pairwise(starts)]
    runs = Runs(names)
    standings = successive_halving(list(names), rungs, runs)
    assert sorted(s.name for s in standings) == sorted(names)
    assert sum(s.n for s in standings) == sum(len(n) * len(s) for n, s in runs.asked)
    assert all(0 <= s.successes <= s.n for s in standings)
    assert standings[0].n == max(s.n for s in standings)
