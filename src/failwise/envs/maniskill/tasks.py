"""The seven tasks: what moves, where it belongs, and the stages that bring it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from failwise.envs.maniskill.expert import (
    CLOSE,
    HOME,
    Stage,
    World,
    along,
    angle_between,
    carry,
    cube_grasp,
    from_above,
    let_go,
    pick,
    pose_at,
    put,
    rests,
    shifted,
    yaw_of,
)

CUBE_M = 0.04  # a side
PEG_HALF_M = 0.12
_PLUG_TILT = np.deg2rad(15)  # so that the hand stays clear of the wall that it plugs into


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        thing: the simulator's name of what moves.
        target: where it belongs: the name of a marker, or the position (3,) from the state, in metres.
        placed_m: it is nearly there below this distance.
        expert: the stage for the present state.
        step_limit: environment steps until timeout.
        near_m: hand and thing are near each other below this distance.
        held: whether the task grasps; otherwise the condition "grasped" means that the fingers touch the thing.
        robot: the simulator's name of the arm.
        others: things that could be taken instead.
    """

    thing: str
    target: str | Callable[[World], NDArray[np.float64]]
    placed_m: float
    expert: Callable[[World], Stage]
    step_limit: int = 100
    near_m: float = 0.05
    held: bool = True
    robot: str = "panda"
    others: tuple[str, ...] = ()

    def goal(self, world: World) -> NDArray[np.float64]:
        """Where the thing belongs now, (3,), metres."""
        goal = world.pose(self.target)[:3, 3] if isinstance(self.target, str) else self.target(world)
        return np.array(goal, np.float64)

    def placed(self, world: World) -> bool:
        """Whether the thing is nearly where it belongs."""
        return bool(np.linalg.norm(world.pose(self.thing)[:3, 3] - self.goal(world)) < self.placed_m)


def _on_top(world: World) -> NDArray[np.float64]:
    return shifted(world.pose("cubeB"), dz=CUBE_M)[:3, 3]


def _on_both(world: World) -> NDArray[np.float64]:
    below = (world.pose("cubeA")[:3, 3] + world.pose("cubeB")[:3, 3]) / 2
    return np.asarray(below + np.array([0.0, 0.0, CUBE_M]))


def _upright(world: World) -> NDArray[np.float64]:
    """Above where it is: standing, its middle is half a length high."""
    return np.array([*world.pose("peg")[:2, 3], PEG_HALF_M])


def pick_cube(world: World) -> Stage:
    """Grasp the cube and hold it at the goal."""
    if not world.holds("cube"):
        return pick(world, cube_grasp(world, "cube"))
    cube, goal = world.pose("cube"), world.pose("goal_site")
    return carry(world, "cube", pose_at(goal[:3, 3], cube[:3, :3]))


def _sweep(world: World, direction: float) -> Stage:
    """Closed fingers behind the cube, then along x: +1 pushes away from the robot, -1 pulls."""
    hand, cube, goal = world.hand, world.pose("obj")[:3, 3], world.pose("goal_region")[:3, 3]
    behind = direction * (cube[0] - hand[0, 3])
    if behind > 0.02 and abs(cube[1] - hand[1, 3]) < 0.015 and hand[2, 3] < 0.04:
        return Stage(pose_at((goal[0], cube[1], 0.02), HOME), CLOSE, 0.6)
    start = np.array([cube[0] - direction * 0.065, cube[1], 0.02])
    if np.linalg.norm(hand[:2, 3] - start[:2]) < 0.012:
        return Stage(pose_at(start, HOME), CLOSE)
    if hand[2, 3] < 0.08 and behind < 0.05:
        return Stage(pose_at((*hand[:2, 3], 0.12), HOME), CLOSE)
    return Stage(pose_at((*start[:2], 0.1), HOME), CLOSE)


def push_cube(world: World) -> Stage:
    """Push the cube away from the robot to the target."""
    return _sweep(world, 1.0)


def pull_cube(world: World) -> Stage:
    """Pull the cube towards the robot to the target."""
    return _sweep(world, -1.0)


def stack_cube(world: World) -> Stage:
    """Put the red cube (A) on the green one (B)."""
    spot = _on_top(world)
    if rests(world, "cubeA", spot):
        return let_go(world)
    if not world.holds("cubeA"):
        return pick(world, cube_grasp(world, "cubeA", ("cubeB",)))
    return put(world, "cubeA", spot)


def lift_peg(world: World) -> Stage:
    """Hold the peg beyond its middle, raise that end, and stand it on the table."""
    peg, hand = world.pose("peg"), world.hand
    axis = peg[:3, 0]
    tilt = float(np.arccos(min(1.0, abs(axis[2]))))
    if tilt < 0.06 and abs(peg[2, 3] - PEG_HALF_M) < 0.004:
        return let_go(world)
    if not world.holds("peg"):
        far = axis * (1.0 if axis[0] >= 0 else -1.0)
        return pick(world, from_above(peg[:3, 3] + 0.06 * far, float(np.arctan2(far[1], far[0]))))
    end = axis * np.sign((hand[:3, 3] - peg[:3, 3]) @ axis)
    turn = np.cross(end, (0.0, 0.0, 1.0))
    turn *= min(tilt, 0.25) / max(float(np.linalg.norm(turn)), 1e-9)
    height = PEG_HALF_M + (0.08 if tilt > 0.06 else 0.0)  # high up the wrist has room to turn the fingers forward
    rotation = Rotation.from_rotvec(turn).as_matrix() @ peg[:3, :3]
    return carry(world, "peg", pose_at((*peg[:2, 3], height), rotation))


def plug_charger(world: World) -> Stage:
    """Grasp the charger at its body, line it up in front of the socket, and push it in."""
    charger = world.pose("charger")
    if not world.holds("charger"):
        body = along(charger, x=-0.02)
        grasp = from_above(body[:3, 3], yaw_of(charger))
        return pick(world, grasp @ pose_at((0, 0, 0), Rotation.from_euler("y", _PLUG_TILT).as_matrix()), 0.004)
    socket = world.pose("socket")
    inside = np.linalg.inv(socket) @ charger  # x along the insertion: the pins touch the wall at -0.016, 0 is home
    miss, depth = float(np.linalg.norm(inside[1:3, 3])), float(inside[0, 3])
    turned = angle_between(charger, socket)
    if depth > -0.0145:
        return carry(world, "charger", along(socket, x=min(0.0, depth + 0.01)))
    if depth > -0.03 and miss < 6e-4 and turned < 0.02:
        return carry(world, "charger", along(socket, x=depth + 0.004))
    return carry(world, "charger", along(socket, x=-0.02 if miss < 2e-3 and turned < 0.04 else -0.05))


def stack_pyramid(world: World) -> Stage:
    """Put the red cube (A) beside the green one (B), then the blue one (C) on both."""
    a, b = world.pose("cubeA")[:3, 3], world.pose("cubeB")[:3, 3]
    together = np.linalg.norm((a - b)[:2]) < 0.056 and abs(a[2] - b[2]) < 0.01  # upstream: below 0.0616
    if together and not world.holds("cubeA"):
        spot = _on_both(world)
        if rests(world, "cubeC", spot):
            return let_go(world)
        if world.holds("cubeC"):
            return put(world, "cubeC", spot)
        if world.opening < 0.03 and np.linalg.norm(world.hand[:3, 3] - a) < 0.03:
            return let_go(world)
        return pick(world, cube_grasp(world, "cubeC", ("cubeA", "cubeB")))
    spot, yaw = _beside(world)
    if world.holds("cubeA"):
        turn = (yaw - yaw_of(world.hand) + np.pi / 2) % np.pi - np.pi / 2
        # What slipped up in the fingers cannot be lowered to the table: from a few millimetres it may drop.
        down = together or rests(world, "cubeA", spot)
        return let_go(world) if down else put(world, "cubeA", spot, turn, over_m=0.09, hover_m=0.045)
    if world.holds("cubeC"):
        return let_go(world)
    return pick(world, cube_grasp(world, "cubeA", ("cubeB", "cubeC"), yaw))


def _beside(world: World) -> tuple[NDArray[np.float64], float]:
    """A spot beside cube B away from cube C, and the hand's yaw there that keeps the fingers off B."""
    a, b, c = world.pose("cubeA")[:2, 3], world.pose("cubeB"), world.pose("cubeC")[:2, 3]
    spots = []
    for k in range(4):
        face = yaw_of(b) + k * np.pi / 2
        spot = b[:3, 3] + 0.047 * np.array([np.cos(face), np.sin(face), 0.0])
        room = min(float(np.linalg.norm(spot[:2] - c)), 0.08)
        yaw = (face + np.pi / 2) % np.pi - np.pi / 2
        near = float(np.linalg.norm(spot[:2] - a))  # of two as good, the one that it already heads for
        spots.append((10 * room - abs(yaw) - 2 * near, spot, yaw))
    _, spot, yaw = max(spots, key=lambda entry: entry[0])
    return spot, float(yaw)


TASKS: dict[str, Task] = {
    "PickCube-v1": Task("cube", "goal_site", 0.05, pick_cube),
    "PushCube-v1": Task("obj", "goal_region", 0.14, push_cube, near_m=0.08, held=False),
    "StackCube-v1": Task("cubeA", _on_top, 0.04, stack_cube, others=("cubeB",)),
    "PullCube-v1": Task("obj", "goal_region", 0.14, pull_cube, near_m=0.08, held=False),
    "LiftPegUpright-v1": Task("peg", _upright, 0.05, lift_peg, 200, near_m=0.13),
    "PlugCharger-v1": Task("charger", "socket", 0.05, plug_charger, 200, robot="panda_wristcam"),
    "StackPyramid-v1": Task("cubeC", _on_both, 0.04, stack_pyramid, 250, others=("cubeA", "cubeB")),
}
