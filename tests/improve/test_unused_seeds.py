"""The demo's test seeds: drawn for a folder once, never those that somebody has looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from failwise.errors import SetupError
from failwise.improve import unused_seeds
from failwise.improve.unused_seeds import FILE, PUBLISHED, unused_test_offset
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.seeds import TEST, WIDTH


def test_a_folder_keeps_what_it_drew(tmp_path: Path) -> None:
    first = unused_test_offset(tmp_path / "new", 40)
    assert PUBLISHED <= first <= WIDTH - 40
    assert unused_test_offset(tmp_path / "new", 40) == first
    assert json.loads((tmp_path / "new" / FILE).read_text()) == {"offset": first, "seeds": 40}


def test_folders_draw_for_themselves(tmp_path: Path) -> None:
    assert len({unused_test_offset(tmp_path / str(i), 40) for i in range(5)}) > 1


def test_seeds_that_the_folder_has_used_are_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unused_seeds, "PUBLISHED", 0)
    monkeypatch.setattr(unused_seeds, "WIDTH", 12)
    used = [TEST.start + number for number in (0, 1, 2, 3, 9, 10, 11)]
    items = [RolloutItem("tiny/push", seed, seed, "base", "random:3") for seed in used]
    collect(items, tmp_path / "proof" / "episodes", workers=1, quiet=True, options=RolloutOptions(
        env_options={"step_limit": 2}
    ))  # fmt: skip
    for _ in range(20):
        assert unused_test_offset(tmp_path, 5) == 4, "seeds 4 to 8 are the only five in a row that are left"
        (tmp_path / FILE).unlink()


@pytest.mark.parametrize("text", ["", "{}", '{"offset": "x", "seeds": 40}', "[1]"])
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(SetupError, match=r"does not tell the test seeds .* choose another --out"):
        unused_test_offset(tmp_path, 40)


def test_another_number_of_seeds_is_another_run(tmp_path: Path) -> None:
    unused_test_offset(tmp_path, 40)
    with pytest.raises(SetupError, match="drew 40 test seeds, and 50 are asked for"):
        unused_test_offset(tmp_path, 50)


def test_the_demo_proves_on_what_its_folder_drew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the job itself, which takes minutes on a simulator, is left out."""
    from failwise.improve.demo import demo

    runs = []
    monkeypatch.setitem(demo.__globals__, "improve", lambda *given: runs.append(given) or tmp_path)
    demo(tmp_path / "a")
    demo(tmp_path / "a")
    demo(tmp_path / "b")
    offsets = [options.test_offset for *_, options in runs]
    assert offsets[0] == offsets[1] >= PUBLISHED
    assert json.loads((tmp_path / "b" / FILE).read_text())["offset"] == offsets[2]
