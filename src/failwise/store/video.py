"""Frames as video, for logs too long for lossless images: H.264, close to the original, not equal to it."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

if TYPE_CHECKING:
    from failwise.store.shards import ShardPath
    from failwise.types import ImageHW3

FPS = 10
_KEYFRAME_EVERY = 12


def encode_video(images: Sequence[ImageHW3]) -> bytes:
    """Images uint8 (h, w, 3) as an mp4 that browsers play, one frame an image.

    One thread and no date in the container: the same images give the same bytes.
    """
    height, width = images[0].shape[:2]
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        # yuv420p halves the colour planes, so both sides must be even; the reader crops the padding away.
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        stream.options = {
            "crf": "16",
            "preset": "veryfast",
            "threads": "1",
            "g": str(_KEYFRAME_EVERY),
            "bf": "0",
        }
        for image in images:
            padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, "rgb24")))
        container.mux(stream.encode(None))
    return sink.getvalue()


def decode_video(path: Path | ShardPath, wanted: Collection[int], height: int, width: int) -> dict[int, ImageHW3]:
    """Frame number -> uint8 (height, width, 3); decodes from the last keyframe before the first wanted one.

    Raises:
        ValueError: the video ends before the last wanted frame.
    """
    found: dict[int, ImageHW3] = {}
    if not wanted:
        return found
    with av.open(str(path) if isinstance(path, Path) else path.open(), "r") as container:
        stream = container.streams.video[0]
        ticks_a_frame = round(1 / (FPS * stream.time_base)) if stream.time_base else 1
        container.seek(min(wanted) * ticks_a_frame, stream=stream, backward=True)
        for frame in container.decode(stream):
            number = round((frame.pts or 0) / ticks_a_frame)
            if number in wanted:
                found[number] = np.ascontiguousarray(frame.to_ndarray(format="rgb24")[:height, :width])
            if number >= max(wanted):
                break
    if len(found) < len(set(wanted)):
        raise ValueError(f"the video ends before frame {max(wanted)}")
    return found
