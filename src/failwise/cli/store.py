"""``failwise store``: check, repair, count, pack or join recorded episodes; take them to other tools and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from failwise.cli.export import store_export
from failwise.cli.options import existing_folder, parse, parse_with, writable_folder
from failwise.cli.tables import print_table
from failwise.errors import SetupError
from failwise.exchange import (
    ImportOptions,
    RldsOptions,
    RobomimicOptions,
    import_lerobot,
    import_rlds,
    import_robomimic,
)

if TYPE_CHECKING:
    from failwise.exchange import Imported
    from failwise.store import EpisodeStore


@dataclass(frozen=True)
class Store:
    """Check, repair, count, pack or join recorded episodes: those of a store, or of every store below a folder.

    'failwise store export --help' and 'failwise store import --help' show how to write and read what other tools use.
    """

    action: Positional[Literal["check", "repair", "stats", "compact", "merge", "export", "import"]]
    """check: verify checksums, shapes and counts. repair: put damaged episodes into quarantine and clear what
    killed writers left; nothing that was recorded is deleted. stats: count by task, arm and outcome. compact: put many
    episodes into one file each, for very large stores. merge: copy all episodes into the store --into.
    export: a LeRobotDataset (--lerobot). import: one (--lerobot), demonstrations of robomimic (--robomimic), or an RLDS
    dataset (--rlds)."""
    path: Positional[tuple[Path, ...]]
    """Folders with episodes, or run folders."""
    into: Path | None = None
    """merge: the store that gets the episodes; made where it is missing."""
    per_shard: int = 1000
    """compact: episodes a file."""
    every_image: bool = False
    """Decode every image when checking, not only some of each camera."""


@dataclass(frozen=True, kw_only=True)
class _Into:
    out: Path
    """The store that gets the episodes; made where it is missing."""


@dataclass(frozen=True, kw_only=True)
class LeRobotImport(_Into):
    """Where from and where to."""

    lerobot: str
    """The LeRobotDataset: its folder, or its name (USER/NAME)."""


@dataclass(frozen=True, kw_only=True)
class RobomimicImport(_Into):
    """Where from and where to."""

    robomimic: Path
    """The HDF5 file with demonstrations (data/demo_0, ...) of robomimic, LIBERO, MimicGen or RoboCasa."""


@dataclass(frozen=True, kw_only=True)
class RldsImport(_Into):
    """Where from and where to."""

    rlds: Path
    """The folder with dataset_info.json, features.json and the TFRecord files."""


FORMS: dict[str, tuple[type[Any], type[Any], Callable[..., Imported], str]] = {
    "lerobot": (LeRobotImport, ImportOptions, import_lerobot, "Take a LeRobotDataset v3 over as recorded episodes."),
    "robomimic": (
        RobomimicImport, RobomimicOptions, import_robomimic,
        "Take an HDF5 file of robomimic's form, LIBERO's included, over as recorded episodes.",
    ),
    "rlds": (RldsImport, RldsOptions, import_rlds, "Take an RLDS dataset, as in Open X-Embodiment, over as episodes."),
}  # fmt: skip
"""Form -> where from and to, options, what does it, and the summary."""


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
        print_table(table)
    return 0


def compact(path: Path, per_shard: int) -> int:
    """Pack the episodes below ``path`` and print what was done; 1 when damaged ones were left as they are."""
    from rich.progress import track

    from failwise.store import compact as compact_store

    worst = 0
    for store in _stores(path):
        done = compact_store(store, per_shard, partial(track, description=f"compact {store.path.name}"))
        for name, problem in done.damaged.items():
            print(f"{store.path / name}: left as it is: {problem}")
        print(f"{store.path}: {done.episodes} episodes put into {len(done.shards)} files")
        worst = max(worst, int(bool(done.damaged)))
    return worst


def merge(paths: Sequence[Path], into: Path | None) -> int:
    """Copy the episodes below ``paths`` into one store and print how many."""
    from rich.progress import track

    from failwise.store import EpisodeStore
    from failwise.store import merge as merge_stores

    if into is None:
        raise SetupError("merge needs --into, the store that gets the episodes")
    sources = [store for path in paths for store in _stores(path) if store.path.resolve() != into.resolve()]
    done = merge_stores(sources, EpisodeStore(into), partial(track, description="merge"))
    print(f"{into}: {done.copied} episodes copied from {len(sources)} stores, {done.present} were there already")
    return 0


def store_import(argv: Sequence[str]) -> int:
    """``failwise store import --lerobot DIR | --robomimic FILE | --rlds DIR --out STORE``."""
    from rich.progress import track

    argv = [_renamed(word) for word in argv]
    named = [form for form in FORMS if any(word.partition("=")[0] == f"--{form}" for word in argv)]
    asks_help = bool({"-h", "--help"} & {*argv})
    if asks_help and not named:
        rows = "\n".join(f"  --{form:<10} {summary}" for form, (*_, summary) in FORMS.items())
        print(f"usage: failwise store import FORM --out STORE [OPTIONS]\n\nforms:\n{rows}\n")
        print("'failwise store import --rlds --help' shows the options of a form.")
        raise SystemExit(0)
    if len(named) != 1:
        raise SetupError(
            f"failwise store import takes one of {', '.join(f'--{form}' for form in FORMS)}, and --out STORE"
        )
    where, how, take_over, summary = FORMS[named[0]]
    asked, options = parse_with(where, how, ["--help"] if asks_help else argv, "store import", summary)
    if options.look_every < 0:
        raise SetupError(f"--look-every must be at least 0, not {options.look_every}")
    writable_folder(asked.out)
    done = take_over(getattr(asked, named[0]), asked.out, options, partial(track, description="import"))
    total = sum(done.outcomes.values())
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(done.outcomes.items()))
    print(f"{asked.out}: {total} episodes imported ({ended or 'none'}), {done.present} were there already")
    if total and (others := total - done.exported_by_us):
        print(
            f"{others} were recorded elsewhere: their seeds are numbers, not layouts, so nothing can be paired by them"
        )
    for note in done.notes:
        print(note)
    if done.depth_cameras:
        print(f"left out, as depth is not kept: {', '.join(done.depth_cameras)}")
    return 0


def _renamed(word: str) -> str:
    """An option of the last release under its present name, with a note; any other word as it is."""
    name, equals, value = word.partition("=")
    if name != "--assume":
        return word
    print("failwise: --assume is called --outcome now; the old name will be gone after this release", file=sys.stderr)
    return f"--outcome{equals}{value}"


def main(args: Sequence[str]) -> int:
    """Do what was asked; 0 when all is well, 1 when something wrong was found."""
    if args and args[0] in ("export", "import"):  # these have options of their own
        return (store_export if args[0] == "export" else store_import)(args[1:])
    options = parse(Store, args, "store")
    if not options.path:
        raise SetupError("name at least one folder with episodes")
    if options.per_shard < 1:
        raise SetupError(f"--per-shard must be at least 1, not {options.per_shard}")
    for path in options.path:
        existing_folder(path, "path", "recorded episodes")
    match options.action:
        case "check":
            return max(check(path, options.every_image) for path in options.path)
        case "repair":
            return max(repair(path, options.every_image) for path in options.path)
        case "stats":
            return max(stats(path) for path in options.path)
        case "compact":
            return max(compact(path, options.per_shard) for path in options.path)
        case "merge":
            return merge(options.path, options.into)
        case "export" | "import":
            raise SetupError(f"write the action first: failwise store {options.action} ...")


def _stores(path: Path) -> list[EpisodeStore]:
    from failwise.store import EpisodeStore, stores_under

    found = stores_under(path)
    if not found:
        raise SetupError(f"no episodes in {path} or below it; 'failwise collect --out {path}' records some")
    return [EpisodeStore(folder, create=False) for folder in found]
