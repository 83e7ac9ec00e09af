"""Features and simulator snapshots: arrays to safetensors and back, never pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from failwise.store.tables import reading

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encode_features(
    steps: Sequence[int], features: Sequence[NDArray[np.float32]], samples: Sequence[NDArray[np.float32]] = ()
) -> bytes:
    """Steps (C,), feature vectors (C, D) and, where there are any, sampled chunks (C, N, H, A) as one file."""
    arrays: dict[str, NDArray[Any]] = {"steps": np.array(steps, np.int64), "features": np.stack(features)}
    if samples:
        arrays["samples"] = np.stack(samples)
    return save(arrays)


def decode_features(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Steps int64 (C,) and features float32 (C, D). Raises ``StoreError`` for a missing or damaged file."""
    with reading(path), safe_open(path, "np") as file:
        return file.get_tensor("steps"), file.get_tensor("features")


def decode_samples(path: Path) -> NDArray[np.float32] | None:
    """Sampled chunks float32 (C, N, H, A), or None. Raises ``StoreError`` for a missing or damaged file."""
    with reading(path), safe_open(path, "np") as file:
        return file.get_tensor("samples") if "samples" in file.keys() else None  # noqa: SIM118  (not a dict)


def encode_snapshots(snapshots: Mapping[int, Mapping[str, NDArray[Any]]]) -> bytes:
    """Step -> named arrays as one file, with keys ``<step>/<name>``."""
    return save({f"{step:06d}/{name}": array for step, arrays in snapshots.items() for name, array in arrays.items()})


def snapshot_steps(path: Path) -> list[int]:
    """The steps with a snapshot, ascending, from the header alone."""
    with reading(path), safe_open(path, "np") as file:
        return sorted({int(key.split("/", 1)[0]) for key in file.keys()})  # noqa: SIM118  (not a dict)


def decode_snapshot(path: Path, step: int) -> dict[str, NDArray[Any]]:
    """The named arrays of one step; reads only those. Empty when the step has none."""
    prefix = f"{step:06d}/"
    with reading(path), safe_open(path, "np") as file:
        return {
            key.removeprefix(prefix): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118
            if key.startswith(prefix)
        }
