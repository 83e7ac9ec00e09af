"""``failwise store export|import --lerobot`` and ``failwise export lerobot``: datasets in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tyro.conf import Positional

from failwise.cli.options import existing_folder, parse_with, writable_folder
from failwise.errors import SetupError
from failwise.exchange import ExportOptions, ImportOptions


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


@dataclass(frozen=True, kw_only=True)
class StoreImport:
    """Where from and where to."""

    lerobot: str
    """The LeRobotDataset: its folder, or its name (USER/NAME)."""
    out: Path
    """The store that gets the episodes; made where it is missing."""


_EXPORT = "Write recorded episodes as a LeRobotDataset v3, failures with what is known of them."
_AGE = "failwise.picture_age"
_IMPORT = "Take a LeRobotDataset v3 over as recorded episodes."


def store_export(argv: Sequence[str]) -> int:
    """``failwise store export PATH... --lerobot DIR``."""
    asked, options = parse_with(StoreExport, ExportOptions, argv, "store export", _EXPORT)
    return _export(asked.path, asked.lerobot, options)


def export_lerobot(argv: Sequence[str]) -> int:
    """``failwise export lerobot --episodes PATH --out DIR``."""
    asked, options = parse_with(ExportLeRobot, ExportOptions, argv, "export lerobot", _EXPORT)
    return _export((asked.episodes,), asked.out, options)


def store_import(argv: Sequence[str]) -> int:
    """``failwise store import --lerobot DIR --out STORE``."""
    from rich.progress import track

    from failwise.exchange import import_lerobot

    asked, options = parse_with(StoreImport, ImportOptions, argv, "store import", _IMPORT)
    if options.look_every < 0:
        raise SetupError(f"--look-every must be at least 0, not {options.look_every}")
    writable_folder(asked.out)
    done = import_lerobot(asked.lerobot, asked.out, options, partial(track, description="import"))
    total = sum(done.outcomes.values())
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(done.outcomes.items()))
    print(f"{asked.out}: {total} episodes imported ({ended or 'none'}), {done.present} were there already")
    if total and (others := total - done.exported_by_us):
        print(
            f"{others} were recorded elsewhere: their seeds are numbers, not layouts, so nothing can be paired by them"
        )
    if done.depth_cameras:
        print(f"left out, as depth is not kept: {', '.join(done.depth_cameras)}")
    return 0


def _export(paths: Sequence[Path], out: Path, options: ExportOptions) -> int:
    from rich.filesize import decimal
    from rich.progress import track

    from failwise.exchange import export_lerobot
    from failwise.store import EpisodeStore, stores_under

    if options.fps is not None and options.fps < 1:
        raise SetupError(f"--fps must be at least 1, not {options.fps}")
    if not paths:
        raise SetupError("name at least one folder with episodes")
    folders = dict.fromkeys(
        folder for path in paths for folder in stores_under(existing_folder(path, "path", "recorded episodes"))
    )
    if not folders:
        raise SetupError(f"no episodes in {', '.join(map(str, paths))} or below; 'failwise collect' records some")
    stores = [EpisodeStore(folder, create=False) for folder in folders]
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
