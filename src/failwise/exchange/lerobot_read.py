"""A LeRobotDataset v3 on disk, read without the copies and the float32 of its own loader.

LeRobot's metadata say where everything is, and its decoder opens the videos; columns and pictures in parquet files are
read as they were written.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from failwise.errors import DataError, SetupError
from failwise.exchange.lerobot_columns import PICTURES
from failwise.exchange.lerobot_library import lerobot_module

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 64
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_VERSION = "v3."


class LeRobotEpisodes:
    """The episodes of a dataset, numbered from 0.

    Args:
        source: the dataset's folder; or its name ("user/name"), looked for where LeRobot keeps its datasets, then on
            the hub.

    Raises:
        MissingDependencyError: LeRobot is not installed.
        SetupError: there is no such dataset, or it is of another version.
    """

    def __init__(self, source: str) -> None:
        metadata = lerobot_module("datasets.dataset_metadata").LeRobotDatasetMetadata
        self.root = _locate(source)
        self._last: tuple[int, Any] | None = None
        try:
            self._meta: Any = metadata(repo_id=_name(self.root), root=self.root)
            self.fps = float(self._meta.fps)
            self.features: dict[str, dict[str, Any]] = dict(self._meta.features)
            self._count = int(self._meta.total_episodes)
        except Exception as error:  # LeRobot, Arrow and the JSON reader each have errors of their own
            raise DataError(f"{self.root} cannot be read as a LeRobotDataset: {_first_line(error)}") from error

    def __len__(self) -> int:
        return self._count

    @cached_property
    def cameras(self) -> dict[str, str]:
        """Camera name -> its column; depth cameras are left out."""
        depth = set(self._meta.depth_keys)
        return {_camera(key): key for key in self._meta.camera_keys if key not in depth}

    @property
    def depth_cameras(self) -> list[str]:
        """Names of the cameras that are left out."""
        return [_camera(key) for key in self._meta.depth_keys]

    def length(self, number: int) -> int:
        """Frames of an episode."""
        return int(self._meta.episodes[number]["length"])

    def instruction(self, number: int) -> str:
        """The task of an episode's first frame, in words."""
        index = int(self.column(number, "task_index")[0])
        return str(self._meta.tasks.iloc[index].name)

    def column(self, number: int, name: str) -> NDArray[Any]:
        """One column of an episode in its own dtype, (T,) or (T, ...); strings as str."""
        values = self._table(number).column(name)
        shape, dtype = tuple(self.features[name]["shape"]), self.features[name]["dtype"]
        if dtype == "string":
            return np.array(values.to_pylist(), np.str_)
        if shape == (1,):
            return np.array(values.to_pylist(), dtype).reshape(-1)
        return np.array(values.to_pylist(), dtype).reshape(-1, *shape)

    def vectors(self, number: int, name: str) -> NDArray[Any]:
        """A column of vectors, (T, n), also where n is 1."""
        return self.column(number, name).reshape(self.length(number), -1)

    def pictures(self, number: int, camera: str, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Pictures of one camera at some frames of an episode, ascending; each uint8 (h, w, 3)."""
        key = self.cameras[camera]
        if self.features[key]["dtype"] == "video":
            for some in (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE)):
                yield from self._video(number, key, some)
        else:
            cells = self._read(number, [key]).column(key)
            for row in rows.tolist():
                yield _picture(cells[row].as_py()["bytes"])

    def _video(self, number: int, key: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        decode = lerobot_module("datasets.video_utils").decode_video_frames
        start = float(self._meta.episodes[number][f"videos/{key}/from_timestamp"])
        path = self.root / self._meta.get_video_file_path(number, key)
        moments = [start + float(row) / self.fps for row in rows]
        frames = decode(path, moments, 0.5 / self.fps, "pyav", return_uint8=True)  # (F, 3, h, w)
        return np.ascontiguousarray(frames.reshape(-1, *frames.shape[-3:]).numpy().transpose(0, 2, 3, 1))

    def _table(self, number: int) -> Any:
        """All of an episode but its pictures; the last one asked for is kept."""
        if self._last is None or self._last[0] != number:
            pictures = set(self._meta.camera_keys)
            self._last = number, self._read(number, [name for name in self.features if name not in pictures])
        return self._last[1]

    def _read(self, number: int, names: list[str]) -> Any:
        path = self.root / self._meta.get_data_file_path(number)
        try:
            table = pq.read_table(path, columns=names, filters=[("episode_index", "=", number)], use_threads=False)
        except Exception as error:
            raise DataError(f"{path} is missing or damaged: {_first_line(error)}") from error
        if table.num_rows != self.length(number):
            raise DataError(f"{path}: episode {number} has {table.num_rows} frames, expected {self.length(number)}")
        return table


def _locate(source: str) -> Path:
    """The folder of a dataset, fetched if need be."""
    folder = Path(source)
    if not folder.is_dir():
        if not _REPO_ID.fullmatch(source):
            raise SetupError(f"--lerobot {source} is no folder; name a LeRobotDataset's folder, or USER/NAME")
        folder = Path(lerobot_module("utils.constants").HF_LEROBOT_HOME) / source
        if not folder.is_dir():
            try:
                folder = Path(lerobot_module("datasets.lerobot_dataset").LeRobotDataset(source).root)
            except Exception as error:  # of the hub's client: no network, no such name, no right to read it
                raise SetupError(
                    f"--lerobot {source} is neither a folder nor to be had from the hub ({_first_line(error)})"
                ) from error
    info = folder / "meta" / "info.json"
    try:
        version = str(json.loads(info.read_bytes()).get("codebase_version"))
    except FileNotFoundError as error:
        raise SetupError(f"{folder} is no LeRobotDataset: {info} is missing") from error
    except (ValueError, AttributeError) as error:
        raise SetupError(f"{info} is damaged: {_first_line(error)}") from error
    if not version.startswith(_VERSION):
        raise SetupError(
            f"{folder} is a LeRobotDataset {version}, and only v3 is read; LeRobot's own "
            "lerobot.scripts.convert_dataset_v21_to_v30 converts it"
        )
    return folder


def _picture(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def _camera(key: str) -> str:
    return key.removeprefix(PICTURES) if key.startswith(PICTURES) else key.removeprefix("observation.")


def _name(root: Path) -> str:
    return "/".join(root.resolve().parts[-2:])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
