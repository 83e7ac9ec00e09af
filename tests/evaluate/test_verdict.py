"""What the verdict may say, and what it may not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from failwise.evaluate import Finding, compare, describe, finding, verdict, verdicts
from failwise.evaluate.verdict import p_text, statements

from .synthetic import episodes

REACH, PUSH = "tiny/reach", "tiny/push"


def paired(won: int, lost: int, both: int, neither: int):
    base = "t" * won + "s" * lost + "s" * both + "t" * neither
    new = "s" * won + "t" * lost + "s" * both + "t" * neither
    return compare(episodes({"A": {REACH: base}, "B": {REACH: new}}), "A")


def test_a_verdict_names_effect_interval_test_and_n() -> None:
    (sentence,) = verdicts(paired(won=130, lost=60, both=250, neither=160))
    assert sentence == ("B is better than A: +11.7 points [+7.0, +16.2], exact McNemar p < .0001, n = 600 pairs.")


def test_too_little_evidence_says_so_and_how_much_is_needed() -> None:
    (sentence,) = verdicts(paired(won=5, lost=2, both=8, neither=5))
    assert sentence.startswith("Cannot tell B from A: +15.0 points [")
    assert "n = 20 pairs; about " in sentence
    assert sentence.endswith("pairs would be needed to see 10 points with power .8.")


@given(
    won=some.integers(0, 40),
    lost=some.integers(0, 40),
    both=some.integers(0, 60),
    neither=some.integers(6, 60),
)
@settings(max_examples=120, deadline=None)
def test_better_and_worse_are_said_only_with_the_test_behind_them(won, lost, both, neither) -> None:
    comparison = paired(won, lost, both, neither)
    result = comparison.against[0].pooled
    (sentence,) = verdicts(comparison)
    rejects = result.p_adjusted <= 0.05
    assert (" better " in sentence) == (rejects and won > lost)
    assert (" worse " in sentence) == (rejects and won < lost)
    assert sentence.startswith("Cannot tell") == (not rejects)
    assert "\n" not in sentence


def test_with_several_arms_the_corrected_p_decides() -> None:
    base, good = "t" * 20, "s" * 6 + "t" * 14  # p = .031 alone, .094 after Holm over three
    metas = episodes({"A": {REACH: base}, "B": {REACH: good}, "C": {REACH: base}, "D": {REACH: base}})
    assert verdicts(compare(metas, "A", arms=["B"]))[0].startswith("B is better than A")
    (first, *_) = verdicts(compare(metas, "A"))
    assert first.startswith("Cannot tell B from A")
    assert "p = .094 (Holm over 3 tests)" in first


def test_a_task_with_too_few_pairs_gets_no_finding() -> None:
    metas = episodes({"A": {REACH: "tttttt", PUSH: "ttt"}, "B": {REACH: "ssssss", PUSH: "sss"}})
    result = compare(metas, "A").against[0].tasks[PUSH]
    assert finding(result) is Finding.TOO_FEW
    assert verdict("B", "A", result).startswith("Too few pairs to compare B with A: n = 3 pairs")


def test_without_a_baseline_only_rates_are_stated() -> None:
    (sentence,) = verdicts(describe(episodes({"A": {REACH: "sst", PUSH: "t"}})))
    assert sentence == "A succeeded in 2 of 4 episodes over 2 tasks: 50.0% [6.8, 93.2]."


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "= 1"), (0.5, "= .500"), (0.0312, "= .031"), (0.00042, "= .0004"), (3e-9, "< .0001")],
)
def test_p_values_are_written_without_a_leading_zero(p: float, text: str) -> None:
    assert p_text(p) == text


def test_a_statement_is_the_verdict_in_two_parts() -> None:
    comparison = compare(episodes({"a": {"x/y": "s" * 9}, "b: new": {"x/y": "f" * 9}}), "a")
    (statement,), (sentence,) = statements(comparison), verdicts(comparison)
    assert statement.claim == "b: new is worse than a"
    assert statement.text == sentence == f"{statement.claim}: {statement.evidence}."
