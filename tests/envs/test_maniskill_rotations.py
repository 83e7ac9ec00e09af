"""Rotations one at a time are scipy's, also where angles are tiny or nearly half a turn, and for rounded matrices."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from failwise.envs.maniskill.rotations import about_z, from_angles, orthogonal, to_angles, to_rotvec


def rotations() -> list[Rotation]:
    random = np.random.default_rng(0)
    any_way = [Rotation.from_quat(random.normal(size=4)) for _ in range(300)]
    tiny = [Rotation.from_rotvec(random.normal(size=3) * 10.0 ** random.uniform(-9, -1)) for _ in range(100)]
    axes = random.normal(size=(100, 3))
    turns = np.pi - 10.0 ** random.uniform(-6, -1, size=100)
    half = [Rotation.from_rotvec(t * a / np.linalg.norm(a)) for t, a in zip(turns, axes, strict=True)]
    return [*any_way, *tiny, *half, Rotation.identity()]


def test_matrices_of_float32_numbers_give_the_angles_that_scipy_gives() -> None:
    for rotation in rotations():
        rounded = rotation.as_matrix().astype(np.float32).astype(np.float64)
        scipys = Rotation.from_matrix(rounded)
        np.testing.assert_allclose(to_rotvec(rounded), scipys.as_rotvec(), atol=1e-10)
        np.testing.assert_allclose(orthogonal(rounded), scipys.as_matrix(), atol=1e-13)
        if abs(scipys.as_euler("xyz")[1]) < 1.55:  # beyond, roll and yaw are told apart badly
            np.testing.assert_allclose(to_angles(rounded), scipys.as_euler("xyz"), atol=1e-10)


def test_a_rotation_vector_of_nothing_is_nothing() -> None:
    np.testing.assert_array_equal(to_rotvec(np.eye(3)), np.zeros(3))


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2, np.pi / 2 - 1e-9, np.pi / 2 - 1e-5, -np.pi / 2 + 1e-6])
def test_angles_at_and_near_the_lock_give_their_matrix_back(pitch: float) -> None:
    for roll, yaw in ((0.4, 1.1), (-2.0, 0.7), (0.0, -3.0)):
        there = from_angles(np.array([roll, pitch, yaw]))
        np.testing.assert_allclose(from_angles(to_angles(there)), there, atol=1e-6)


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.3, -1.2, 2.9), (-3.0, 1.5, -0.1), (np.pi, 0.0, np.pi)])
def test_angles_give_the_matrix_that_scipy_gives(angles: tuple[float, float, float]) -> None:
    there = from_angles(np.array(angles))
    np.testing.assert_allclose(there, Rotation.from_euler("xyz", angles).as_matrix(), atol=1e-15)
    np.testing.assert_allclose(about_z(angles[2]), Rotation.from_euler("z", angles[2]).as_matrix(), atol=1e-15)
