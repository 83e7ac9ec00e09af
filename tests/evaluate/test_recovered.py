"""What taking over came to: counted on pairs, task by task, with exact intervals."""

from __future__ import annotations

import re

import pytest
from scipy.stats import beta

from failwise.errors import DataError
from failwise.evaluate.recovered import recovery_by_task, recovery_result, recovery_sentences
from failwise.report.recovered import recovered_sections
from failwise.types import EpisodeMeta, FailureEvent, Intervention

from .synthetic import LETTERS, episode

PUSH, REACH = "tiny/push", "tiny/reach"
# Per layout: without a recovery, with it, and the mode named at the first takeover ("" without one).
PAIRS = {
    PUSH: [
        ("t", "s", "noop"),
        ("t", "t", "noop"),
        ("f", "t", ""),
        ("s", "s", ""),
        ("s", "f", "slip"),
        ("s", "s", "slip"),
    ],
    REACH: [("s", "s", ""), ("s", "s", ""), ("e", "s", "noop"), ("t", "s", "slip")],
}


def helped(env_id: str, seed: int, letter: str, mode: str) -> EpisodeMeta:
    events = (FailureEvent(mode=mode, onset_step=10, source="detected"),) if mode else ()
    about = {"recovery": "r", "remedy": "correct", "takeovers": [10, 20] if mode else [], "refused": 1}
    return episode("base+recover", env_id, seed, LETTERS[letter]).model_copy(
        update={"failure_events": events, "extra": {"takeover": about}}
    )


@pytest.fixture(scope="module")
def metas() -> list[EpisodeMeta]:
    rows = [(env_id, seed, *pair) for env_id, pairs in PAIRS.items() for seed, pair in enumerate(pairs)]
    plain = [episode("base", env_id, seed, LETTERS[without]) for env_id, seed, without, _, _ in rows]
    return plain + [helped(env_id, seed, with_it, mode) for env_id, seed, _, with_it, mode in rows]


@pytest.mark.parametrize("recorded", [True, False])
def test_the_mode_is_the_interventions_own_where_an_alarm_and_a_drop_share_its_step(recorded: bool) -> None:
    events = tuple(
        FailureEvent(mode=mode, onset_step=10, source=source)
        for mode, source in (("alarm", "detected"), ("drop", "injected"), ("slip", "detected"))
    )
    record = (Intervention(trigger="alarm", actor="correct", start=10, end=20, mode="slip"),) if recorded else ()
    about = {"recovery": "r", "remedy": "correct", "takeovers": [10], "refused": 0}
    with_it = episode("base+recover", PUSH, 0, LETTERS["s"]).model_copy(
        update={"failure_events": events, "interventions": record, "extra": {"takeover": about}}
    )
    result = recovery_result([episode("base", PUSH, 0, LETTERS["t"]), with_it], "base")
    assert result.by_mode == {"slip": (1, 1)}


@pytest.mark.parametrize("modes", [("slip", "noop"), ("noop", "slip")])
def test_of_two_interventions_at_one_step_the_record_says_which_came_first(modes: tuple[str, str]) -> None:
    events = tuple(FailureEvent(mode=mode, onset_step=10, source="detected") for mode in ("slip", "noop"))
    records = tuple(Intervention(trigger="recovery_model", actor="correct", start=10, end=10, mode=m) for m in modes)
    about = {"recovery": "r", "remedy": "correct", "takeovers": [10, 10], "refused": 0}
    with_it = episode("base+recover", PUSH, 0, LETTERS["s"]).model_copy(
        update={"failure_events": events, "interventions": records, "extra": {"takeover": about}}
    )
    result = recovery_result([episode("base", PUSH, 0, LETTERS["t"]), with_it], "base")
    assert (result.takeovers, result.by_mode) == (2, {modes[0]: (1, 1)})


def test_an_older_intervention_without_an_event_names_no_mode() -> None:
    about = {"recovery": "r", "remedy": "correct", "takeovers": [10], "refused": 0}
    older = episode("base+recover", PUSH, 0, LETTERS["s"]).model_copy(update={"extra": {"takeover": about}})
    result = recovery_result([episode("base", PUSH, 0, LETTERS["t"]), older], "base")
    assert result.by_mode == {"takeover": (1, 1)}


def exact(k: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's limits by their definition."""
    return (beta.ppf(0.025, k, n - k + 1) if k else 0.0), (beta.ppf(0.975, k + 1, n - k) if k < n else 1.0)


def test_each_task_is_counted_on_its_own_and_together_they_are_the_whole(metas) -> None:
    by_task, whole = recovery_by_task(metas, "base"), recovery_result(metas, "base")
    push, reach = by_task[PUSH], by_task[REACH]
    assert (push.pairs, push.taken_over, push.failures, push.mended) == (6, 4, 3, 1)
    assert (push.successes, push.needless, push.spoiled) == (3, 2, 1)
    assert (reach.pairs, reach.taken_over, reach.failures, reach.mended) == (3, 1, 1, 1), "an error is no verdict"
    for name in ("pairs", "taken_over", "failures", "mended", "successes", "needless", "spoiled", "takeovers"):
        assert getattr(whole, name) == sum(getattr(one, name) for one in by_task.values())


def test_rates_are_over_the_right_episodes_with_exact_intervals(metas) -> None:
    result = recovery_by_task(metas, "base")[PUSH]
    for rate, k, n in (
        (result.intervention_rate, 4, 6), (result.recovery_rate, 1, 3), (result.needless_rate, 2, 3),
    ):  # fmt: skip
        assert rate is not None
        assert rate.point == k / n
        assert (rate.lower, rate.upper) == pytest.approx(exact(k, n), abs=1e-6)
    assert result.by_mode == {"noop": (2, 1)}, "slip was named only where nothing failed"
    won = [m for m in metas if m.env_id == REACH and m.env_seed < 2]
    assert recovery_result(won, "base").recovery_rate is None


def test_the_words_tell_interventions_needless_ones_and_modes(metas) -> None:
    said = " ".join(recovery_sentences(recovery_result(metas, "base")))
    assert "taken over in 5 of 9 episodes, 56% [21, 86], 10 times in all" in said
    assert "2 of 5 episodes that succeed without it were taken over" in said
    assert "mended by the mode that it named first: noop 1 of 2, slip 1 of 1" in said


def cells_of(html: str) -> list[list[str]]:
    """The rows of all tables, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.S)
    return [[re.sub(r"<[^>]+>", " ", cell).split() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_the_report_has_a_row_a_task_and_a_row_a_mode(metas) -> None:
    (section,) = recovered_sections(metas)
    rows = [" | ".join(" ".join(words) for words in row) for row in cells_of(section.html)]
    every = (
        "all tasks | 5 of 9 56% [21, 86] | 6 of 9 67% [30, 93] | 5 of 9 56% [21, 86] | 2 of 4 50% [7, 93] "
        "| 2 of 5 40% [5, 85] | 1 of 5 20% [1, 72]"
    )
    push = (
        f"{PUSH} | 3 of 6 50% [12, 88] | 3 of 6 50% [12, 88] | 4 of 6 67% [22, 96] | 1 of 3 33% [1, 91] "
        "| 2 of 3 67% [9, 99] | 1 of 3 33% [1, 91]"
    )
    assert every in rows
    assert push in rows
    assert "noop | 1 of 2 50% [1, 99] | 1 of 2 50% [1, 99] | &ndash;" in rows
    assert "slip | 1 of 1 100% [3, 100] | &ndash; | 1 of 1 100% [3, 100]" in rows
    assert recovered_sections([m for m in metas if m.arm == "base"]) == []
    assert recovered_sections([m for m in metas if m.arm != "base"]) == [], "nothing to judge it by"


def test_no_pair_is_told(metas) -> None:
    with pytest.raises(DataError, match="no seed with both"):
        recovery_result([m for m in metas if m.arm == "base"], "base")
