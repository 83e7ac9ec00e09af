"""Pairing, counting and the round trip through JSON."""

from __future__ import annotations

import json
import random
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from failwise.errors import DataError
from failwise.evaluate import Comparison, compare, describe, statistics
from failwise.types import EpisodeMeta, Outcome

from .synthetic import LETTERS, episode, episodes

REACH, PUSH = "tiny/reach", "tiny/push"


def test_pairs_are_counted_by_task_and_pooled_by_hand() -> None:
    found = compare(
        episodes(
            {
                "base": {REACH: "sssttf", PUSH: "stet"},
                "new": {REACH: "sstsst", PUSH: "ssse"},
            }
        ),
        "base",
    )
    one = found.against[0]
    assert (one.arm, one.tasks[REACH].won, one.tasks[REACH].lost) == ("new", 2, 1)
    assert one.seeds[REACH].won == (103, 104)
    assert one.seeds[REACH].lost == (102,)
    assert one.seeds[REACH].both == (100, 101)
    assert one.seeds[REACH].neither == (105,)
    assert one.seeds[PUSH].won == (101, 102)  # seed 102: the baseline's error is not a success
    assert one.seeds[PUSH].neither == (103,)  # seed 103: nor is the arm's
    assert (one.pooled.n, one.pooled.won, one.pooled.lost) == (10, 4, 1)
    assert one.pooled.difference.point == pytest.approx(0.3)
    assert one.pooled.p_value == pytest.approx(2 * (comb(5, 0) + comb(5, 1)) / 2**5)
    base = found.arm("base")
    assert base.pooled.outcomes == {
        Outcome.SUCCESS: 4,
        Outcome.FAILURE: 1,
        Outcome.TIMEOUT: 4,
        Outcome.ERROR: 1,
    }
    assert base.tasks[PUSH].rate.point == pytest.approx(1 / 4)


def test_unpaired_seeds_are_reported_and_left_out_of_the_test_only() -> None:
    metas = episodes({"base": {REACH: "ssssss"}}) + [
        episode("new", REACH, seed, Outcome.TIMEOUT) for seed in range(101, 111)
    ]
    metas.append(episode("new", PUSH, 7, Outcome.SUCCESS))
    metas += [episode("base", REACH, 500, Outcome.SUCCESS), episode("new", REACH, 500, Outcome.SUCCESS)]
    one = compare(metas, "base").against[0]
    assert (one.pooled.n, one.pooled.lost, one.pooled.both) == (6, 5, 1)
    left_out = {entry.env_id: entry for entry in one.unpaired}
    assert left_out[REACH].only_baseline == (100,)
    assert left_out[REACH].only_arm == tuple(range(106, 111))
    assert left_out[PUSH].only_arm == (7,)
    assert compare(metas, "base").arm("new").pooled.n == 12


def test_same_seed_on_another_task_is_no_pair() -> None:
    metas = episodes({"base": {REACH: "s" * 20}, "new": {PUSH: "s" * 20}})
    with pytest.raises(DataError, match=r"0 paired episodes of 'new'"):
        compare(metas, "base")


def test_holm_runs_over_arms_and_over_the_tasks_of_an_arm() -> None:
    metas = episodes(
        {
            "base": {REACH: "t" * 12, PUSH: "t" * 12},
            "a": {REACH: "s" * 8 + "t" * 4, PUSH: "t" * 12},
            "b": {REACH: "s" * 6 + "t" * 6, PUSH: "s" * 3 + "t" * 9},
        }
    )
    found = compare(metas, "base")
    raw = [one.pooled.p_value for one in found.against]
    assert [one.pooled.p_adjusted for one in found.against] == pytest.approx(statistics.holm(raw))
    assert {one.pooled.family for one in found.against} == {2}
    tasks = found.against[0].tasks
    assert tasks[REACH].p_adjusted == pytest.approx(min(1.0, 2 * tasks[REACH].p_value))


@given(
    letters=some.lists(some.tuples(some.sampled_from("sftea"), some.sampled_from("sftea")), min_size=6, max_size=40),
    shuffle=some.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_counts_add_up_for_any_outcomes_in_any_order(letters, shuffle: random.Random) -> None:
    base, new = ("".join(column) for column in zip(*letters, strict=True))
    metas = episodes({"base": {REACH: base}, "new": {REACH: new}})
    ordered = compare(metas, "base")
    shuffle.shuffle(metas)
    assert compare(metas, "base") == ordered
    assert Comparison.from_json(ordered.to_json()) == ordered
    pooled = ordered.against[0].pooled
    assert pooled.won + pooled.lost + pooled.both + pooled.neither == pooled.n == len(letters)
    for arm, text in (("base", base), ("new", new)):
        result = ordered.arm(arm).pooled
        assert dict(result.outcomes) == {LETTERS[x]: text.count(x) for x in set(text)}
        assert sum(result.outcomes.values()) == result.n
    difference = ordered.arm("new").pooled.rate.point - ordered.arm("base").pooled.rate.point
    assert pooled.difference.point == pytest.approx(difference)


def test_arms_keep_the_asked_order_and_stores_are_read() -> None:
    metas = episodes({arm: {REACH: "ssttss"} for arm in ("base", "a", "b", "c")})

    class Store:
        def __init__(self, held: list[EpisodeMeta]) -> None:
            self.held = held

        def metas(self) -> list[EpisodeMeta]:
            return self.held

    halves = [Store(metas[:10]), Store(metas[10:])]
    found = compare(halves, "base", arms=["c", "a"])
    assert [arm.arm for arm in found.arms] == ["base", "c", "a"]
    assert compare(Store(metas), "base", arms=["c", "a"]) == found


def test_too_few_pairs_unknown_arms_and_doubles_are_one_clear_line() -> None:
    few = episodes({"base": {REACH: "sssss"}, "new": {REACH: "ttttt"}})
    with pytest.raises(DataError, match=r"5 paired episodes.*at least 6.*more seeds") as caught:
        compare(few, "base")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"no episode of the arm 'old'.*base, new"):
        compare(few, "old")
    with pytest.raises(DataError, match=r"two episodes of the arm 'base' on tiny/reach seed 100"):
        compare([*few, few[0]], "base")
    with pytest.raises(DataError, match=r"no episodes"):
        describe([])


def test_damaged_json_names_the_key() -> None:
    text = compare(episodes({"base": {REACH: "ssssss"}, "new": {REACH: "tttttt"}}), "base").to_json()
    record = json.loads(text)
    del record["against"][0]["pooled"]["p_value"]
    with pytest.raises(DataError, match=r"against\.0\.pooled\.p_value"):
        Comparison.from_json(json.dumps(record))
    with pytest.raises(DataError, match=r"not a failwise-comparison-1"):
        Comparison.from_json("{")
