"""Recorded episodes as training samples: one sample a recorded look, with the chunk of actions that followed.

Axis letters: M samples, B batch, H horizon, A action dims, S proprioception dims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from failwise.errors import DataError
from failwise.store import EpisodeStore
from failwise.types import EpisodeMeta, Outcome


@dataclass(frozen=True)
class ChunkData:
    """M samples from a list of episodes.

    Attributes:
        images: camera -> uint8 (M, h, w, 3).
        states: (M, S) and actions: (M, H, A), in the environment's units; valid: (M, H), False beyond the
            episode's end.
        sentences: the instructions; sentence: (M,) index into them.
        episodes: the metas; episode: (M,) index into them; step: (M,) the look's step.
        inferred: (M,) True where the policy itself looked (a chunk began there).
    """

    images: Mapping[str, NDArray[np.uint8]]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    valid: NDArray[np.bool_]
    sentences: tuple[str, ...]
    sentence: NDArray[np.int64]
    episodes: tuple[EpisodeMeta, ...]
    episode: NDArray[np.int64]
    step: NDArray[np.int64]
    inferred: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.states)

    @property
    def success(self) -> NDArray[np.bool_]:
        """(M,) whether the sample's episode succeeded."""
        return np.array([m.outcome == Outcome.SUCCESS for m in self.episodes], bool)[self.episode]

    def take(self, mask_M: NDArray[np.bool_]) -> ChunkData:
        """The samples where the mask is True; the list of episodes stays as it is."""
        return replace(
            self,
            images={c: x[mask_M] for c, x in self.images.items()},
            states=self.states[mask_M],
            actions=self.actions[mask_M],
            valid=self.valid[mask_M],
            sentence=self.sentence[mask_M],
            episode=self.episode[mask_M],
            step=self.step[mask_M],
            inferred=self.inferred[mask_M],
        )


def load_chunks(
    stores: Path | Sequence[Path], horizon: int, keep: Callable[[EpisodeMeta], bool] | None = None,
    cameras: Iterable[str] | None = None,
) -> ChunkData:  # fmt: skip
    """Read the episodes that ``keep`` accepts into memory.

    Raises:
        DataError: none is left, or cameras, image sizes or proprioception differ between episodes.
    """
    paths = [stores] if isinstance(stores, Path) else list(stores)
    found: list[tuple[EpisodeStore, EpisodeMeta]] = []
    for path in paths:
        if not path.is_dir():
            raise DataError(f"no episode store at {path}; make one with: failwise collect")
        store = EpisodeStore(path, create=False)
        found += [(store, m) for m in store.metas() if m.n_frames and m.n_steps and (keep is None or keep(m))]
    if not found:
        raise DataError(f"no usable episode with pictures in {', '.join(map(str, paths))}")
    # Pictures go straight to where they stay: put together at the end, all of them would be in memory twice.
    room, at = sum(meta.n_frames for _, meta in found), 0
    images: dict[str, NDArray[np.uint8]] = {}
    parts: list[ChunkData] = []
    for store, meta in found:
        part = _load_episode(store, meta, horizon, cameras)
        images = images or {c: np.empty((room, *x.shape[1:]), np.uint8) for c, x in part.images.items()}
        _check_alike(part, images, parts[0] if parts else part)
        for camera, pictures in part.images.items():
            images[camera][at : at + len(part)] = pictures
        at += len(part)
        parts.append(replace(part, images={}))
    return concatenate(parts, {camera: whole[:at] for camera, whole in images.items()})


def _load_episode(store: EpisodeStore, meta: EpisodeMeta, horizon: int, cameras: Iterable[str] | None) -> ChunkData:
    episode = store.read(meta.episode_id)
    looks = episode.look_steps()
    used = np.flatnonzero(looks < meta.n_steps)
    chunks = [episode.action_chunk(int(looks[i]), horizon) for i in used]
    names = meta.cameras if cameras is None else tuple(cameras)
    if missing := set(names) - set(meta.cameras):
        raise DataError(f"{meta.episode_id} has no camera {sorted(missing)[0]!r}, only {list(meta.cameras)}")
    return ChunkData(
        images={c: episode.frames(c, used.tolist()) for c in names},
        states=episode.states()[looks[used]],
        actions=np.stack([a for a, _ in chunks]),
        valid=np.stack([v for _, v in chunks]),
        sentences=(meta.instruction,),
        sentence=np.zeros(len(used), np.int64),
        episodes=(meta,),
        episode=np.zeros(len(used), np.int64),
        step=looks[used],
        inferred=np.isin(looks[used], episode.chunk_starts()),
    )


def _check_alike(part: ChunkData, images: Mapping[str, NDArray[np.uint8]], first: ChunkData) -> None:
    shapes = {c: x.shape[1:] for c, x in part.images.items()}
    if shapes != {c: x.shape[1:] for c, x in images.items()}:
        raise DataError(f"{part.episodes[0].episode_id} has other cameras or image sizes than the rest: {shapes}")
    if part.states.shape[1:] != first.states.shape[1:] or part.actions.shape[1:] != first.actions.shape[1:]:
        raise DataError(f"{part.episodes[0].episode_id} has another number of state or action dims than the rest")


def concatenate(parts: Sequence[ChunkData], images: Mapping[str, NDArray[np.uint8]] | None = None) -> ChunkData:
    """Several sets as one.

    Args:
        parts: the sets.
        images: their pictures, where they are together already; the parts' own are left out then.

    Raises:
        DataError: their cameras, image sizes, horizons or widths differ.
    """
    first = parts[0]
    for p in parts:
        _check_alike(p, first.images, first)
    sentences = tuple(dict.fromkeys(s for p in parts for s in p.sentences))
    where = {s: i for i, s in enumerate(sentences)}
    offsets = np.cumsum([0] + [len(p.episodes) for p in parts])
    if images is None:
        images = {c: np.concatenate([p.images[c] for p in parts]) for c in first.images}
    return ChunkData(
        images=images,
        states=np.concatenate([p.states for p in parts]),
        actions=np.concatenate([p.actions for p in parts]),
        valid=np.concatenate([p.valid for p in parts]),
        sentences=sentences,
        sentence=np.concatenate([np.array([where[s] for s in p.sentences])[p.sentence] for p in parts]),
        episodes=tuple(m for p in parts for m in p.episodes),
        episode=np.concatenate([p.episode + o for p, o in zip(parts, offsets, strict=False)]),
        step=np.concatenate([p.step for p in parts]),
        inferred=np.concatenate([p.inferred for p in parts]),
    )


def shifted(images_Bhw3: NDArray[np.uint8], pixels: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Each image moved by up to ``pixels`` in both directions, edges repeated (the augmentation of DrQ)."""
    if pixels == 0:
        return images_Bhw3
    B, h, w, _ = images_Bhw3.shape
    padded = np.pad(images_Bhw3, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    corner = random.integers(0, 2 * pixels + 1, (B, 2))
    return np.stack([padded[i, y : y + h, x : x + w] for i, (y, x) in enumerate(corner)])


def balanced_weights(data: ChunkData) -> NDArray[np.float64]:
    """Sampling weights (M,) that give every task the same share."""
    task = np.array([m.env_id for m in data.episodes])[data.episode]
    names, index, counts = np.unique(task, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(names) * counts[index]))


def masked_mean(error_BNHA: Tensor, valid_BH: Tensor) -> Tensor:
    """Mean of squared errors over the steps that an episode really had."""
    weight = valid_BH[:, None, :, None].to(error_BNHA.dtype)
    total = weight.sum() * error_BNHA.shape[1] * error_BNHA.shape[3]
    return (error_BNHA * weight).sum() / total.clamp(min=1.0)
