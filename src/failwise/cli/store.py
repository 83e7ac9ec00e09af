"""``failwise store``: check, repair or count recorded episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from failwise.cli.options import existing_folder, parse
from failwise.errors import SetupError

if TYPE_CHECKING:
    from failwise.store import EpisodeStore


@dataclass(frozen=True)
class Store:
    """Check, repair or count recorded episodes: those of one store, or of every store below a folder."""

    action: Positional[Literal["check", "repair", "stats"]]
    """check: verify checksums, shapes and counts. repair: put damaged episodes into quarantine and clear what
    killed writers left; nothing that was recorded is deleted. stats: count by task, arm and outcome."""
    path: Positional[Path]
    """Folder with episodes, or a run folder."""
    every_image: bool = False
    """Decode every image when checking, not only some of each camera."""


def check(path: Path, every_image: bool = False) -> int:
    """Print what is wrong below ``path``, one line each; 0 when nothing is, else 1."""
    from failwise.store import check as check_store

    worst = 0
    for store in _stores(path):
        result = check_store(store, every_image)
        for problem in result.problems:
            print(f"{store.path / problem.episode_id}: {problem.what}")
        for leftover in result.leftovers:
            print(f"{leftover}: left by a writer that was killed")
        sound = result.episodes - len(result.damaged)
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in result.outcomes.items() if count)
        print(f"{store.path}: {result.episodes} episodes, {sound} sound ({outcomes or 'none'})")
        if not result.sound:
            print(f"{len(result.damaged)} damaged; to put them aside: failwise store repair {store.path}")
            worst = 1
    return worst


def repair(path: Path, every_image: bool = False) -> int:
    """Put aside what is damaged below ``path`` and print what was done; the rest is sound afterwards."""
    from failwise.store import repair as repair_store

    for store in _stores(path):
        result = repair_store(store, every_image)
        for name, place in result.quarantined.items():
            print(f"{store.path / name}: moved to {place}")
        for leftover in result.removed:
            print(f"{leftover}: removed")
        print(
            f"{store.path}: {len(store)} sound episodes; {len(result.quarantined)} put into quarantine, "
            f"{len(result.removed)} leftovers of killed writers removed"
        )
    return 0


def stats(path: Path) -> int:
    """Print one table a store: episodes by task, arm and outcome, with steps, images and bytes."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    from failwise.store import summarise
    from failwise.types import Outcome

    for store in _stores(path):
        rows = summarise(store)
        table = Table(title=str(store.path), title_justify="left", show_footer=len(rows) > 1)
        table.add_column("task", "all")
        table.add_column("arm", no_wrap=True)
        for outcome in Outcome:
            table.add_column(outcome, f"{sum(row.outcomes[outcome] for row in rows)}", justify="right")
        for name, total in (
            ("episodes", f"{sum(row.episodes for row in rows)}"),
            ("steps", f"{sum(row.steps for row in rows)}"),
            ("images", f"{sum(row.frames for row in rows)}"),
            ("size", decimal(sum(row.bytes for row in rows))),
        ):
            table.add_column(name, total, justify="right")
        for row in rows:
            counts = [f"{row.outcomes[outcome]}" for outcome in Outcome]
            sizes = [f"{row.episodes}", f"{row.steps}", f"{row.frames}", decimal(row.bytes)]
            table.add_row(row.task, row.arm, *counts, *sizes)
        Console().print(table)
    return 0


def main(args: Sequence[str]) -> int:
    """Do what was asked; 0 when all is well, 1 when ``check`` found something wrong."""
    options = parse(Store, args, "store")
    existing_folder(options.path, "path", "recorded episodes")
    match options.action:
        case "check":
            return check(options.path, options.every_image)
        case "repair":
            return repair(options.path, options.every_image)
        case "stats":
            return stats(options.path)


def _stores(path: Path) -> list[EpisodeStore]:
    from failwise.store import EpisodeStore, stores_under

    found = stores_under(path)
    if not found:
        raise SetupError(f"no episodes in {path} or below it; 'failwise collect --out {path}' records some")
    return [EpisodeStore(folder, create=False) for folder in found]
