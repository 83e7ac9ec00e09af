"""Takeovers that go back in time where none succeeded."""

from __future__ import annotations

import pytest
from test_choose import meta

from failwise.errors import SetupError
from failwise.improve import ImproveOptions
from failwise.improve.fitting import earlier_takeovers
from failwise.types import EpisodeMeta, Outcome


def takeover(failed: str, step: int, attempt: int) -> dict[str, object]:
    return {"failed": failed, "env_id": "tiny/reach", "env_seed": 3, "takeover": step, "attempt": attempt}


def tried(failed: str, outcome: Outcome) -> EpisodeMeta:
    return meta("recovery-1", 3, True).model_copy(update={"outcome": outcome, "extra": {"recovers": failed}})


def test_only_unmended_failures_are_tried_again_from_half_the_earliest_step():
    before = [takeover("a", 90, 1), takeover("a", 41, 2), takeover("b", 60, 1), takeover("b", 10, 2)]
    metas = [tried("a", Outcome.TIMEOUT), tried("a", Outcome.ERROR), tried("b", Outcome.TIMEOUT)]
    more = earlier_takeovers(before, [*metas, tried("b", Outcome.SUCCESS)])
    assert more == [takeover("a", 20, 3)]


def test_going_back_ends_at_the_start():
    assert earlier_takeovers([takeover("a", 1, 1)], [tried("a", Outcome.TIMEOUT)]) == [takeover("a", 0, 2)]
    assert earlier_takeovers([takeover("a", 0, 1)], [tried("a", Outcome.TIMEOUT)]) == []


def test_a_takeover_whose_worker_died_counts_as_not_mended():
    assert earlier_takeovers([takeover("a", 8, 1)], []) == [takeover("a", 4, 2)]


def test_a_negative_number_of_earlier_takeovers_is_refused():
    with pytest.raises(SetupError, match="recovery-backoff"):
        ImproveOptions(recovery_backoff=-1)
