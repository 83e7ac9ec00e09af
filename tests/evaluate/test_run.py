"""The run around a comparison: same seeds for every arm, nothing started that could not end in a verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from failwise.errors import DataError, SetupError
from failwise.evaluate import Comparison, evaluate, run
from failwise.types import Outcome

from .synthetic import episode


@pytest.fixture
def items(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """Replaces the rollout by one in which the arm "good" always succeeds; returns what was asked of it."""
    asked: list[SimpleNamespace] = []

    def collect(given, out, *, workers, executor, title):
        asked.extend(given)
        return [
            episode(i.arm, i.env_id, i.env_seed, Outcome.SUCCESS if i.arm == "good" else Outcome.TIMEOUT) for i in given
        ]

    rollout = ModuleType("failwise.rollout")
    rollout.RolloutItem = SimpleNamespace
    rollout.collect = collect
    monkeypatch.setitem(sys.modules, "failwise.rollout", rollout)
    return asked


def test_every_arm_runs_every_task_on_the_same_seeds(items, tmp_path: Path) -> None:
    arms = {"base": "models/base", "good": "models/good"}
    found = evaluate(["tiny/reach", "tiny/push"], arms, range(5, 10), tmp_path / "proof")
    cells = {arm: {(i.env_id, i.env_seed, i.policy_seed) for i in items if i.arm == arm} for arm in arms}
    assert cells["base"] == cells["good"]
    assert len(items) == 2 * 2 * 5
    assert all(i.agent == arms[i.arm] for i in items)
    assert found.baseline == "base"
    assert found.against[0].pooled.won == 10
    assert Comparison.from_json((tmp_path / "proof" / "comparison.json").read_text()) == found


def test_nothing_starts_that_cannot_give_a_verdict(items, tmp_path: Path) -> None:
    arms = {"base": "random", "good": "expert"}
    with pytest.raises(DataError, match=r"2 pairs: too few.*at least 6 seeds"):
        evaluate(["tiny/reach"], arms, [1, 2], tmp_path)
    with pytest.raises(SetupError, match=r"seed 1 is given twice"):
        evaluate(["tiny/reach"], arms, [1, 1, 2, 3, 4, 5, 6], tmp_path)
    with pytest.raises(SetupError, match=r"the baseline 'best' is not among the arms"):
        evaluate(["tiny/reach"], arms, range(9), tmp_path, baseline="best")
    with pytest.raises(SetupError, match=r"no task given"):
        evaluate([], arms, range(9), tmp_path)
    assert items == []


def test_a_name_cannot_change_its_agent_between_runs_into_one_folder(items, tmp_path: Path) -> None:
    evaluate(["tiny/reach"], {"base": "models/a", "good": "x"}, range(6), tmp_path)
    evaluate(["tiny/reach"], {"base": "models/a", "good": "x", "third": "y"}, range(6), tmp_path)
    with pytest.raises(SetupError, match=r"the arm 'base' is models/a, not models/b"):
        evaluate(["tiny/reach"], {"base": "models/b", "good": "x"}, range(6), tmp_path)


def test_one_arm_alone_needs_no_pairs(items, tmp_path: Path) -> None:
    found = evaluate(["tiny/reach"], {"good": "expert"}, [3], tmp_path)
    assert found.against == ()
    assert found.arm("good").pooled.n == 1


def test_an_unwritable_folder_is_one_line(items, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetupError, match=r"cannot write .*comparison.json"):
        run.write_comparison(evaluate(["tiny/reach"], {"good": "x"}, [3], tmp_path), tmp_path / "file")


def test_watched_twins_are_counted_and_named_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few for any verdict"):
        evaluate(["tiny/reach"], {"base": "random:3"}, range(3), tmp_path, monitor=tmp_path / "detector")
    with pytest.raises(SetupError, match=r"'base\+stop' is that of 'base' guarded"):
        evaluate(["tiny/reach"], {"base": "a", "base+stop": "b"}, range(9), tmp_path, monitor=tmp_path / "detector")
    assert not (tmp_path / "arms.json").exists()
