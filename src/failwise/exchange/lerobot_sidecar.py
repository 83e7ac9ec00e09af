"""What LeRobot's format has no place for: an exported episode's meta data, and pictures after its last action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from failwise.errors import DataError
from failwise.exchange.lerobot_columns import FORMAT, SIDECAR
from failwise.store import StoredEpisode
from failwise.store.frames import encode_png
from failwise.store.tables import facts, to_parquet
from failwise.types import EpisodeMeta

_FINAL = "final:"


@dataclass(frozen=True)
class Kept:
    """What the sidecar knows of one episode.

    Attributes:
        meta: as it was in the store.
        conditions: the names of its own conditions, in their order.
        final: camera -> PNG of the state in which the episode ended, where that was looked at.
    """

    meta: EpisodeMeta
    conditions: tuple[str, ...]
    final: dict[str, bytes]


def write_sidecar(root: Path, episodes: Sequence[StoredEpisode], cameras: Sequence[str]) -> None:
    """Write it into a dataset's folder."""
    finals = [_final(episode, cameras) for episode in episodes]
    table = {
        "episode": pa.array([episode.id for episode in episodes], pa.string()),
        "meta": pa.array([episode.meta.model_dump_json() for episode in episodes], pa.string()),
        "conditions": pa.array([list(episode.conditions()) for episode in episodes], pa.list_(pa.string())),
    } | {_FINAL + camera: pa.array([final.get(camera) for final in finals], pa.binary()) for camera in cameras}
    (root / SIDECAR).write_bytes(to_parquet(table, {"format": FORMAT}, use_dictionary=False))


def read_sidecar(root: Path) -> dict[str, Kept]:
    """Episode id -> what is kept of it; empty where there is no sidecar.

    Raises:
        DataError: the sidecar is damaged or of a later Failwise.
    """
    path = root / SIDECAR
    if not path.is_file():
        return {}
    try:
        table = pq.ParquetFile(path).read(use_threads=False)
        about = facts(table.schema)
        kept = {row["episode"]: _kept(row) for row in table.to_pylist()} if about.get("format") == FORMAT else {}
    except Exception as error:  # Arrow, JSON and pydantic each have errors of their own
        raise DataError(f"{path} is damaged; remove it to import what the columns tell, or export again") from error
    if about.get("format") != FORMAT:
        raise DataError(f"{path} is of the format {about.get('format')!r}, only {FORMAT!r} is known; upgrade Failwise")
    return kept


def _kept(row: dict[str, Any]) -> Kept:
    final = {name.removeprefix(_FINAL): png for name, png in row.items() if name.startswith(_FINAL) and png is not None}
    return Kept(EpisodeMeta.model_validate_json(row["meta"]), tuple(row["conditions"]), final)


def _final(episode: StoredEpisode, cameras: Sequence[str]) -> dict[str, bytes]:
    looks = episode.look_steps()
    if not cameras or not len(looks) or looks[-1] != episode.meta.n_steps:
        return {}
    return {camera: encode_png(episode.frames(camera, [len(looks) - 1])[0]) for camera in cameras}
