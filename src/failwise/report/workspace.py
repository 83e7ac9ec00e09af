"""Where in the workspace a policy fails: the layouts of its episodes, seen from above, marked by how they ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from failwise.evaluate import Comparison
from failwise.report.section import Section
from failwise.report.templating import template_environment
from failwise.types import EpisodeMeta, Outcome

SIDE = 150  # of a map, in its own units
MARGIN = 10
WHO = ("object", "goal")  # whose place tells layouts apart: the first that varies

Place = tuple[float, float]


@dataclass(frozen=True)
class Dot:
    """A layout: where on the map, and how it ended (won, lost, both, neither; alone: success, failure)."""

    x: float
    y: float
    kind: str
    title: str


@dataclass(frozen=True)
class Map:
    """One task seen from above. ``who``: whose place the dots are; the spans of both axes in metres."""

    env_id: str
    who: str
    wide: str
    deep: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class MapGroup:
    """The maps of one arm, against the baseline where there is one."""

    arm: str
    maps: tuple[Map, ...]


def workspace_sections(metas: Iterable[EpisodeMeta], comparison: Comparison) -> list[Section]:
    """The section of the maps; none where no layout was recorded."""
    grids: dict[str, dict[tuple[str, int], EpisodeMeta]] = defaultdict(dict)
    for meta in metas:
        if meta.extra.get("layout"):
            grids[meta.arm][meta.env_id, meta.env_seed] = meta
    groups = _groups(grids, comparison)
    if not groups:
        return []
    html = (
        template_environment()
        .get_template("workspace.html")
        .render(groups=groups, side=SIDE, baseline=comparison.baseline if comparison.against else "")
    )
    return [Section("Where in the workspace", html)]


def _groups(grids: Mapping[str, Mapping[tuple[str, int], EpisodeMeta]], comparison: Comparison) -> list[MapGroup]:
    groups = []
    if comparison.against:
        base = grids.get(comparison.baseline or "", {})
        for one in comparison.against:
            kinds = {
                (env_id, seed): kind
                for env_id, pairs in one.seeds.items()
                for kind in ("won", "lost", "both", "neither")
                for seed in getattr(pairs, kind)
            }
            metas = {key: m for key in kinds if (m := grids.get(one.arm, {}).get(key) or base.get(key)) is not None}
            groups.append(MapGroup(one.arm, _maps(metas, kinds)))
    else:
        for arm, grid in sorted(grids.items()):
            kinds = {key: "success" if m.outcome == Outcome.SUCCESS else "failure" for key, m in grid.items()}
            groups.append(MapGroup(arm, _maps(grid, kinds)))
    return [group for group in groups if group.maps]


def _maps(metas: Mapping[tuple[str, int], EpisodeMeta], kinds: Mapping[tuple[str, int], str]) -> tuple[Map, ...]:
    maps = []
    for env_id in sorted({env_id for env_id, _ in metas}):
        here = {seed: meta for (task, seed), meta in sorted(metas.items()) if task == env_id}
        who, places = _places(list(here.values()))
        if not who:
            continue
        low = np.array(places).min(axis=0)
        span = np.maximum(np.array(places).max(axis=0) - low, 1e-6)
        dots = tuple(
            Dot(
                x=round(MARGIN + (SIDE - 2 * MARGIN) * float((x - low[0]) / span[0]), 1),
                y=round(SIDE - MARGIN - (SIDE - 2 * MARGIN) * float((y - low[1]) / span[1]), 1),
                kind=kinds[env_id, seed],
                title=f"seed {seed}: {kinds[env_id, seed]}",
            )
            for seed, (x, y) in zip(here, places, strict=True)
        )
        # What stands out is drawn last, over the others.
        order = ("both", "success", "neither", "failure", "won", "lost")
        dots = tuple(sorted(dots, key=lambda dot: order.index(dot.kind)))
        maps.append(Map(env_id, who, f"{100 * span[0]:.0f} cm", f"{100 * span[1]:.0f} cm", dots))
    return tuple(maps)


def _places(metas: Sequence[EpisodeMeta]) -> tuple[str, list[Place]]:
    """Whose place varies from layout to layout, and (x, y) of each; "" where nothing does."""
    for who in WHO:
        found = [meta.extra["layout"].get(who) for meta in metas]
        places = [(float(p[0]), float(p[1])) for p in found if p is not None]
        if len(places) == len(metas) and len(places) > 1 and np.ptp(np.array(places), axis=0).max() > 1e-3:
            return who, places
    return "", []
