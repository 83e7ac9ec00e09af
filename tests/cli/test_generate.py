"""``failwise generate`` from the command line."""

import json
from pathlib import Path

import pytest

from failwise.cli import main
from failwise.generate import read_attempts


def test_it_makes_failures_shows_a_row_a_cell_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "--env", "tiny/reach", "--modes", "no_grasp,wrong_sequence", "--episodes", "4"]
    command += ["--out", str(tmp_path), "--workers", "1"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "4 failures with" in shown
    cells = json.loads((tmp_path / "coverage.json").read_text())
    assert {(c["mode"], c["axis"]) for c in cells} == {("no_grasp", ""), ("wrong_sequence", "")}
    for cell in cells:
        assert cell["mode"] in shown and cell["stage"] in shown
    before = read_attempts(tmp_path)
    assert main(command) == 0
    assert read_attempts(tmp_path) == before


def test_a_spec_file_asks_for_more_of_one_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("- {mode: noop, episodes: 2, stages: [near_target], magnitude: [5, 8]}\n")
    command = ["generate", "--env", "tiny/reach", "--spec", str(spec), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 0
    assert "2 failures with" in capsys.readouterr().out
    spec.write_text("- {mode: noop, episodes: 5, stages: [near_target], magnitude: [5, 8]}\n")
    assert main(command) == 0
    assert "5 failures with" in capsys.readouterr().out
    assert main([*command, "--modes", "noop"]) == 2
    assert "leave out --modes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--modes", "noop,pushed"], "unknown failure mode 'pushed'"),
        (["--modes", "noop", "--stages", "grasp"], "has no stage 'grasp'"),
        (["--modes", "rotation"], "cannot move along roll"),
        (["--episodes", "0"], "--episodes must be at least 1"),
        (["--spec", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["generate", "--env", "tiny/reach", "--out", str(out), *more]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not out.exists()
