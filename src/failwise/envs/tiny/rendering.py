"""Pictures of the tiny table, painted with numpy: discs and a square with edges smoothed over one pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from failwise.envs.tiny.world import DISC_RADIUS, GOAL_RADIUS, HALF, PUCK_RADIUS, ROBOT_RADIUS, World

_TOP_SPAN, _CROP_SPAN = 1.1, 0.4  # metres a side of what the cameras see
_FLOOR, _TABLE = (40.0, 40.0, 45.0), (205.0, 195.0, 175.0)
_RED, _BLUE, _GREEN, _ORANGE = (210.0, 40.0, 40.0), (40.0, 70.0, 210.0), (60.0, 160.0, 80.0), (240.0, 170.0, 30.0)
_BLACK, _WHITE = (20.0, 20.0, 20.0), (250.0, 250.0, 250.0)


def paint(w: World, reach: bool, camera: str, size: int) -> NDArray[np.uint8]:
    """What "top" (the whole table) or "robot" (a crop around it) sees. uint8 (size, size, 3), RGB.

    The robot is a black disc; the white disc inside it is as large as its gripper is open.
    """
    span, (cx, cy) = (_TOP_SPAN, (0.0, 0.0)) if camera == "top" else (_CROP_SPAN, w.robot)
    grid = (np.arange(size) + 0.5) / size - 0.5
    xs, ys = (cx + span * grid)[None, :], (cy - span * grid)[:, None]  # row 0 is the far side
    image = np.empty((size, size, 3))
    image[:] = _FLOOR
    pixel = span / size
    _fill(image, np.maximum(np.abs(xs), np.abs(ys)) - HALF, pixel, _TABLE)
    if reach:
        discs = [(w.first, DISC_RADIUS, _RED), (w.second, DISC_RADIUS, _BLUE)]
    else:
        discs = [(w.second, GOAL_RADIUS, _GREEN), (w.first, PUCK_RADIUS, _ORANGE)]
    discs += [(w.robot, ROBOT_RADIUS, _BLACK), (w.robot, w.opening * (ROBOT_RADIUS - 0.008), _WHITE)]
    for (x, y), radius, color in discs:
        _fill(image, np.hypot(xs - x, ys - y) - radius, pixel, color)
    return np.rint(image).astype(np.uint8)


def _fill(
    image: NDArray[np.float64], distance: NDArray[np.float64], pixel: float, color: tuple[float, float, float]
) -> None:
    """Blend a colour in where the signed distance (metres) is negative."""
    cover = np.clip(0.5 - distance / pixel, 0.0, 1.0)[..., None]
    image += cover * (np.asarray(color) - image)
