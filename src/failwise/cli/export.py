"""``failwise export``: what was recorded, in the forms that other tools read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from failwise.cli.options import Actions, existing_folder, parse, parse_with, run_action, writable_folder
from failwise.errors import SetupError
from failwise.exchange import ExportOptions

if TYPE_CHECKING:
    from failwise.store.outcomes import Format


@dataclass(frozen=True)
class Questions:
    """Questions and answers with pictures about failures on purpose, for fine-tuning a vision-language model."""

    data: Path
    """Folder that 'failwise generate' made, with pictures."""
    out: Path
    """Folder for questions.json and the pictures."""
    correct: float = 1.0
    """Questions about moments that do not fail, for each about one that does."""
    seed: int = 0
    """Of the choice of those moments."""


@dataclass(frozen=True, kw_only=True)
class StoreExport:
    """Where from and where to."""

    path: Positional[tuple[Path, ...]]
    """Folders with episodes, or run folders."""
    lerobot: Path
    """Folder for the LeRobotDataset; must not be there yet."""


@dataclass(frozen=True, kw_only=True)
class ExportLeRobot:
    """Where from and where to."""

    episodes: Path
    """Folder with episodes, or a run folder."""
    out: Path
    """Folder for the LeRobotDataset; must not be there yet."""


@dataclass(frozen=True)
class Outcomes:
    """One row per episode: what acted, on which layout, how it ended, with alarms and interventions."""

    path: Positional[tuple[Path, ...]]
    """Folders with episodes, or run folders."""
    out: Path = Path("-")
    """File that is written: .csv, .json or .jsonl. Default: CSV on standard output."""
    format: Literal["csv", "json", "jsonl", ""] = ""
    """Form of the rows. Default: by the name of --out."""


_LEROBOT = "Write recorded episodes as a LeRobotDataset v3, failures with what is known of them."
_AGE = "failwise.picture_age"


def questions(argv: Sequence[str]) -> int:
    """Write the questions."""
    asked = parse(Questions, argv, "export questions")
    if asked.correct < 0:
        raise SetupError(f"--correct must be at least 0, not {asked.correct}")
    writable_folder(asked.out)
    from failwise.generate.questions import export_questions

    print(export_questions(asked.data, asked.out, asked.correct, asked.seed))
    return 0


def lerobot(argv: Sequence[str]) -> int:
    """``failwise export lerobot --episodes PATH --out DIR``."""
    asked, options = parse_with(ExportLeRobot, ExportOptions, argv, "export lerobot", _LEROBOT)
    return _export((asked.episodes,), asked.out, options)


def store_export(argv: Sequence[str]) -> int:
    """``failwise store export PATH... --lerobot DIR``."""
    asked, options = parse_with(StoreExport, ExportOptions, argv, "store export", _LEROBOT)
    return _export(asked.path, asked.lerobot, options)


def outcomes(argv: Sequence[str]) -> int:
    """``failwise export outcomes PATH... --out FILE``."""
    asked = parse(Outcomes, argv, "export outcomes")
    from failwise.store import EpisodeStore
    from failwise.store.outcomes import outcome_rows, write_outcomes

    form = asked.format or _form_of(asked.out)
    rows = outcome_rows(EpisodeStore(folder, create=False) for folder in _folders(asked.path))
    if asked.out == Path("-"):
        write_outcomes(rows, sys.stdout, form)
        return 0
    if not asked.out.parent.is_dir():
        raise SetupError(f"--out {asked.out}: no folder {asked.out.parent}; make it, or choose another file")
    half = asked.out.with_name(asked.out.name + ".tmp")
    with half.open("w", encoding="utf-8", newline="") as file:
        count = write_outcomes(rows, file, form)
    half.replace(asked.out)
    print(f"{asked.out}: {count} episodes")
    return 0


ACTIONS: Actions = {
    "outcomes": ("one row per episode, as CSV or JSON", outcomes),
    "lerobot": ("a LeRobotDataset v3, failures with what is known of them", lerobot),
    "questions": ("questions and answers with pictures about failures, for fine-tuning a VLM", questions),
}


def main(argv: Sequence[str]) -> int:
    """Run the action that ``argv`` names."""
    return run_action("export", ACTIONS, argv)


def _form_of(out: Path) -> Format:
    """The form that a file's name asks for; CSV for standard output.

    Raises:
        SetupError: it asks for none.
    """
    forms: dict[str, Format] = {".csv": "csv", ".json": "json", ".jsonl": "jsonl"}
    if out == Path("-"):
        return "csv"
    if out.suffix not in forms:
        raise SetupError(f"--out {out}: end it with {', '.join(forms)}, or say which with --format")
    return forms[out.suffix]


def _folders(paths: Sequence[Path]) -> list[Path]:
    """All stores at and below some folders, each once.

    Raises:
        SetupError: none is named, one is no folder, or there is no episode.
    """
    from failwise.store import stores_under

    if not paths:
        raise SetupError("name at least one folder with episodes")
    folders = dict.fromkeys(
        folder for path in paths for folder in stores_under(existing_folder(path, "path", "recorded episodes"))
    )
    if not folders:
        raise SetupError(f"no episodes in {', '.join(map(str, paths))} or below; 'failwise collect' records some")
    return list(folders)


def _export(paths: Sequence[Path], out: Path, options: ExportOptions) -> int:
    from rich.filesize import decimal
    from rich.progress import track

    from failwise.exchange import export_lerobot
    from failwise.store import EpisodeStore

    if options.fps is not None and options.fps < 1:
        raise SetupError(f"--fps must be at least 1, not {options.fps}")
    stores = [EpisodeStore(folder, create=False) for folder in _folders(paths)]
    done = export_lerobot(stores, out, options, partial(track, description="export"))
    print(
        f"{done.path}: {done.successes + done.failures} episodes ({done.failures} failures), {done.frames} frames "
        f"at {done.fps} a second, {decimal(done.bytes)}"
    )
    if older := done.frames - done.looked - done.unseen:
        print(f"{older} frames show an older picture ({_AGE} says how old); collect --look-every 1 takes them all")
    if done.unseen:
        print(f"{done.unseen} frames come before the first picture and show black ({_AGE} is -1)")
    for count, why in (
        (done.no_verdict, "ended in a fault or were stopped"),
        (done.other_outcome, "ended otherwise (--outcome)"),
        (done.empty, "have no step"),
    ):
        if count:
            print(f"left out: {count} that {why}")
    return 0
