"""How strong the changes were that made episodes fail, when failures began, and how long recoveries took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from failwise.generate import MODES, Attempt, Cell, parts_of
from failwise.generate.failures import drawn_again
from failwise.report.on_purpose.made import Made, is_own, kind, mode_rank
from failwise.report.on_purpose.words import UNITS, correction_of, counted, named

BINS = 10
RESULTS = ("kept", "unmended", "harmless")  # from the bottom of a bar to its top
WIDTH, HEIGHT = 200, 64


@dataclass(frozen=True)
class Part:
    """A piece of a bar, in the chart's own units; ``kind``: of ``RESULTS``."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Histogram:
    """Counts over equal bins. ``mode``: "" for all; ``low`` and ``high``: of the axis, with the unit."""

    mode: str
    title: str
    low: str
    high: str
    n: str
    parts: tuple[Part, ...]


def magnitudes_of(made: Made, env_ids: Sequence[str]) -> list[Histogram]:
    """For each mode with a magnitude: how strong what was kept, unmended and harmless had been.

    Only kept and unmended perturbations are recorded. Those of the other attempts are drawn again from their seeds,
    with the magnitudes that the cell asks for (the mode's own where that is not known); where that does not repeat
    the recorded ones of a mode, its harmless ones are left out.
    """
    recorded = {
        (m.env_id, m.arm, m.env_seed): float(m.extra["perturbation"]["magnitude"])
        for m in made.failures
        if "perturbation" in m.extra
    }
    values: dict[str, dict[str, list[float]]] = {}
    spans: dict[str, list[float]] = {}
    repeats: dict[str, bool] = {}
    for attempt in made.attempts:
        mode = parts_of(attempt.cell)[0]
        if attempt.env_id not in env_ids or mode not in MODES or not MODES[mode].unit or attempt.result not in RESULTS:
            continue
        cell = cell_of(attempt, made.cells)
        again = drawn_again(cell, attempt.seed, attempt.draw).magnitude
        known = None
        if attempt.result != "harmless":
            known = recorded.get((attempt.env_id, attempt.cell, attempt.seed))
            if known is None:
                continue  # its episode is not there any more
            repeats[mode] = repeats.get(mode, True) and abs(again - known) < 1e-9
        factor = UNITS.get(MODES[mode].unit, ("", 1.0))[1]
        size = abs(again if known is None else known) * factor
        spans.setdefault(mode, []).extend(factor * bound for bound in cell.magnitude)
        values.setdefault(mode, {}).setdefault(attempt.result, []).append(size)
    for mode, right in repeats.items():
        if not right:
            values[mode].pop("harmless", None)
    return [
        histogram(mode, named(mode), UNITS.get(MODES[mode].unit, (MODES[mode].unit, 1.0))[0], of, spans[mode])
        for mode, of in sorted(values.items(), key=lambda item: mode_rank(item[0]))
        if of
    ]


def cell_of(attempt: Attempt, cells: Mapping[tuple[str, str], Cell]) -> Cell:
    """The cell that an attempt was made at; where nothing says so, with the mode's own magnitudes."""
    mode, axis, stage = parts_of(attempt.cell)
    bounds = (MODES[mode].low, MODES[mode].high)
    own = Cell(env_id=attempt.env_id, mode=mode, axis=axis, stage=stage, wanted=0, magnitude=bounds)
    return cells.get((attempt.env_id, attempt.cell), own)


def times_of(made: Made, env_ids: Sequence[str]) -> list[Histogram]:
    """When failures on purpose began, and how long their verified recoveries took, in seconds."""
    onsets, lengths, moves = [], [], []
    for meta in made.failures:
        if is_own(meta) or meta.env_id not in env_ids:
            continue
        onsets.append(meta.failure_events[0].onset_step / meta.control_hz)
        for about in meta.extra["corrections"]:
            found = correction_of(about)
            lengths.append((found.moved + found.after) / meta.control_hz)
            moves.append(found.moved / meta.control_hz)
    charts = (("onset of the failure", onsets), ("recovery, whole", lengths), ("recovery, the move alone", moves))
    return [histogram("", title, "s", {"kept": values}) for title, values in charts if values]


def modes_of(made: Made) -> list[str]:
    """Every mode that was tried or that rules named, in order."""
    tried = {parts_of(a.cell)[0] for a in made.attempts}
    return sorted(tried | {kind(m)[0] for m in made.failures}, key=mode_rank)


def histogram(
    mode: str, title: str, unit: str, values: Mapping[str, Sequence[float]], span: Sequence[float] = ()
) -> Histogram:
    """Stacked bars over ``BINS`` equal bins that hold every value and ``span``; ``values``: kind -> numbers."""
    together = np.concatenate([np.asarray(v, float) for v in values.values()])
    low, high = float(min([*together, *span])), float(max([*together, *span]))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    counts = {name: np.histogram(values[name], edges)[0] for name in RESULTS if name in values}
    most = max(1, int(sum(counts.values()).max()))  # type: ignore[union-attr]
    parts, base = [], np.zeros(BINS)
    wide = WIDTH / BINS
    for name, found in counts.items():
        for place, count in enumerate(found.tolist()):
            if count:
                tall = HEIGHT * count / most
                y = HEIGHT * (1 - base[place] / most) - tall
                said = f"{edges[place]:.3g} to {edges[place + 1]:.3g} {unit}: {count}" + (f" {name}" if mode else "")
                parts.append(Part(name, place * wide + 0.5, round(float(y), 2), wide - 1, round(tall, 2), said))
        base += found
    total = {name: len(values[name]) for name in counts}
    n = counted(total, "") if mode else f"{len(together)} in all, median {np.median(together):.2g} {unit}"
    return Histogram(mode, title, f"{low:.3g}", f"{edges[-1]:.3g} {unit}", n, tuple(parts))
