"""What is drawn beside a video: scalars over time as lines, conditions as bars, events as marks. Plain SVG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from failwise.store import StoredEpisode

WIDTH, HEIGHT = 600, 70  # of a chart, in its own units
HIDDEN = ("latency_s",)


@dataclass(frozen=True)
class Line:
    """A scalar over the steps of an episode: SVG path, and the range of its axis."""

    name: str
    path: str
    low: str
    high: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Bar:
    """A condition: where it held, as (x, width)."""

    name: str
    spans: tuple[tuple[float, float], ...]
    ever: bool


@dataclass(frozen=True)
class Mark:
    """A failure event: x, what and by whom."""

    x: float
    text: str
    step: int


@dataclass(frozen=True)
class Curves:
    """All that is drawn of an episode."""

    lines: tuple[Line, ...]
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]


def curves(episode: StoredEpisode) -> Curves:
    """Everything that changes during an episode: detector's score, each scalar of the chunks, each condition."""
    meta = episode.meta
    steps = max(1, meta.n_steps)
    lines = []
    scores = episode.scores()
    if len(scores) and not np.isnan(scores).all():
        lines.append(_line("detector score", np.arange(len(scores)), scores, steps))
    starts = episode.chunk_starts()
    for name, values in episode.info().items():
        if name not in HIDDEN and not np.isnan(values).all():
            lines.append(_line(name.replace("_", " "), starts, values, steps))
    bars = tuple(Bar(name, _spans(held, steps), bool(held.any())) for name, held in episode.conditions().items())
    marks = tuple(
        Mark(_x(e.onset_step, steps), " ".join(filter(None, (e.mode, f"({e.source})"))), e.onset_step)
        for e in meta.failure_events
    )
    return Curves(tuple(lines), bars, marks)


def _x(step: float, steps: int) -> float:
    return round(WIDTH * float(step) / steps, 1)


def _line(name: str, at: np.ndarray, values: np.ndarray, steps: int) -> Line:
    known = ~np.isnan(values)
    at, values = at[known], values[known].astype(float)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = high - low or 1.0
    points = [(_x(a, steps), round(HEIGHT * (1 - (v - low) / span), 1)) for a, v in zip(at, values, strict=True)]
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    return Line(name, path, f"{low:.3g}", f"{high:.3g}", tuple(points) if len(points) == 1 else ())


def _spans(held: np.ndarray, steps: int) -> tuple[tuple[float, float], ...]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], held.astype(np.int8), [0]])))
    return tuple((_x(a, steps), max(1.0, _x(b - a, steps))) for a, b in zip(edges[::2], edges[1::2], strict=True))
