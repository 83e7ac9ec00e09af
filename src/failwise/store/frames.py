"""Camera frames: lossless PNG in one parquet file, decoding only the cameras and looks that are asked for.

A *look* is one moment at which every camera was recorded. Rows are ordered by camera, then look, so that the
place of each image follows from its camera and look, and a few images cost a few row groups.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from failwise.errors import DataError
from failwise.store.naming import video_file
from failwise.store.tables import facts, reading, source, to_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.store.shards import ShardPath
    from failwise.types import ImageHW3

_ROWS_A_GROUP = 16


def encode_png(image: ImageHW3) -> bytes:
    """A uint8 (h, w, 3) image as PNG, exactly. Fast rather than small: this is on the recorder's budget.

    Every row is stored as differences to the pixel on its left (PNG's filter 1). Pillow's writer tries all five filters
    on every row: two to three times the time, for files of about the same size.
    """
    height, width, _ = image.shape
    pixels = np.ascontiguousarray(image).reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 1
    rows[:, 1:4] = pixels[:, :3]
    np.subtract(pixels[:, 3:], pixels[:, :-3], out=rows[:, 4:])
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB, not interlaced
    parts = ((b"IHDR", header), (b"IDAT", squeeze.compress(rows.data) + squeeze.flush()), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in parts
    )


def decode_png(content: bytes) -> ImageHW3:
    """A PNG as uint8 (h, w, 3)."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def encode_frames(
    steps: Sequence[int],
    pngs: Mapping[str, Sequence[bytes]],
    sizes: Mapping[str, tuple[int, int]],
    video: bool,
) -> dict[str, bytes]:
    """The files that hold the frames of F looks.

    Args:
        steps: the environment step of each look, length F.
        pngs: camera -> F PNG images.
        sizes: camera -> (height, width).
        video: write one mp4 a camera (smaller, not exact) in place of the PNG images.

    Returns:
        file name -> content. ``frames.parquet`` is always among them: it says which steps were looked at.
    """
    cameras = list(pngs)
    columns = {
        "camera": pa.array([camera for camera in cameras for _ in steps], pa.string()),
        "step": pa.array([step for _ in cameras for step in steps], pa.int32()),
    }
    files: dict[str, bytes] = {}
    if video:
        from failwise.store.video import encode_video

        for camera in cameras:
            files[video_file(camera)] = encode_video([decode_png(png) for png in pngs[camera]])
    else:
        columns["png"] = pa.array([png for camera in cameras for png in pngs[camera]], pa.binary())
    about = {"cameras": cameras, "sizes": {c: list(sizes[c]) for c in cameras}, "video": video}
    files["frames.parquet"] = to_parquet(
        columns, about, compression="none", use_dictionary=["camera"], row_group_size=_ROWS_A_GROUP
    )
    return files


class FrameFile:
    """An episode's ``frames.parquet``, opened. Holds no image until one is asked for."""

    def __init__(self, path: Path | ShardPath) -> None:
        self._path = path
        with reading(path):
            with pq.ParquetFile(source(path)) as file:
                about = facts(file.schema_arrow)
                self.cameras: tuple[str, ...] = tuple(about["cameras"])
                self._sizes = {camera: tuple(size) for camera, size in about["sizes"].items()}
                self.is_video: bool = about["video"]
                all_steps = file.read(columns=["step"], use_threads=False).column("step").to_numpy()
            self.looks = len(all_steps) // len(self.cameras) if self.cameras else 0
            self.steps: NDArray[np.int64] = np.array(all_steps[: self.looks], np.int64)

    def read(self, camera: str, looks: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Frames uint8 (F', h, w, 3) of one camera, in the order of ``looks`` (all of them when None).

        Raises:
            DataError: no such camera or look.
            StoreError: the file is damaged.
        """
        if camera not in self.cameras:
            known = ", ".join(self.cameras) or "none"
            raise DataError(f"{self._path.parent.name}: no camera {camera!r} was recorded; recorded: {known}")
        wanted = list(range(self.looks)) if looks is None else [int(look) for look in looks]
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.looks:
            asked = f"{min(wanted)}..{max(wanted)}"
            raise DataError(f"{self._path.parent.name}: looks are 0..{self.looks - 1}, asked for {asked}")
        height, width = self._sizes[camera]
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        images = self._video(camera, wanted) if self.is_video else self._pngs(camera, wanted)
        for place, look in enumerate(wanted):
            out[place] = images[look]
        return out

    def _pngs(self, camera: str, wanted: Sequence[int]) -> dict[int, ImageHW3]:
        first = self.cameras.index(camera) * self.looks
        with reading(self._path), pq.ParquetFile(source(self._path)) as file:
            rows: dict[int, bytes] = {}
            for group in sorted({(first + look) // _ROWS_A_GROUP for look in wanted}):
                column: Any = file.read_row_group(group, columns=["png"], use_threads=False).column("png")
                rows.update(enumerate(column.to_pylist(), start=group * _ROWS_A_GROUP))
            return {look: decode_png(rows[first + look]) for look in set(wanted)}

    def _video(self, camera: str, wanted: Sequence[int]) -> dict[int, ImageHW3]:
        from failwise.store.video import decode_video

        path = self._path.with_name(video_file(camera))
        height, width = self._sizes[camera]
        with reading(path):
            return decode_video(path, set(wanted), height, width)
