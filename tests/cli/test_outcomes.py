"""Outcomes for other tools: every episode a row, nothing guessed, nothing cut."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from failwise import cli
from failwise.cli import main
from failwise.cli.generate import table as injection
from failwise.generate.cells import Cell
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.store import EpisodeStore
from failwise.store.outcomes import COLUMNS, outcome_rows, write_outcomes
from failwise.types import Alarm, EpisodeMeta, FailureEvent, Intervention, Outcome

FAILWISE = str(Path(sys.executable).parent / "failwise")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    for arm, agent in (("expert", "expert"), ("an arm, with a comma", "random:3")):
        items = [RolloutItem("parity/reach", s, s, arm, agent) for s in range(4)]
        collect(items, out / agent.partition(":")[0], workers=1, quiet=True, options=RolloutOptions())
    return out


def test_every_episode_is_one_row_in_all_forms(stores: Path, tmp_path: Path) -> None:
    metas = {m.episode_id: m for name in ("expert", "random") for m in EpisodeStore(stores / name).metas()}
    for suffix in ("csv", "json", "jsonl"):
        assert main(["export", "outcomes", str(stores), "--out", str(tmp_path / f"o.{suffix}")]) == 0
    whole = json.loads((tmp_path / "o.json").read_text())
    assert [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()] == whole
    with (tmp_path / "o.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(whole) == len(metas) == 8 and tuple(table[0]) == COLUMNS
    for row, cells in zip(whole, table, strict=True):
        meta = metas[row["episode_id"]]
        expected = (meta.outcome.value, meta.arm, meta.env_seed, meta.n_steps, meta.first_success_step)
        assert tuple(row[k] for k in ("outcome", "arm", "env_seed", "n_steps", "first_success_step")) == expected
        assert (row["alarms"], row["interventions"], row["error"]) == (0, 0, None)
        assert cells["first_success_step"] == ("" if meta.first_success_step is None else str(meta.first_success_step))
        assert cells["success_once"] in ("true", "false") and cells["arm"] == meta.arm
    assert not list(tmp_path.glob("*.tmp"))


def test_standard_output_is_a_table_and_nothing_else(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "outcomes", str(stores / "expert")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["outcome"] for row in rows] == ["success"] * 4


def test_alarms_and_interventions_are_counted_or_told_to_be_unknown(stores: Path) -> None:
    one = next(iter(EpisodeStore(stores / "expert").metas()))

    class Holder:
        path = Path("made-up")

        def __init__(self, **changes: object) -> None:
            self.meta = one.model_copy(update={"n_steps": 40, **changes})

        def scan(self):
            return iter([self.meta])

    alarm = Alarm(step=7, score=2.0, band=1.0, reaction="note", decision="go on")
    stretches = tuple(
        Intervention(trigger="recovery_model", actor="expert", start=start, end=end)
        for start, end in ((10, 16), (30, None))
    )
    (row,) = outcome_rows([Holder(alarms=(alarm,), interventions=stretches)])
    assert (row.alarms, row.first_alarm_step, row.interventions, row.intervention_steps) == (1, 7, 2, 16)
    event = FailureEvent(mode="alarm", onset_step=7, source="detected")
    old = {"extra": {"watch": {"alpha": 0.1}, "takeover": {"takeovers": [10]}}, "alarms": None, "interventions": None}
    (row,) = outcome_rows([Holder(failure_events=(event,), **old)])
    assert (row.alarms, row.interventions, row.intervention_steps) == (None, None, None), (
        "from before they were recorded"
    )
    written = io.StringIO()
    assert write_outcomes([row], written, "csv") == 1
    assert next(csv.DictReader(io.StringIO(written.getvalue())))["interventions"] == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "o.txt"], r"--out o.txt: end it with .csv, .json, .jsonl, or say which with --format"),
        (["--out", "nowhere/o.csv"], r"no folder nowhere; make it"),
    ],
)
def test_what_cannot_be_written_is_one_line(stores, tmp_path, monkeypatch, capsys, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "outcomes", str(stores), *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0].replace("\\", "")


@pytest.mark.parametrize("columns", ["", "20", "80"])
def test_a_piped_table_cuts_nothing(stores: Path, columns: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | ({"COLUMNS": columns} if columns else {})
    done = subprocess.run(
        [FAILWISE, "store", "stats", str(stores / "random")],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert "an arm, with a comma" in done.stdout and "parity/reach" in done.stdout and "…" not in done.stdout
    row = next(line for line in done.stdout.splitlines() if "an arm" in line)
    steps = sum(m.n_steps for m in EpisodeStore(stores / "random").metas())
    assert str(steps) in row.replace("│", " ").split()


def test_a_piped_title_is_one_line_and_colours_change_no_width(stores: Path, tmp_path: Path) -> None:
    long = tmp_path / ("a-folder-with-a-long-name-" * 7)
    long.symlink_to(stores / "random", target_is_directory=True)
    environment = os.environ | {"COLUMNS": "40", "FORCE_COLOR": "1"}
    done = subprocess.run(
        [FAILWISE, "store", "stats", str(long)], capture_output=True, text=True, env=environment, check=True
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert str(long) in plain.splitlines(), "rich folds a title to the width of its table"
    assert "an arm, with a comma" in plain and "parity/reach" in plain and "…" not in plain


def test_every_table_is_printed_in_the_one_place() -> None:
    """Each of the others chose a width of its own, at which a long name or a large number was cut."""
    package = Path(cli.__file__).parents[1]
    own = [p.relative_to(package).as_posix() for p in package.rglob("*.py") if re.search(r"Console\(", p.read_text())]
    bars = ["learn/progress.py", "rollout/progress.py"]  # on standard error
    assert sorted(own) == sorted(["cli/tables.py", *bars])


@pytest.mark.parametrize("columns", ["20", "80"])
def test_the_piped_table_of_failure_injection_cuts_nothing(columns: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    cell = Cell(
        env_id="tiny/" + "a-long-task-name-" * 12, mode="translation", axis="x", stage="near_puck",
        magnitude=(0.01, 0.02), wanted=123_456_789,
    )  # fmt: skip
    injection([(cell, Counter(kept=987_654_321))])
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if "123456789" in line)
    assert cell.env_id.partition("/")[2] in row and "987654321" in row and not any("…" in line for line in lines)


def test_the_old_name_of_outcome_still_works_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    from failwise.cli.store import _renamed

    assert _renamed("--assume") == "--outcome" and _renamed("--assume=success") == "--outcome=success"
    assert all("--assume is called --outcome now" in line for line in capsys.readouterr().err.strip().splitlines())
    assert _renamed("--out") == "--out" and capsys.readouterr().err == ""


def test_an_episode_that_was_not_rolled_out_has_no_count_to_guess() -> None:
    """An import may hold steps of a person; without a record of them their number is unknown, not 0."""
    imported = EpisodeMeta(
        episode_id="e", env_id="lerobot/x", task="x", instruction="go", env_seed=0, policy_seed=0,
        outcome=Outcome.SUCCESS, n_steps=3, step_limit=3, control_hz=10.0,
    )  # fmt: skip

    class Holder:
        path = Path("made-up")

        def scan(self):
            return iter([imported])

    (row,) = outcome_rows([Holder()])
    assert (row.alarms, row.first_alarm_step, row.interventions, row.intervention_steps) == (None,) * 4
