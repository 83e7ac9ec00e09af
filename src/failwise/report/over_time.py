"""Risk, guidance and scores over the time of an episode, successes against failures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from failwise.errors import StoreError
from failwise.report.section import Section
from failwise.report.templating import template_environment
from failwise.store import EpisodeStore
from failwise.types import Outcome

SHOWN = {
    "risk": "risk of failure",
    "guidance_mean": "strength of guidance",
    "head_divergence": "distance of the heads",
    "score": "detector score",
}
BINS = 25
FEWEST = 3  # episodes behind a point
WIDTH, HEIGHT = 300, 120

Series = tuple[NDArray[np.float64], NDArray[np.float64]]  # steps, values


@dataclass(frozen=True)
class Curve:
    """Successes or failures of an arm: median as a path, quartiles as an area, how many episodes."""

    kind: str
    median: str
    quartiles: str
    n: int


@dataclass(frozen=True)
class Chart:
    """One scalar of one arm. ``low`` and ``high``: of the vertical axis; ``steps``: of the horizontal one."""

    arm: str
    name: str
    low: str
    high: str
    steps: int
    curves: tuple[Curve, ...]


def over_time_sections(store: EpisodeStore, arms: Sequence[str]) -> list[Section]:
    """The section of the charts; none where no arm reported a scalar."""
    found: dict[str, dict[str, dict[bool, list[Series]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    longest: dict[str, int] = defaultdict(int)
    for meta in store.scan():
        if meta.arm not in arms or not meta.has_verdict:
            continue
        try:
            episode = store.read(meta.episode_id)
            starts, info, scores = episode.chunk_starts(), episode.info(), episode.scores()
        except StoreError:
            continue  # the page counts and names the unreadable ones elsewhere
        series = {name: (starts.astype(float), v.astype(float)) for name, v in info.items() if name in SHOWN}
        series["score"] = (np.arange(len(scores), dtype=float), scores)
        for name, (at, values) in series.items():
            known = ~np.isnan(values)
            if known.any():
                success = meta.outcome == Outcome.SUCCESS
                found[meta.arm][name][success].append((at[known], values[known]))
                longest[meta.arm] = max(longest[meta.arm], meta.n_steps)
    charts = [
        _chart(arm, name, found[arm][name], longest[arm])
        for arm in arms
        if arm in found
        for name in SHOWN
        if name in found[arm]
    ]
    if not charts:
        return []
    html = template_environment().get_template("over_time.html").render(charts=charts, width=WIDTH, height=HEIGHT)
    return [Section("Risk and guidance over time", html)]


def _chart(arm: str, name: str, by_outcome: Mapping[bool, Sequence[Series]], steps: int) -> Chart:
    bands = {success: _quartiles(series, steps) for success, series in sorted(by_outcome.items())}
    values = np.concatenate([band[:, 1:].ravel() for band in bands.values()] or [np.zeros(1)])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    curves = []
    for success, band in bands.items():
        if len(band):
            x = WIDTH * band[:, 0] / max(1, steps)
            lower, median, upper = (HEIGHT * (1 - (band[:, k] - low) / (high - low or 1.0)) for k in (1, 2, 3))
            area = [*zip(x, upper, strict=True), *zip(x[::-1], lower[::-1], strict=True)]
            kind = "success" if success else "failure"
            line = _path(zip(x, median, strict=True))
            curves.append(Curve(kind, line, _path(area) + " Z", len(by_outcome[success])))
    return Chart(arm, SHOWN[name], f"{low:.2g}", f"{high:.2g}", steps, tuple(curves))


def _quartiles(series: Sequence[Series], steps: int) -> NDArray[np.float64]:
    """Rows (middle of a time bin, quartiles of the episodes' means in it), where enough episodes are left."""
    edges = np.linspace(0, max(1, steps), BINS + 1)
    rows = []
    for start, end in pairwise(edges):
        means = [values[inside].mean() for at, values in series if (inside := (start <= at) & (at < end)).any()]
        if len(means) >= FEWEST:
            rows.append([(start + end) / 2, *np.quantile(means, (0.25, 0.5, 0.75))])
    return np.array(rows).reshape(-1, 4)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
