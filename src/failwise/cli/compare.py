"""``failwise compare``: is B better than A, from episodes that are there already; or how many it would take to tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from failwise.cli.options import existing_folder, parse
from failwise.cli.tables import print_table
from failwise.errors import DataError, SetupError

if TYPE_CHECKING:
    from failwise.evaluate import Comparison
    from failwise.types import EpisodeMeta


@dataclass(frozen=True)
class Compare:
    """Compare recorded episodes that share task and seed, wherever they were recorded. Nothing is run."""

    runs: Positional[tuple[str, ...]] = ()
    """Folders with episodes: PATH, or NAME=PATH where all of its episodes are to count as one arm of that name."""
    baseline: str | None = None
    """Arm that the others are compared with. Default: that of the first folder's own evaluation, or its only arm."""
    arms: str = ""
    """Only these arms besides the baseline, e.g. improved-1,extra-1."""
    confidence: float = 0.95
    """Level of the intervals; a test rejects at one minus it."""
    out: Path | None = None
    """Folder for comparison.json; 'failwise report' makes a page of it."""
    plan: float | None = None
    """Instead: how many pairs show a difference of so many points with power .8, e.g. 5."""
    discordant: float = 0.3
    """plan: share of pairs in which the arms are expected to disagree."""


def main(argv: Sequence[str]) -> int:
    """Compare, or plan."""
    options = parse(Compare, argv, "compare")
    if not 0.5 <= options.confidence < 1:
        raise SetupError(f"--confidence {options.confidence} is not in [0.5, 1); 0.95 is usual")
    if options.plan is not None:
        return _plan(options.plan, options.discordant, 1 - options.confidence)
    if not options.runs:
        raise SetupError("name at least one folder with episodes, e.g. failwise compare base=runs/base new=runs/new")
    from failwise.evaluate import compare, verdicts, write_comparison
    from failwise.store import stopped_early, stores_under

    metas = [meta for run in options.runs for meta in _episodes(run)]
    baseline = options.baseline or _first_arm(options.runs[0])
    asked = [name.strip() for name in options.arms.split(",") if name.strip()]
    if len({meta.arm for meta in metas}) < 2:
        raise DataError(
            f"all {len(metas)} episodes are of the arm {metas[0].arm!r}: there is nothing to compare it with"
        )
    early = any(stopped_early(store) for run in options.runs for store in stores_under(_folder(run)))
    comparison = compare(metas, baseline, arms=asked or None, confidence=options.confidence, anytime=early)
    _table(comparison)
    print("\n".join(verdicts(comparison)))
    if options.out is not None:
        print(write_comparison(comparison, options.out))
    return 0


def _episodes(run: str) -> list[EpisodeMeta]:
    """The episodes below a folder, under the name that was given to them."""
    from failwise.store import EpisodeStore, stores_under

    name, given, _ = run.partition("=")
    folder = existing_folder(_folder(run), "runs", "recorded episodes")
    metas = [m for store in stores_under(folder) for m in EpisodeStore(store, create=False).scan()]
    if not metas:
        raise DataError(f"no episodes in {folder} or below it; 'failwise collect --out {folder}' records some")
    return [m.model_copy(update={"arm": name.strip()}) for m in metas] if given else metas


def _folder(run: str) -> Path:
    return Path(run.partition("=")[2] or run)


def _first_arm(run: str) -> str:
    """The baseline where none is named: the run's own, or its only arm.

    Raises:
        SetupError: it has several arms, and does not say which of them the others were compared with.
    """
    from failwise.store import stores_under

    if "=" in run:
        return run.partition("=")[0].strip()
    for store in stores_under(_folder(run)):
        try:
            return str(json.loads((store.parent / "comparison.json").read_text(encoding="utf-8"))["baseline"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no finished evaluation
    arms = sorted({meta.arm for meta in _episodes(run)})
    if len(arms) > 1:
        raise SetupError(f"{_folder(run)} has the arms {', '.join(arms)}: say which one is the --baseline")
    return arms[0]


def _table(comparison: Comparison) -> None:
    """One table an arm, a row a task."""
    from rich.table import Table

    from failwise.evaluate.verdict import p_text, points

    for one in comparison.against:
        table = Table(title=f"{one.arm} against {comparison.baseline}", title_justify="left", show_footer=True)
        pooled = one.pooled
        table.add_column("task", "all")
        for title, of_all in (
            ("pairs", str(pooled.n)),
            ("won", str(pooled.won)),
            ("lost", str(pooled.lost)),
            ("difference", points(pooled.difference)),
            ("p (Holm)", p_text(pooled.p_adjusted)),
        ):
            table.add_column(title, of_all, justify="right", no_wrap=True)
        for env_id, r in one.tasks.items():
            table.add_row(env_id, str(r.n), str(r.won), str(r.lost), points(r.difference), p_text(r.p_adjusted))
        print_table(table)


def _plan(points: float, discordant: float, level: float) -> int:
    from failwise.evaluate.statistics import pairs_needed

    difference = points / 100
    if not 0 < abs(difference) <= 1:
        raise SetupError(f"--plan {points:g} is no difference in points; it must be above 0 and at most 100")
    if not 0 < discordant <= 1:
        raise SetupError(f"--discordant {discordant:g} is no share; it must be above 0 and at most 1")
    needed = pairs_needed(difference, discordant, level=round(level, 12))
    share = max(discordant, abs(difference))
    print(
        f"{needed} pairs show a true difference of {points:g} points with power .8, if the arms disagree in "
        f"{100 * share:.0f}% of the pairs (exact McNemar, two-sided, level {level:.3g})"
    )
    return 0
