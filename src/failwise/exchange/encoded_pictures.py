"""Encoded pictures out of somebody else's files: PNG and JPEG, no larger than a camera makes them."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from failwise.errors import DataError
from failwise.exchange.foreign import MOST_PIXELS

if TYPE_CHECKING:
    from failwise.types import ImageHW3

_FORMATS = ("PNG", "JPEG")  # Pillow opens dozens, some of them by running other programs
# What Pillow raises for damage.
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def decode_picture(content: bytes | memoryview, expected: tuple[int | None, ...], where: str) -> ImageHW3:
    """A picture as uint8 (h, w, 3).

    Args:
        content: PNG or JPEG.
        expected: (h, w, 3), None where it may vary.
        where: for messages.

    Raises:
        DataError: another format or size, too large, or damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures as large as are refused below
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
        with image:
            width, height = image.size
            if height * width > MOST_PIXELS:
                raise DataError(f"{where} is a picture of {height}x{width}, more than {MOST_PIXELS} pixels")
            for found, size in zip((height, width), expected, strict=False):
                if size is not None and found != size:
                    wanted = "x".join("?" if size is None else str(size) for size in expected[:2])
                    raise DataError(f"{where} is a picture of {height}x{width}, expected {wanted}")
            return np.asarray(image.convert("RGB"), np.uint8)
    except _ERRORS as error:
        kind = "empty" if not len(content) else "neither a sound PNG nor a sound JPEG"
        raise DataError(f"{where} is {kind} ({len(content)} bytes)") from error
