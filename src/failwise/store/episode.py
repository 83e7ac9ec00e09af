"""Reading one episode: every part is loaded when it is first asked for, and images only when they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from failwise.errors import DataError
from failwise.store.arrays import decode_features, decode_samples, decode_snapshot, snapshot_steps
from failwise.store.frames import FrameFile
from failwise.store.naming import CHUNKS, FEATURES, FRAMES, META, SNAPSHOTS, STEPS
from failwise.store.tables import ChunkTable, StepTable, decode_chunks, decode_steps, reading
from failwise.types import Actor, EpisodeMeta, StepRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.store.shards import ShardPath


def read_meta(directory: Path | ShardPath) -> EpisodeMeta:
    """An episode's ``meta.json``. Raises ``StoreError`` when it is missing or not what it should be."""
    path = directory / META
    with reading(path):
        return EpisodeMeta.model_validate_json(path.read_bytes())


class StoredEpisode:
    """One committed episode of T steps and C policy inferences (chunks), read lazily.

    Arrays that are handed out are the caller's own. Every method raises ``StoreError`` when the file it needs
    is missing or damaged; the other parts of the episode stay readable.
    """

    def __init__(self, path: Path | ShardPath) -> None:
        self.path = path
        self.id = path.name
        self.meta = read_meta(path)

    @cached_property
    def _steps(self) -> StepTable:
        return decode_steps(self.path / STEPS)

    @cached_property
    def _chunks(self) -> ChunkTable:
        return decode_chunks(self.path / CHUNKS)

    @cached_property
    def _frames(self) -> FrameFile:
        return FrameFile(self.path / FRAMES)

    def actions(self) -> NDArray[np.float32]:
        """Actions as executed, float32 (T, A), in the environment's units."""
        return self._steps.actions.copy()

    def states(self) -> NDArray[np.float32]:
        """Proprioception before each action, float32 (T, S)."""
        return self._steps.states.copy()

    def rewards(self) -> NDArray[np.float64]:
        """The environment's reward after each action, float64 (T,)."""
        return self._steps.rewards.copy()

    def conditions(self) -> dict[str, NDArray[np.bool_]]:
        """Condition name -> bool (T,) after each action, in the task's order."""
        return {name: held.copy() for name, held in self._steps.conditions.items()}

    def actors(self) -> NDArray[np.str_]:
        """Who chose each action, str (T,): values of ``failwise.types.Actor``."""
        return self._steps.actors.copy()

    def chunk_steps(self) -> NDArray[np.int64]:
        """The index of each action inside its chunk, int64 (T,); 0 marks a fresh inference."""
        return self._steps.chunk_steps.copy()

    def scores(self) -> NDArray[np.float64]:
        """Detector scores, float64 (T,), NaN where there is none."""
        return self._steps.scores.copy()

    def chunk_starts(self) -> NDArray[np.int64]:
        """The steps at which the policy was asked, int64 (C,)."""
        return self._chunks.starts.copy()

    def info(self) -> dict[str, NDArray[np.float32]]:
        """Scalar name -> float32 (C,) a chunk, NaN where a chunk did not report it."""
        return {name: values.copy() for name, values in self._chunks.info.items()}

    def action_chunk(self, step: int, horizon: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The actions executed from a step on. Opens no image.

        Args:
            step: 0 <= step < T.
            horizon: H >= 1.

        Returns:
            float32 (H, A), the last action repeated beyond the end, and bool (H,), False where it was
            repeated.

        Raises:
            DataError: ``step`` or ``horizon`` is out of range.
        """
        actions = self._steps.actions
        if not 0 <= step < len(actions) or horizon < 1:
            raise DataError(f"{self.id}: no chunk of {horizon} actions from step {step}; steps: {len(actions)}")
        wanted = np.arange(step, step + horizon)
        return actions[np.minimum(wanted, len(actions) - 1)], wanted < len(actions)

    def look_steps(self) -> NDArray[np.int64]:
        """The steps at which the cameras were recorded, int64 (F,)."""
        return self._frames.steps.copy() if self.meta.n_frames else np.zeros(0, np.int64)

    def cameras(self) -> tuple[str, ...]:
        """The cameras that were recorded, sorted; empty when there are no frames."""
        return self._frames.cameras if self.meta.n_frames else ()

    def frames(self, camera: str, looks: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Images of one camera, uint8 (F', h, w, 3), decoding only those.

        Args:
            camera: one of ``meta.cameras``.
            looks: indices into ``look_steps()``, in any order; all of them when None.

        Raises:
            DataError: no such camera or look was recorded.
        """
        if not self.meta.n_frames:
            raise DataError(f"{self.id}: no frames were recorded")
        return self._frames.read(camera, looks)

    def features(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Steps int64 (C',) and the policy's features float32 (C', D) there; empty if none were recorded."""
        if not (self.path / FEATURES).exists():
            return np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
        return decode_features(self.path / FEATURES)

    def samples(self) -> NDArray[np.float32] | None:
        """Chunks that were drawn for detectors, float32 (C', N, H, A), normalised; None if none were recorded."""
        return decode_samples(self.path / FEATURES) if (self.path / FEATURES).exists() else None

    def snapshot_steps(self) -> list[int]:
        """The steps with a simulator snapshot, ascending."""
        return snapshot_steps(self.path / SNAPSHOTS) if (self.path / SNAPSHOTS).exists() else []

    def snapshot(self, step: int) -> dict[str, NDArray[Any]]:
        """The simulator's state before the action of a step, as ``Environment.restore`` takes it.

        Raises:
            DataError: no snapshot was recorded at that step.
        """
        if step not in (known := self.snapshot_steps()):
            raise DataError(f"{self.id}: no snapshot at step {step}; there are some at {known or 'no step'}")
        return decode_snapshot(self.path / SNAPSHOTS, step)

    def steps(self) -> Iterator[StepRecord]:
        """Every step as it was recorded, in order. Chunk scalars come back as float32 holds them."""
        table, chunks = self._steps, self._chunks
        row_of_start = {int(start): row for row, start in enumerate(chunks.starts)}
        for step in range(len(table.rewards)):
            row = row_of_start.get(step)
            scalars = {} if row is None else {name: float(values[row]) for name, values in chunks.info.items()}
            score = float(table.scores[step])
            yield StepRecord(
                step=step,
                state=table.states[step].copy(),
                action=table.actions[step].copy(),
                reward=float(table.rewards[step]),
                conditions={name: bool(held[step]) for name, held in table.conditions.items()},
                actor=Actor(str(table.actors[step])),
                chunk_step=int(table.chunk_steps[step]),
                info={name: value for name, value in scalars.items() if not np.isnan(value)},
                score=None if np.isnan(score) else score,
            )
