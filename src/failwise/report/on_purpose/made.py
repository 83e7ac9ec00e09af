"""What a folder of failures on purpose holds, read once: attempts, cells, and the episodes' meta data. Reads only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from failwise.errors import DataError, StoreError
from failwise.generate import MODES, Attempt, Cell, parts_of, read_attempts
from failwise.generate.attempts import FILE
from failwise.generate.mending import EPISODES, RECOVERIES
from failwise.generate.own import ARM
from failwise.generate.plan import PLAN, stages_in_order
from failwise.store import EpisodeStore
from failwise.types import EpisodeMeta

COVERAGE = "coverage.json"


@dataclass(frozen=True)
class Made:
    """A folder that ``failwise generate`` wrote.

    Attributes:
        folder: it.
        cells: (env_id, name) -> what was wanted of it, where ``coverage.json`` tells.
        attempts: at failures on purpose. own: at the policy's own failures; its successes do not count.
        failures: episodes that failed, without the plans; by task, mode, and layout.
        recoveries: failed episode -> its verified recoveries, the earliest first.
        stages: env_id -> its stages, in order.
    """

    folder: Path
    cells: Mapping[tuple[str, str], Cell]
    attempts: tuple[Attempt, ...]
    own: tuple[Attempt, ...]
    failures: tuple[EpisodeMeta, ...]
    recoveries: Mapping[str, tuple[EpisodeMeta, ...]]
    stages: Mapping[str, tuple[str, ...]]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that was tried."""
        return tuple(sorted({a.env_id for a in (*self.attempts, *self.own)}))


def is_made(folder: Path) -> bool:
    """Whether a folder is one that ``failwise generate`` wrote."""
    return (folder / FILE).is_file()


def read_made(folder: Path) -> Made:
    """Read a folder; nothing is written, so it may be one that is still being made.

    Raises:
        DataError: no attempt was made yet. StoreError: attempts or coverage are not what they should be.
    """
    attempts = read_attempts(folder, repair=False)
    if not attempts:
        raise DataError(f"{folder} holds no attempt yet: make failures with 'failwise generate --out {folder}'")
    metas = _metas(folder / EPISODES)
    failures = [m for m in metas if m.arm != PLAN and m.failure_events]
    recoveries: dict[str, list[EpisodeMeta]] = {}
    for meta in _metas(folder / RECOVERIES):
        if "correction" in meta.extra:
            recoveries.setdefault(str(meta.extra["recovers"]), []).append(meta)
    return Made(
        folder=folder,
        cells=_cells(folder / COVERAGE),
        attempts=tuple(a for a in attempts if a.cell != ARM),
        own=tuple(a for a in attempts if a.cell == ARM and a.result != "succeeded"),
        failures=tuple(sorted(failures, key=lambda m: (m.env_id, mode_rank(kind(m)[0]), m.env_seed, m.arm))),
        recoveries={name: tuple(sorted(of, key=lambda m: m.arm)) for name, of in recoveries.items()},
        stages=_stages(metas, attempts),
    )


def kind(meta: EpisodeMeta) -> tuple[str, str]:
    """Mode and axis of a failure."""
    about = meta.extra.get("kind") or {"mode": meta.failure_events[0].mode, "axis": ""}
    return str(about["mode"]), str(about["axis"])


def is_own(meta: EpisodeMeta) -> bool:
    """Whether a failure is the policy's own."""
    return "own" in meta.extra


def mode_rank(mode: str) -> tuple[int, str]:
    """Modes in the order of ``MODES``, others after them."""
    return (list(MODES).index(mode) if mode in MODES else len(MODES), mode)


def _metas(path: Path) -> list[EpisodeMeta]:
    return EpisodeStore(path, create=False).metas() if path.is_dir() else []


def _cells(path: Path) -> dict[tuple[str, str], Cell]:
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        cells = [Cell.model_validate({k: v for k, v in row.items() if k != "found"}) for row in rows]
    except (ValueError, AttributeError, ValidationError) as error:
        raise StoreError(f"{path} is no list of cells ({' '.join(str(error).split())[:120]}); make it again") from error
    return {(cell.env_id, cell.name): cell for cell in cells}


def _stages(metas: list[EpisodeMeta], attempts: list[Attempt]) -> dict[str, tuple[str, ...]]:
    """The stages of each task, in the order in which plans pass them; those that no plan has come last."""
    places: dict[str, dict[str, list[int]]] = {}
    for meta in metas:
        for place, name in enumerate(stages_in_order(meta.extra.get("stages", {}))):
            places.setdefault(meta.env_id, {}).setdefault(name, []).append(place)
    for attempt in attempts:
        if stage := parts_of(attempt.cell)[2]:
            places.setdefault(attempt.env_id, {}).setdefault(stage, [])
    return {
        env_id: tuple(sorted(of, key=lambda name: (float(np.mean(of[name])) if of[name] else np.inf, name)))
        for env_id, of in sorted(places.items())
    }
