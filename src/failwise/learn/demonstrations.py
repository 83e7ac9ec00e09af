"""What a policy's features look like along demonstrations: how success goes on tasks on which nothing failed yet.

A policy was trained on demonstrations of every task that it is to do. So a detector may know them too, also of tasks of
which no own episode was ever recorded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from failwise.detect.trace import Trace
from failwise.errors import CheckpointError
from failwise.learn.bc import choose_demonstrations
from failwise.learn.data import ChunkData, load_chunks
from failwise.learn.progress import TrainingProgress
from failwise.policies import load_policy
from failwise.policies.compact.policy import weights_sha256
from failwise.policies.pooling import Pooling
from failwise.steer import Unsteered, sample
from failwise.store import EpisodeStore
from failwise.types import Observation

if TYPE_CHECKING:
    from failwise.protocols import GenerativePolicy

BATCH = 64


def demonstration_traces(
    store: Path, folder: Path, features: str, *, per_task: int = 0, cache: Path | None = None, quiet: bool = False,
) -> list[Trace]:  # fmt: skip
    """Successful demonstrations as a detector sees own episodes, asked wherever a picture was recorded.

    Args:
        store: demonstrations with pictures.
        folder: of the policy whose features they are; it looks at the recorded pictures, nothing is executed.
        features: which ones, see ``failwise.policies.pooling``.
        per_task: at most so many of each task, those of the lowest seeds; 0 takes all.
        cache: file that keeps the features; one of the same policy, features and demonstrations is taken as it is.
        quiet: show no progress.

    Raises:
        DataError: no demonstrations, or pictures that the policy does not see. CheckpointError: no policy there.
        SetupError: it has no such features.
    """
    pooling = Pooling.parse(features)
    chosen = choose_demonstrations(store, per_task)
    episodes = EpisodeStore(store, create=False)
    metas = [m for m in episodes.metas() if m.episode_id in chosen]
    request = hashlib.sha256(json.dumps([weights_sha256(folder), features, sorted(chosen)]).encode()).hexdigest()
    kept = _kept(cache, request)
    if kept is None:
        policy: GenerativePolicy = load_policy(folder)
        data = load_chunks(store, policy.spec.horizon, lambda m: m.episode_id in chosen, cameras=policy.spec.cameras)
        assert [m.episode_id for m in data.episodes] == [m.episode_id for m in metas], "both follow the store's order"
        kept = _encode(policy, data, pooling, quiet)
        if cache is not None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            half = cache.with_suffix(".tmp")
            save_file({"features": kept[0], "widths": np.array(kept[1])}, half, {"request": request})
            half.rename(cache)
    features_MD, widths = kept
    out, start = [], 0
    for meta in metas:
        episode = episodes.read(meta.episode_id)
        looks = episode.look_steps()
        looks = looks[looks < meta.n_steps]
        mine_CD = features_MD[start : start + len(looks)]
        start += len(looks)
        meta = meta.model_copy(update={"extra": {**meta.extra, "features": features, "feature_widths": widths}})
        out.append(Trace(meta, episode.actions(), looks, mine_CD, pooling=features))
    return out


@torch.inference_mode()
def _encode(
    policy: GenerativePolicy, data: ChunkData, pooling: Pooling, quiet: bool
) -> tuple[NDArray[np.float32], list[int]]:
    """Features (M, D) of all samples, and how many of the D belong to each part of the pooling."""
    generator = torch.Generator().manual_seed(0)
    n, parts = -(-len(data) // BATCH), []
    with TrainingProgress(n, 0, "features of demonstrations", quiet) as progress:
        for number in range(n):
            rows = range(number * BATCH, min((number + 1) * BATCH, len(data)))
            seen = [
                Observation({c: x[i] for c, x in data.images.items()}, data.states[i], data.sentences[data.sentence[i]])
                for i in rows
            ]
            context: Any = policy.encode(seen)
            index_B = torch.zeros(len(seen), dtype=torch.long)
            if pooling.needs_hidden:
                context.hidden = []
                index_B = sample(policy, context, Unsteered(), generator).index_B
            pooled = pooling(context, index_B)
            parts.append(torch.cat(pooled, dim=1).numpy())
            progress.update(number + 1)
    return np.concatenate(parts), [part_BD.shape[1] for part_BD in pooled]


def _kept(cache: Path | None, request: str) -> tuple[NDArray[np.float32], list[int]] | None:
    if cache is None or not cache.is_file():
        return None
    try:
        with safe_open(cache, "np") as file:
            if (file.metadata() or {}).get("request") != request:
                return None
        found = load_file(cache)
        return np.asarray(found["features"]), [int(width) for width in found["widths"]]
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{cache} is damaged ({str(error).splitlines()[0]}); remove it") from error
