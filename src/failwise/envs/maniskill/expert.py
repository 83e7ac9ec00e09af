"""What the scripted experts share: where the hand should be next, and the action that takes it there.

Everything is decided from the present state alone, so an expert takes over anywhere: after a restored snapshot, a
dropped object, a policy's mistake. Poses are float64 (4, 4), metres, in the robot's base frame. The hand's x axis
points forward at home, y is the direction in which the fingers close, z the direction of approach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from failwise.envs.maniskill.rotations import about_z, to_rotvec

Pose = NDArray[np.float64]

ACTION_M = 0.1  # metres that a full action asks for; the arm covers about half of it in one step
ACTION_RAD = -0.1  # upstream's sign: a positive action turns the hand the negative way
HOME = np.diag([1.0, -1.0, -1.0])  # the hand's usual rotation: fingers down
OPEN, CLOSE = 1.0, -1.0
WIDE_M = 0.037  # a finger's opening from which the hand may go down around something
CLEAR_M = 0.08  # how high above a grasp the hand travels
_GAIN = 0.9  # of what is left; more, and the arm's inertia carries it past


class World(Protocol):
    """What an expert sees."""

    @property
    def hand(self) -> Pose:
        """Pose between the fingertips."""
        ...

    @property
    def opening(self) -> float:
        """How far each finger is open, 0 to 0.04 m."""
        ...

    def pose(self, name: str) -> Pose:
        """Pose of a thing."""
        ...

    def holds(self, name: str) -> bool:
        """Whether the fingers hold a thing."""
        ...


@dataclass(frozen=True)
class Stage:
    """Where the hand should go now, what the fingers do, and the largest share of full speed."""

    pose: Pose
    fingers: float
    speed: float = 1.0


def servo(hand: Pose, stage: Stage) -> NDArray[np.float32]:
    """The action (7,) that moves the hand towards a stage, as far as one step can."""
    motion = (stage.pose[:3, 3] - hand[:3, 3]) * _GAIN / ACTION_M
    turn = to_rotvec(stage.pose[:3, :3] @ hand[:3, :3].T) * _GAIN / ACTION_RAD
    motion *= stage.speed / max(stage.speed, float(np.abs(motion).max()))
    turn /= max(1.0, float(np.linalg.norm(turn)))
    return np.concatenate([motion, turn, [stage.fingers]]).astype(np.float32)


def pose_at(position: Sequence[float] | NDArray[np.float64], rotation: NDArray[np.float64]) -> Pose:
    """A pose of a position (3,) and a rotation (3, 3)."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, position
    return out


def shifted(pose: Pose, dx: float = 0.0, dy: float = 0.0, dz: float = 0.0) -> Pose:
    """A pose moved along the base frame's axes."""
    out = pose.copy()
    out[:3, 3] += (dx, dy, dz)
    return out


def along(pose: Pose, x: float = 0.0, z: float = 0.0) -> Pose:
    """A pose moved along its own axes."""
    return pose @ pose_at((x, 0.0, z), np.eye(3))


def from_above(position: NDArray[np.float64], yaw: float) -> Pose:
    """The hand at a position, fingers down, turned by ``yaw`` about the vertical."""
    return pose_at(position, about_z(yaw) @ HOME)


def yaw_of(pose: Pose) -> float:
    """Direction of the x axis, seen from above."""
    return float(np.arctan2(pose[1, 0], pose[0, 0]))


def angle_between(one: Pose, other: Pose) -> float:
    """The angle of the rotation between two poses."""
    return float(np.linalg.norm(to_rotvec(one[:3, :3].T @ other[:3, :3])))


def cube_grasp(world: World, name: str, neighbours: Sequence[str] = (), forward: float | None = None) -> Pose:
    """The hand around a cube: the pair of faces that needs the least turning and leaves the fingers room.

    ``neighbours`` are things that the fingers must not touch; ``forward`` is the yaw that the hand should rather
    have (None: its present one).
    """
    cube, now = world.pose(name), yaw_of(world.hand)
    level = int(np.abs(cube[2, :3]).argmin())  # an axis of the cube that lies flat
    face = float(np.arctan2(cube[1, level], cube[0, level]))
    others = [world.pose(other)[:2, 3] for other in neighbours]

    def cost(yaw: float) -> float:
        finger = 0.05 * np.array([-np.sin(yaw), np.cos(yaw)])
        tips = (cube[:2, 3] + finger, cube[:2, 3] - finger)
        crowded = sum(float(np.linalg.norm(tip - other)) < 0.04 for tip in tips for other in others)
        wanted = now if forward is None else forward
        return abs(_wrapped(yaw - wanted)) + 10.0 * crowded + 10.0 * (abs(yaw) > 1.9)

    yaws = [now + _wrapped(face + k * np.pi / 2 - now) for k in range(4)]
    return from_above(cube[:3, 3], min(yaws, key=cost))


def pick(world: World, grasp: Pose, tolerance: float = 0.008) -> Stage:
    """Open, come above the grasp, go down, close. Starts anew from wherever the hand is."""
    hand = world.hand
    offset = grasp[:3, :3].T @ (hand[:3, 3] - grasp[:3, 3])  # x, y sideways; z negative above
    sideways, height = float(np.linalg.norm(offset[:2])), -float(offset[2])
    funnel = tolerance + 0.25 * max(0.0, height)  # wide above, narrow at the grasp
    aligned = sideways < funnel and angle_between(hand, grasp) < 0.15
    if aligned and abs(height) < 0.008 and world.opening > 0.004:
        return Stage(grasp, CLOSE)
    if aligned and world.opening > WIDE_M:
        return Stage(grasp, OPEN, 0.5)
    if height < CLEAR_M - 0.04 and sideways > 0.02:  # up first: something may be in the way
        return Stage(pose_at((*hand[:2, 3], grasp[2, 3] + CLEAR_M), hand[:3, :3]), OPEN)
    return Stage(along(grasp, z=-CLEAR_M), OPEN)


def carry(world: World, name: str, wanted: Pose, speed: float = 1.0) -> Stage:
    """Bring a held thing to a pose; what slipped in the grasp is made up for."""
    return Stage(wanted @ np.linalg.inv(world.pose(name)) @ world.hand, CLOSE, speed)


def rests(world: World, name: str, spot: NDArray[np.float64]) -> bool:
    """Whether a thing is at a spot, near enough to let it go (or to leave it)."""
    offset = np.abs(world.pose(name)[:3, 3] - spot)
    sideways, height = (0.006, 0.004) if world.holds(name) else (0.02, 0.008)
    return bool(np.linalg.norm(offset[:2]) < sideways and offset[2] < height)


def put(
    world: World, name: str, spot: NDArray[np.float64], turn: float = 0.0, over_m: float = 0.05, hover_m: float = 0.02
) -> Stage:
    """Carry a held thing above a spot, turned by ``turn`` about the vertical, and lower it.

    It travels ``over_m`` above the spot and takes aim ``hover_m`` above it: more than the defaults where something as
    high as the thing stands in the way or beside the spot.
    """
    thing = world.pose(name)
    offset = spot - thing[:3, 3]
    rotation = about_z(turn) @ thing[:3, :3]
    if np.linalg.norm(offset[:2]) < 0.006 and abs(turn) < 0.1:
        return carry(world, name, pose_at(spot, rotation), 0.5)
    far = float(np.linalg.norm(offset[:2])) > 0.015
    if far and thing[2, 3] < spot[2] + over_m - 0.025:  # lift before going sideways
        return carry(world, name, pose_at((*thing[:2, 3], spot[2] + over_m), thing[:3, :3]))
    return carry(world, name, pose_at((*spot[:2], spot[2] + (over_m if far else hover_m)), rotation))


def let_go(world: World) -> Stage:
    """Open where the hand is, then rise straight up."""
    rise = 0.0 if world.opening < WIDE_M else 0.1
    return Stage(shifted(world.hand, dz=rise), OPEN)


def _wrapped(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
