"""The recorder: buffers one episode in memory and commits it to disk as a whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from failwise.errors import EpisodeError, StoreError
from failwise.store.arrays import encode_features, encode_snapshots
from failwise.store.consistency import Recorded, contradictions
from failwise.store.durable import publish
from failwise.store.frames import encode_frames, encode_png
from failwise.store.naming import (
    CHUNKS,
    FEATURES,
    MANIFEST,
    META,
    SNAPSHOTS,
    STEPS,
    is_safe,
    require_episode_id,
)
from failwise.store.tables import ChunkTable, StepTable, encode_chunks, encode_steps
from failwise.types import EpisodeMeta, StepRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.types import ImageHW3

_log = logging.getLogger("failwise.store")


class EpisodeWriter:
    """Records one episode. Nothing reaches the disk before ``commit``; ``abandon`` forgets everything.

    As a context manager it abandons what was not committed. Every array is copied, so callers may reuse
    theirs. ``EpisodeError`` is raised for what cannot be recorded (a shape that changes between steps, a
    value that is not finite); what was recorded before stays, and can be committed.
    """

    def __init__(
        self, root: Path, episode_id: str, *, video: bool = False, taken: Callable[[str], bool] = lambda _: False
    ) -> None:
        require_episode_id(episode_id)
        self.id = episode_id
        self.first = True
        """After ``commit``: whether the episode in the store is this writer's (False: another was first)."""
        self._root = root
        self._video = video
        self._taken = taken
        self._done = False
        self._steps: list[StepRecord] = []
        self._look_steps: list[int] = []
        self._pngs: dict[str, list[bytes]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._features: dict[int, NDArray[np.float32]] = {}
        self._samples: dict[int, NDArray[np.float32]] = {}
        self._snapshots: dict[int, dict[str, NDArray[Any]]] = {}

    def step(self, record: StepRecord) -> None:
        """Record one environment step. Steps come in order, 0, 1, 2, ...

        Raises:
            EpisodeError: wrong order, another shape or other conditions than before, a value that is not
                finite, or chunk scalars on a step that does not begin a chunk.
        """
        self._require_open()
        where = f"{self.id} step {record.step}"
        if record.step != len(self._steps):
            raise EpisodeError(f"{where}: out of order, expected step {len(self._steps)}")
        state = _vector(record.state, f"{where}: state")
        action = _vector(record.action, f"{where}: action")
        scalars = {"reward": record.reward, "score": 0.0 if record.score is None else record.score}
        for name, value in scalars.items():
            if not np.isfinite(value):
                raise EpisodeError(f"{where}: {name} is {value}, which is not finite")
        if record.info and record.chunk_step != 0:
            raise EpisodeError(
                f"{where}: chunk scalars belong to its first step, this is chunk_step {record.chunk_step}"
            )
        if record.chunk_step < 0:
            raise EpisodeError(f"{where}: chunk_step is {record.chunk_step}, expected 0 or more")
        if self._steps:
            before = self._steps[0]
            _require_same(f"{where}: state has shape", state.shape, before.state.shape)
            _require_same(f"{where}: action has shape", action.shape, before.action.shape)
            _require_same(f"{where}: conditions are", list(record.conditions), list(before.conditions))
        self._steps.append(
            StepRecord(
                step=record.step,
                state=state,
                action=action,
                reward=float(record.reward),
                conditions={name: bool(held) for name, held in record.conditions.items()},
                actor=record.actor,
                chunk_step=int(record.chunk_step),
                info={name: float(value) for name, value in record.info.items()},
                score=None if record.score is None else float(record.score),
            )
        )

    def look(self, step: int, images: Mapping[str, ImageHW3]) -> None:
        """Record what every camera sees at a step, before its action; the last may be after the final step.

        Args:
            step: 0-based, greater than at the last look.
            images: camera -> uint8 (h, w, 3) RGB; the same cameras and sizes at every look.

        Raises:
            EpisodeError: wrong order, cameras, shape or dtype.
        """
        self._require_open()
        where = f"{self.id} look at step {step}"
        if self._look_steps and step <= self._look_steps[-1]:
            raise EpisodeError(f"{where}: out of order, the last look was at step {self._look_steps[-1]}")
        if step < 0 or not images:
            raise EpisodeError(f"{where}: needs a step of 0 or more and at least one camera")
        cameras = sorted(images)
        if self._look_steps:
            _require_same(f"{where}: cameras are", cameras, list(self._pngs))
        pngs: dict[str, bytes] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for camera in cameras:
            if not is_safe(camera):
                raise EpisodeError(f"{where}: camera name {camera!r} may hold only letters, digits, '.', '_' and '-'")
            image = np.asarray(images[camera])
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise EpisodeError(
                    f"{where}: camera {camera!r} gave {image.dtype} {image.shape}, expected uint8 (h, w, 3)"
                )
            sizes[camera] = (image.shape[0], image.shape[1])
            _require_same(f"{where}: camera {camera!r} has size", sizes[camera], self._sizes.get(camera, sizes[camera]))
            pngs[camera] = encode_png(image)
        self._sizes = sizes
        self._look_steps.append(int(step))
        for camera, png in pngs.items():
            self._pngs.setdefault(camera, []).append(png)

    def features(self, step: int, vector_D: NDArray[Any], samples_NHA: NDArray[Any] | None = None) -> None:
        """Record the policy's features (D,) at a step, and chunks (N, H, A) that it drew there for detectors.

        Raises:
            EpisodeError: another shape than before, a value that is not finite, or a step given twice.
        """
        self._require_open()
        vector = _vector(vector_D, f"{self.id} step {step}: features")
        if step in self._features or step < 0:
            raise EpisodeError(f"{self.id} step {step}: features need a step of 0 or more, once each")
        if self._features:
            before = next(iter(self._features.values()))
            _require_same(f"{self.id} step {step}: features have shape", vector.shape, before.shape)
        drawn = None if samples_NHA is None else np.array(samples_NHA, np.float32)
        if drawn is not None and (drawn.ndim != 3 or not np.isfinite(drawn).all()):
            raise EpisodeError(f"{self.id} step {step}: samples {drawn.shape} must be finite and (N, H, A)")
        if self._features:
            before_shape = next((x.shape for x in self._samples.values()), None)
            shape = None if drawn is None else drawn.shape
            _require_same(f"{self.id} step {step}: samples have shape", shape, before_shape)
        self._features[int(step)] = vector
        if drawn is not None:
            self._samples[int(step)] = drawn

    def snapshot(self, step: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Record the simulator's state at a step: named arrays of any shape and any number or bool dtype.

        Raises:
            EpisodeError: no arrays, an array of objects or strings, or a step given twice.
        """
        self._require_open()
        where = f"{self.id} step {step}"
        if step in self._snapshots or step < 0 or not arrays:
            raise EpisodeError(f"{where}: a snapshot needs a step of 0 or more, once each, and at least one array")
        copies = {name: np.array(array, order="C", copy=True) for name, array in arrays.items()}
        for name, array in copies.items():
            if array.dtype.kind not in "fiub":
                raise EpisodeError(f"{where}: snapshot {name!r} is of dtype {array.dtype}, expected numbers or bools")
        self._snapshots[int(step)] = copies

    def commit(self, meta: EpisodeMeta) -> Path:
        """Write everything and publish it under this episode's id, all or nothing.

        If another writer has committed the same id meanwhile, theirs stays, this one is dropped, and a
        warning says so (``first`` is then False).

        Args:
            meta: ``n_steps``, ``n_frames`` and ``cameras`` must be what was recorded.

        Returns:
            The episode's directory. Where another was first and was packed since, there is none.

        Raises:
            StoreError: ``meta`` contradicts itself or the record, or the disk refused; nothing is left
                behind, and ``commit`` may be tried again.
        """
        self._require_open()
        recorded = Recorded(
            n_steps=len(self._steps),
            look_steps=self._look_steps,
            cameras=list(self._pngs),
            feature_steps=list(self._features),
            snapshot_steps=list(self._snapshots),
        )
        problems = contradictions(meta, self.id, recorded)
        if problems:
            raise StoreError(f"{self.id}: not committed, its meta data are wrong: {'; '.join(problems)}")
        files = self._encode(meta)
        # Asked again, since another writer's episode may be in a shard by now; ``publish`` sees directories only.
        self.first = not self._taken(self.id) and publish(self._root, self.id, files)
        if not self.first:
            _log.warning("%s is already in %s: the first one stays, this one is dropped", self.id, self._root)
        self.abandon()
        return self._root / self.id

    def abandon(self) -> None:
        """Forget what was recorded. Does nothing after ``commit``."""
        self._done = True
        for buffer in (self._steps, self._look_steps, self._pngs, self._features, self._samples, self._snapshots):
            buffer.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def _encode(self, meta: EpisodeMeta) -> dict[str, bytes]:
        files = {
            STEPS: encode_steps(_step_table(self._steps)),
            CHUNKS: encode_chunks(_chunk_table(self._steps)),
        }
        if self._look_steps:
            files |= encode_frames(self._look_steps, self._pngs, self._sizes, self._video)
        if self._features:
            steps = sorted(self._features)
            drawn = [self._samples[step] for step in steps if step in self._samples]
            files[FEATURES] = encode_features(steps, [self._features[step] for step in steps], drawn)
        if self._snapshots:
            files[SNAPSHOTS] = encode_snapshots(self._snapshots)
        try:
            # pydantic would write a number that is not finite as null; what is recorded is never changed.
            json.dumps(meta.model_dump(), default=str, allow_nan=False)
            files[META] = _json(meta.model_dump(mode="json"))
        except ValueError as error:
            raise StoreError(f"{self.id}: not committed, its meta data are no JSON: {error}") from error
        files[MANIFEST] = _json(
            {file: {"bytes": len(files[file]), "sha256": sha256(files[file]).hexdigest()} for file in files}
        )
        return files

    def _require_open(self) -> None:
        if self._done:
            raise StoreError(f"{self.id}: this writer has committed or abandoned its episode; begin a new one")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _step_table(steps: list[StepRecord]) -> StepTable:
    def vectors(arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.stack(arrays) if arrays else np.zeros((0, 0), np.float32)

    names = list(steps[0].conditions) if steps else []
    return StepTable(
        states=vectors([step.state for step in steps]),
        actions=vectors([step.action for step in steps]),
        rewards=np.array([step.reward for step in steps], np.float64),
        conditions={name: np.array([step.conditions[name] for step in steps], np.bool_) for name in names},
        actors=np.array([str(step.actor) for step in steps], np.str_),
        chunk_steps=np.array([step.chunk_step for step in steps], np.int64),
        scores=np.array([np.nan if step.score is None else step.score for step in steps], np.float64),
    )


def _chunk_table(steps: list[StepRecord]) -> ChunkTable:
    starts = [step for step in steps if step.chunk_step == 0]
    names = sorted({name for step in starts for name in step.info})
    return ChunkTable(
        starts=np.array([step.step for step in starts], np.int64),
        info={name: np.array([step.info.get(name, np.nan) for step in starts], np.float32) for name in names},
    )


def _vector(values: Any, what: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        vector = np.array(values, np.float32)
    if vector.ndim != 1:
        raise EpisodeError(f"{what} has shape {vector.shape}, expected one dimension")
    if not np.isfinite(vector).all():
        raise EpisodeError(f"{what}[{int(np.flatnonzero(~np.isfinite(vector))[0])}] is not finite")
    return vector


def _require_same(what: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise EpisodeError(f"{what} {got}, before it was {expected}")
