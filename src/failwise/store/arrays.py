"""Features and simulator snapshots: arrays to safetensors and back, never pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load, save

from failwise.store.tables import reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.store.shards import ShardPath


def encode_features(
    steps: Sequence[int], features: Sequence[NDArray[np.float32]], samples: Sequence[NDArray[np.float32]] = ()
) -> bytes:
    """Steps (C,), feature vectors (C, D) and, where there are any, sampled chunks (C, N, H, A) as one file."""
    arrays: dict[str, NDArray[Any]] = {"steps": np.array(steps, np.int64), "features": np.stack(features)}
    if samples:
        arrays["samples"] = np.stack(samples)
    return save(arrays)


def read_arrays(path: Path | ShardPath, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
    """The arrays whose names are wanted. Raises ``StoreError`` for a missing or damaged file."""
    with reading(path):
        if not isinstance(path, Path):
            return {name: array for name, array in load(path.read_bytes()).items() if wanted(name)}
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118  (not a dict)


def array_names(path: Path | ShardPath) -> list[str]:
    """The names of a file's arrays. Raises ``StoreError`` for a missing or damaged file."""
    with reading(path):
        if not isinstance(path, Path):
            return list(load(path.read_bytes()))
        with safe_open(path, "np") as file:
            return list(file.keys())


def decode_features(path: Path | ShardPath) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Steps int64 (C,) and features float32 (C, D). Raises ``StoreError`` for a missing or damaged file."""
    arrays = read_arrays(path, lambda name: name in ("steps", "features"))
    with reading(path):
        return arrays["steps"], arrays["features"]


def decode_samples(path: Path | ShardPath) -> NDArray[np.float32] | None:
    """Sampled chunks float32 (C, N, H, A), or None. Raises ``StoreError`` for a missing or damaged file."""
    return read_arrays(path, lambda name: name == "samples").get("samples")


def encode_snapshots(snapshots: Mapping[int, Mapping[str, NDArray[Any]]]) -> bytes:
    """Step -> named arrays as one file, with keys ``<step>/<name>``."""
    return save({f"{step:06d}/{name}": array for step, arrays in snapshots.items() for name, array in arrays.items()})


def snapshot_steps(path: Path | ShardPath) -> list[int]:
    """The steps with a snapshot, ascending."""
    with reading(path):
        return sorted({int(name.split("/", 1)[0]) for name in array_names(path)})


def decode_snapshot(path: Path | ShardPath, step: int) -> dict[str, NDArray[Any]]:
    """The named arrays of one step; reads only those. Empty when the step has none."""
    prefix = f"{step:06d}/"
    arrays = read_arrays(path, lambda name: name.startswith(prefix))
    return {name.removeprefix(prefix): array for name, array in arrays.items()}
