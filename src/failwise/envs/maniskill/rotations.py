"""Single rotation matrices to angles and back: what ``scipy.spatial.transform`` does, for one at a time.

Scipy takes some 0.1 ms a rotation whatever their number, and an expert's step asks for five. To rounding the
results are the same: matrices from float32 numbers are made orthogonal first, as scipy does.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

_LOCKED = 1e-7  # cosine of a pitch below which only the sum of roll and yaw is told; all of it is called roll
_NEAR_HALF_TURN = -0.999  # cosine below which an axis is not told from the skew part


def orthogonal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation (3, 3) next to one that is off by its float32 rounding: one Newton step of the polar form."""
    return np.asarray(1.5 * matrix - 0.5 * (matrix @ matrix.T @ matrix))


def to_rotvec(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axis times angle (3,), radians, of a rotation (3, 3)."""
    rotation = orthogonal(matrix)
    (a, b, c), (d, e, f), (g, h, i) = rotation.tolist()
    cosine = (a + e + i - 1.0) / 2
    if cosine < _NEAR_HALF_TURN:
        return np.asarray(Rotation.from_matrix(rotation).as_rotvec())
    skew = np.array([h - f, c - g, d - b]) / 2
    sine = math.sqrt(skew @ skew)
    return skew * (math.atan2(sine, cosine) / sine) if sine > 1e-12 else skew


def to_angles(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Roll, pitch, yaw (3,), radians, about the fixed x, y and z axis in turn, of a rotation (3, 3)."""
    (a, _, _), (d, e, f), (g, h, i) = orthogonal(matrix).tolist()
    level = math.hypot(a, d)
    if level < _LOCKED:
        return np.array([math.atan2(-f, e), math.atan2(-g, level), 0.0])
    return np.array([math.atan2(h, i), math.atan2(-g, level), math.atan2(d, a)])


def from_angles(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation (3, 3) of roll, pitch, yaw (3,)."""
    (sx, sy, sz), (cx, cy, cz) = np.sin(angles).tolist(), np.cos(angles).tolist()
    return np.array(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )


def about_z(angle: float) -> NDArray[np.float64]:
    """The rotation (3, 3) by an angle about the vertical."""
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
