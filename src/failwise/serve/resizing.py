"""Images of another size than the policy's: resized as openpi and LeRobot do it, or refused by key, shape and option.

openpi's clients send squares of 224 pixels whatever the policy takes, and its servers resize on their own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from failwise.errors import DataError
from failwise.types import Observation, PolicySpec
from failwise.wire import KeyMap

log = logging.getLogger("failwise.serve")

Resize: TypeAlias = Literal["same-aspect", "pad", "stretch", "off"]
"""``same-aspect`` resizes images of the policy's aspect ratio and refuses others; ``pad`` keeps the aspect ratio and
fills with black, as openpi's ``resize_with_pad``; ``stretch`` does not keep it; ``off`` resizes nothing."""


def resize_with_pad(image_hw3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An image scaled to fit, bilinearly, in the middle of a black one of another size.

    To the bit openpi's function of the same name, but for one thing: openpi divides floats, so that one pair of sizes
    in 20 comes out a pixel short of the edge that it should fill (224 to 100, for instance, gives 99 pixels and a
    black line).

    Args:
        image_hw3: uint8 (h, w, 3).
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        uint8 (height, width, 3).
    """
    h, w = image_hw3.shape[:2]
    if h * width >= w * height:  # relatively higher than what it is to fit
        inner_h, inner_w = height, max(1, w * height // h)
    else:
        inner_h, inner_w = max(1, h * width // w), width
    scaled = stretch(image_hw3, inner_h, inner_w)
    padded = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    padded[top : top + inner_h, left : left + inner_w] = scaled
    return padded


def stretch(image_hw3: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An image scaled to another size, bilinearly, whatever its aspect ratio.

    Args:
        image_hw3: uint8 (h, w, 3).
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        uint8 (height, width, 3).
    """
    scaled: NDArray[np.uint8] = np.asarray(
        Image.fromarray(image_hw3).resize((width, height), Image.Resampling.BILINEAR)
    )
    return scaled


@dataclass(frozen=True)
class _OtherSize:
    """An image that is not of the policy's size: its wire key, its camera, and both sizes."""

    key: str
    camera: str
    size: tuple[int, int]
    expected: tuple[int, int]

    @property
    def same_aspect(self) -> bool:
        return self.size[0] * self.expected[1] == self.size[1] * self.expected[0]


class Resizing:
    """Brings what clients send to the sizes that a policy takes.

    A policy that resizes on its own gets every image as it came.

    Args:
        spec: of the policy.
        keys: of the observations.
        mode: see ``Resize``.
    """

    def __init__(self, spec: PolicySpec, keys: KeyMap, mode: Resize = "same-aspect") -> None:
        self.mode = mode
        self.state_dim = spec.state_dim
        self._sizes = {} if spec.resizes_images else dict(spec.cameras)
        self._keys = {source.removeprefix("image:"): key for key, source in keys.read_sources.items()}
        self._state_keys = [key for key, source in keys.read_sources.items() if source.partition(":")[0] == "state"]
        self._logged: set[_OtherSize] = set()

    def __call__(self, observation: Observation) -> Observation:
        """The observation with every image in the policy's size, unless nothing is to be resized.

        Raises:
            DataError: an image is of another aspect ratio than the policy's, and no option says how to resize it.
        """
        if self.mode == "off":
            return observation
        resized = {}
        for other in self._other_sizes(observation):
            if self.mode == "same-aspect" and not other.same_aspect:
                raise DataError(self._refusal(other))
            fit = stretch if self.mode == "stretch" or other.same_aspect else resize_with_pad
            resized[other.camera] = fit(observation.images[other.camera], *other.expected)
            self._log(other)
        return replace(observation, images={**observation.images, **resized}) if resized else observation

    def explained(self, error: DataError, observation: Observation) -> DataError:
        """A policy's complaint about an observation, with the client's own key for what does not fit."""
        if other := next(self._other_sizes(observation), None):
            return DataError(self._refusal(other))
        if self.state_dim and len(observation.state) != self.state_dim:
            return DataError(f"{' and '.join(map(repr, self._state_keys))}: {error}")
        return error

    def _other_sizes(self, observation: Observation) -> Iterator[_OtherSize]:
        for camera, expected in self._sizes.items():
            image = observation.images.get(camera)
            if image is not None and image.shape[:2] != tuple(expected):
                size = (int(image.shape[0]), int(image.shape[1]))
                yield _OtherSize(self._keys[camera], camera, size, (expected[0], expected[1]))

    def _refusal(self, other: _OtherSize) -> str:
        option = "--resize pad (keeps the aspect ratio, pads with black) or --resize stretch"
        if self.mode == "off" and other.same_aspect:
            option = "--resize same-aspect"
        return (
            f"{other.key!r} (camera {other.camera!r}) has the shape {_shape(other.size)}, the policy takes "
            f"{_shape(other.expected)}; send that, or serve with {option}"
        )

    def _log(self, other: _OtherSize) -> None:
        """Say it once for each size: a policy may act worse on images of another size than those of its training."""
        if other in self._logged:
            return
        self._logged.add(other)
        how = "stretched" if self.mode == "stretch" and not other.same_aspect else "resized"
        padded = " and padded with black" if self.mode == "pad" and not other.same_aspect else ""
        log.warning(
            "%r (camera %r) is %s from %dx%d to the policy's %dx%d%s",
            other.key, other.camera, how, *other.size, *other.expected, padded,
        )  # fmt: skip


def _shape(size: tuple[int, int]) -> str:
    return f"({size[0]}, {size[1]}, 3)"
