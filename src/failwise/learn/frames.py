"""Recorded pictures through a frozen policy's eyes: once a frame, and kept by episode where asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from failwise.errors import CheckpointError
from failwise.recover.compact import FEATURES, frame_features
from failwise.types import Observation

if TYPE_CHECKING:
    from failwise.policies.compact import CompactVLA
    from failwise.store import StoredEpisode

BATCH_FRAMES = 32


class FrameFeatures:
    """Features of episodes' pictures.

    Args:
        policy: whose backbone sees them.
        kept: folder with one safetensors file an episode. What lies there of the same weights, of the same features
            and of an episode as it is now, is read instead of made again; so work that was stopped goes on.
    """

    def __init__(self, policy: CompactVLA, kept: Path | None = None) -> None:
        self.policy, self.kept = policy, kept
        if kept:
            kept.mkdir(parents=True, exist_ok=True)
            self._eyes = _digest_of(policy)

    def __call__(self, episode: StoredEpisode) -> tuple[list[int], NDArray[np.float32]]:
        """The steps of all recorded pictures, and their features, float32 (N, D).

        Raises:
            CheckpointError: kept features are damaged. StoreError: the episode is.
        """
        looks = episode.look_steps().tolist()
        if self.kept is None:
            return looks, self._see(episode, looks)
        from safetensors import SafetensorError
        from safetensors.numpy import load_file, save_file

        request = f"{self._eyes} {FEATURES} {episode.meta.model_dump_json()}"
        path = self.kept / f"{hashlib.sha256(request.encode()).hexdigest()[:32]}.safetensors"
        if path.is_file():
            try:
                return looks, np.asarray(load_file(path)["features"])
            except (SafetensorError, KeyError) as error:
                raise CheckpointError(f"{path} is damaged ({str(error).splitlines()[0]}); remove it") from error
        features_ND = self._see(episode, looks)
        half = path.with_suffix(".tmp")
        save_file({"features": features_ND}, half)
        half.rename(path)
        return looks, features_ND

    def _see(self, episode: StoredEpisode, looks: Sequence[int]) -> NDArray[np.float32]:
        states, sentence = episode.states(), episode.meta.instruction
        images = {camera: episode.frames(camera) for camera in self.policy.config.cameras}
        observations = [
            Observation({camera: x[i] for camera, x in images.items()}, states[step], sentence)
            for i, step in enumerate(looks)
        ]
        return np.concatenate([frame_features(self.policy, part) for part in _batches(observations)])


def _batches(observations: Sequence[Observation]) -> Iterator[Sequence[Observation]]:
    for first in range(0, len(observations), BATCH_FRAMES):
        yield observations[first : first + BATCH_FRAMES]


def _digest_of(policy: CompactVLA) -> str:
    """SHA-256 of all that a frame passes: weights, normaliser, and the sentences' embeddings."""
    tensors = {**vars(policy.normaliser), **policy.network.state_dict(), **policy.text.state_dict()}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
