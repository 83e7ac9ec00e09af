"""``failwise generate``: failures on purpose, each with verified ways out of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from failwise.cli.options import existing_folder, parse, writable_folder
from failwise.cli.tables import print_table
from failwise.errors import SetupError, UnknownNameError

if TYPE_CHECKING:
    from failwise.generate import Attempt, Cell, Request


@dataclass(frozen=True)
class Generate:
    """Change one thing in an expert's plan, keep what then fails, and search verified recoveries.

    The same command resumes; with other numbers or cells it adds to what is there.
    """

    env: str
    """Tasks, e.g. metaworld/pick-place,peg-insert-side. They need an expert, snapshots and a hand that can be led."""
    out: Path
    """Folder for episodes, recoveries, attempts.jsonl and coverage.json."""
    modes: str = ""
    """Comma-separated, e.g. translation,noop,slip,early_release. Default: all that each task can do."""
    episodes: int = 100
    """Failures with a verified recovery a task, spread evenly over the modes and over each mode's axes and stages."""
    stages: str = ""
    """Only in these stages, comma-separated; a stage is named by the success condition that ends it. Default: all."""
    axes: str = ""
    """Only along these: x, y, z, roll, pitch, yaw. Default: all along which the task's hand moves."""
    failures: Path | None = None
    """Instead of making failures: a policy's own episodes in this folder. Failed ones are explained by rules
    and mended, successful ones recorded beside them. Needs tasks that tell poses (Meta-World, ManiSkill)."""
    spec: Path | None = None
    """YAML list of requests, in place of --modes, --episodes, --stages and --axes:
    - {mode: slip, episodes: 20, stages: [near_goal], axes: [x], magnitude: [6, 12]}."""
    corrections: int = 3
    """Steps of a failed episode from which recoveries are searched, at most."""
    look_every: int = 2
    """Record a picture every so many steps of what is kept; 0: none."""
    patience: int = 6
    """Layouts for each failure wanted, after which a cell is left as it is; twice as many in all where none fails."""
    draws: int = 3
    """Perturbations of one layout, at most, until one fails. Layouts that were tried with fewer are not tried again."""
    offset: int = 0
    """Skip so many of the layouts that are reserved for failures on purpose: held-out ones take another offset."""
    workers: int = 2
    """Worker processes."""


def main(argv: Sequence[str]) -> int:
    """Check everything, make the failures, and show what there is."""
    asked = parse(Generate, argv, "generate")
    for name, value, least in (
        ("--episodes", asked.episodes, 1), ("--corrections", asked.corrections, 1), ("--patience", asked.patience, 1),
        ("--draws", asked.draws, 1),
        ("--look-every", asked.look_every, 0), ("--offset", asked.offset, 0), ("--workers", asked.workers, 1),
    ):  # fmt: skip
        if value < least:
            raise SetupError(f"{name} must be at least {least}, not {value}")
    if asked.spec is not None and (asked.modes or asked.stages or asked.axes):
        raise SetupError("--spec says which modes, stages and axes; leave out --modes, --stages and --axes")

    if asked.failures is not None:
        if asked.spec is not None or asked.modes or asked.stages or asked.axes:
            raise SetupError("--failures mends what a policy did; leave out --spec, --modes, --stages and --axes")
        existing_folder(asked.failures, "--failures", "episodes that 'failwise collect' wrote")

    from failwise.envs import parse_env_ids
    from failwise.generate import GenerateOptions, cells_of, coverage, generate, mend_own
    from failwise.rollout.collecting import environment

    env_ids = parse_env_ids(asked.env)
    if asked.failures is not None:
        writable_folder(asked.out)
        options = GenerateOptions(corrections=asked.corrections, look_every=asked.look_every, workers=asked.workers)
        return _mended(asked.out, mend_own(asked.failures, env_ids, asked.out, options))
    cells = [cell for env_id in env_ids for cell in cells_of(environment(env_id), _requests(asked, env_id))]
    writable_folder(asked.out)
    options = GenerateOptions(
        corrections=asked.corrections, look_every=asked.look_every, patience=asked.patience, offset=asked.offset,
        draws=asked.draws, workers=asked.workers,
    )  # fmt: skip
    attempts = generate(cells, asked.out, options)
    rows = coverage(cells, attempts)
    table(rows)
    summary = [cell.model_dump(mode="json") | {"found": dict(found)} for cell, found in rows]
    (asked.out / "coverage.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return _summary(asked.out, rows)


def _requests(asked: Generate, env_id: str) -> list[Request]:
    from failwise.generate import MODES, Request, possible_modes, read_requests
    from failwise.rollout.collecting import environment

    if asked.spec is not None:
        return read_requests(asked.spec)
    axes, stages = _names(asked.axes), _names(asked.stages)
    modes = _names(asked.modes) or tuple(possible_modes(environment(env_id), stages))
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise UnknownNameError("failure mode", unknown[0], MODES)
    return [
        Request(
            mode=mode,
            episodes=asked.episodes // len(modes) + (number < asked.episodes % len(modes)),
            axes=axes if MODES[mode].axes else (),
            stages=stages,
        )
        for number, mode in enumerate(modes)
    ]


def _mended(out: Path, attempts: Sequence[Attempt]) -> int:
    """One line a task on what was mended; 1 when nothing was."""
    for env_id in sorted({a.env_id for a in attempts}):
        mine = [a for a in attempts if a.env_id == env_id]
        n = Counter(a.result for a in mine)
        verified = sum(a.corrections for a in mine)
        print(
            f"{env_id}: {n['kept']} of {len(mine) - n['succeeded']} failures mended, {verified} verified recoveries in "
            + str(out)
            + (f"; {n['unmended']} not" if n["unmended"] else "")
            + (f"; {n['error']} could not be replayed or explained" if n["error"] else "")
            + (f"; {n['succeeded']} successes recorded beside them" if n["succeeded"] else "")
        )
    return 0 if any(a.result == "kept" for a in attempts) else 1


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def table(rows: Sequence[tuple[Cell, Mapping[str, int]]]) -> None:
    """Show a row a cell: what was wanted, what is there, and what became of the other attempts."""
    from rich.table import Table

    shown = Table(title="failures with a verified recovery")
    columns = ("kept", "wanted", "recoveries", "harmless", "unmended", "no plan", "errors")
    for name in ("task", "mode", "axis", "stage"):
        shown.add_column(name, overflow="fold")
    for name in columns:
        shown.add_column(name, justify="right")
    for cell, n in rows:
        others = (n["corrections"], n["harmless"], n["unmended"], n["no_plan"] + n["inapplicable"], n["error"])
        row = (cell.env_id.split("/", 1)[1], cell.mode, cell.axis, cell.stage, str(n["kept"]), str(cell.wanted))
        shown.add_row(*row, *map(str, others), style="" if n["kept"] >= cell.wanted else "yellow")
    print_table(shown)


def _summary(out: Path, rows: Sequence[tuple[Cell, Mapping[str, int]]]) -> int:
    """One line on what is there, and where to go on; 1 when nothing is."""
    kept, wanted = sum(n["kept"] for _, n in rows), sum(cell.wanted for cell, _ in rows)
    verified = sum(n["corrections"] for _, n in rows)
    short = [cell for cell, n in rows if n["kept"] < cell.wanted]
    print(f"{kept} failures with {verified} verified recoveries in {out}, of {wanted} failures wanted")
    if short:
        print(
            f"{len(short)} of {len(rows)} cells have fewer than wanted (yellow); the same command with a higher "
            "--patience tries more layouts"
        )
    return 0 if kept else 1
