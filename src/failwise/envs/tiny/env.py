"""Two table-top tasks without a simulator: numpy only, fast, for tests and for trying things out.

A point robot with a gripper moves over a square table of 1 m a side; the origin is the table's centre, x points
right and y up in the top view.

* ``reach``: close the gripper on the disc whose colour the instruction names; the other disc is a distractor.
  Gripping the distractor ends the episode as a failure.
* ``push``: push the puck into the goal circle. A puck that leaves the table cannot be brought back, which ends the
  episode as a failure.

What the policy sees: the table from the top, a crop around the robot, the robot's position, velocity and gripper
opening, and one English sentence. Where discs, puck and goal are, only the pictures show.

Dynamics at 10 Hz: the velocity follows the commanded one with a first-order lag; a puck is pushed out of the robot's
circle, takes over the robot's speed along the contact normal, and slides to a stop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from failwise.envs.given import LayoutSeeds, checked_action, checked_options
from failwise.envs.lazy import LazyImages
from failwise.envs.tiny.rendering import paint
from failwise.envs.tiny.world import (
    CLOSED,
    DT_S,
    GOAL_RADIUS,
    GRIP_RADIUS,
    HALF,
    PUCK_RADIUS,
    ROBOT_RADIUS,
    TOP_SPEED,
    Command,
    World,
    grip_disc,
    move_robot,
    puck_off_table,
    push_expert,
    reach_expert,
    slide_puck,
)
from failwise.errors import SetupError, UnknownNameError
from failwise.types import EnvSpec, Observation

TASKS: tuple[str, ...] = ("reach", "push")
COLORS = ("red", "blue")

AT_REST_M_S = 0.03
_STATE_NAMES = ("robot_x_m", "robot_y_m", "robot_vx_m_s", "robot_vy_m_s", "gripper_opening_01")
_CONDITIONS = {"reach": ("near_target", "gripped", "success"), "push": ("near_puck", "near_goal", "success")}
_STEP_LIMIT = {"reach": 60, "push": 120}
_REACH = "move to the {} disc"
_REACH_PARAPHRASES = (
    "go to the {} disc and grip it", "reach the {} disc", "drive over to the {} circle and close the gripper",
    "pick the {} one of the two discs",
)  # fmt: skip
_REACH_HELD_OUT = ("the disc to grip is the {} one", "head for whichever disc is {}")
_PUSH = "push the puck into the goal circle"
_PUSH_PARAPHRASES = (
    "bring the puck into the goal", "shove the puck to the green circle", "move the puck onto the goal area",
)  # fmt: skip
_PUSH_HELD_OUT = ("slide the puck until it lies inside the green ring", "the puck belongs in the goal")
_SHAPES = {"robot": (5,), "objects": (2, 2), "puck_velocity": (2,), "holding": (1,), "steps": (1,)}


def make(task: str, **options: Any) -> TinyEnv:
    """The environment of a task, "reach" or "push". Options as of ``TinyEnv``."""
    return TinyEnv(task, **options)


class TinyEnv:
    """One tiny task.

    Args:
        task: "reach" or "push".
        image_size: pixels a side of both cameras, 8 to 256.
        step_limit: steps until truncation; None takes the task's own, 60 or 120.
        color: of the disc that ``reach`` names by default; an instruction given to ``reset`` may name the other.

    Actions: float32 (3,) in [-1, 1]: commanded velocity x, y in units of 0.5 m/s, gripper (positive closes).
    Proprioception: position in metres, velocity in m/s, gripper opening in [0, 1].

    Raises:
        UnknownNameError: no such task or colour.
        SetupError: an option is out of range.
    """

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 32,
        step_limit: int | None = None,
        color: Literal["red", "blue"] = "red",
    ) -> None:
        if task not in TASKS:
            raise UnknownNameError("tiny task", task, TASKS)
        if color not in COLORS:
            raise UnknownNameError("tiny color", color, COLORS)
        if not 8 <= image_size <= 256:
            raise SetupError(f"tiny image_size must be 8 to 256 pixels, not {image_size}")
        if step_limit is not None and step_limit < 1:
            raise SetupError(f"tiny step_limit must be at least 1, not {step_limit}")
        self._task: str = task
        reach = task == "reach"
        self.spec = EnvSpec(
            env_id=f"tiny/{task}",
            instruction=(_REACH if reach else _PUSH).format(color),
            paraphrases=tuple(t.format(color) for t in (_REACH_PARAPHRASES if reach else _PUSH_PARAPHRASES)),
            held_out=tuple(t.format(color) for t in (_REACH_HELD_OUT if reach else _PUSH_HELD_OUT)),
            action_low=-np.ones(3, np.float32),
            action_high=np.ones(3, np.float32),
            state_names=_STATE_NAMES,
            cameras={"top": (image_size, image_size), "robot": (image_size, image_size)},
            conditions=_CONDITIONS[task],
            step_limit=step_limit or _STEP_LIMIT[task],
            control_hz=1 / DT_S,
            has_expert=True,
        )
        self.axes = ("x", "y")
        self.gripper = (2, 1.0)
        self.workspace = (np.array([-HALF, -HALF, 0.0]), np.array([HALF, HALF, 0.0]))
        self.others = ("other_disc",) if reach else ()
        self._world = World()
        self._layouts = LayoutSeeds(self.spec.env_id)
        self._instruct(self.spec.instruction)
        self._version = 0  # counts every change: pictures of an older one are stale
        self._size = image_size

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. Without a seed, the next layout of the sequence that the last seed began.

        Raises:
            SetupError: the seed is negative, ``options`` holds anything but an instruction, or the instruction names
                no disc to reach.
        """
        self._instruct(checked_options(self.spec, options))
        seed = self._layouts.draw(seed)
        draw = np.random.default_rng(seed).uniform
        reach, separation = self._task == "reach", 0.25
        while True:  # about one draw in two keeps the distances
            robot, first, second = draw(-0.42, 0.42, 2), draw(-0.4, 0.4, 2), draw(-0.4, 0.4, 2)
            if not reach:
                first *= 0.6  # room to get behind the puck, wherever the goal lies
            gaps = [math.dist(a, b) for a, b in ((robot, first), (robot, second), (first, second))]
            if gaps[0] > 0.12 and (gaps[1] > 0.12 or not reach) and gaps[2] > separation:
                break
        x, y, x1, y1, x2, y2 = (float(v) for v in (*robot, *first, *second))
        self._world = World(x, y, first=(x1, y1), second=(x2, y2))
        self._version += 1
        conditions = self._conditions()
        info = {"conditions": conditions, "success": conditions["success"], "seed": seed}
        return self._observation(), info

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply one action. The reward is minus the remaining distance in metres, plus 1 while successful.

        Raises:
            EpisodeError: the action is not 3 finite numbers.
        """
        a = checked_action(self.spec, action).tolist()
        w, reach = self._world, self._task == "reach"
        command: Command = tuple(a)
        was_open = w.opening >= CLOSED
        move_robot(w, command)
        if reach:
            grip_disc(w, was_open)
        else:
            slide_puck(w)
        w.steps += 1
        self._version += 1
        conditions = self._conditions()
        success = conditions["success"]
        lost = w.holding == 1 - self._target if reach else puck_off_table(w)
        moved, goal = (w.robot, (w.first, w.second)[self._target]) if reach else (w.first, w.second)
        reward = float(success) - math.dist(moved, goal)
        info = {"conditions": conditions, "success": success}
        return self._observation(), reward, lost, w.steps >= self.spec.step_limit, info

    def expert(self) -> NDArray[np.float32]:
        """The scripted expert's action (3,). It sees the full state."""
        command = reach_expert(self._world, self._target) if self._task == "reach" else push_expert(self._world)
        return np.clip(np.array(command, np.float32), -1.0, 1.0)

    def hand(self) -> NDArray[np.float64]:
        """Where the robot is, (6,): x and y in metres on the table; the rest is 0."""
        return np.array([*self._world.robot, 0.0, 0.0, 0.0, 0.0])

    def nudge(self, error_6: NDArray[Any]) -> NDArray[np.float32]:
        """The action (3,) that moves the robot by an error, as far as one step can; the gripper's part is 0."""
        x, y = np.clip(np.asarray(error_6)[:2] / (TOP_SPEED * DT_S), -1.0, 1.0)
        return np.array([x, y, 0.0], np.float32)

    def beside(self, other: str) -> NDArray[np.float64]:
        """From the disc that the instruction names to the other one, (3,), metres."""
        discs = np.array([self._world.first, self._world.second])
        return np.append(discs[1 - self._target] - discs[self._target], 0.0)

    def layout(self) -> dict[str, NDArray[np.float64]]:
        """Positions (3,) in metres of ``hand``, ``object`` and ``goal``: no policy sees them."""
        w, target = self._world, self._target if self._task == "reach" else 1
        found = {"hand": w.robot, "object": w.first, "goal": (w.first, w.second)[target]}
        return {name: np.array([*place, 0.0]) for name, place in found.items()}

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Everything that the next step depends on, and the instruction as UTF-8 bytes."""
        w = self._world
        return {
            "robot": np.array([w.x, w.y, w.vx, w.vy, w.opening]),
            "objects": np.array([w.first, w.second]),
            "puck_velocity": np.array([w.puck_vx, w.puck_vy]),
            "holding": np.array([w.holding]),
            "steps": np.array([w.steps]),
            "instruction": np.frombuffer(self._instruction.encode(), np.uint8).copy(),
        }

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> Observation:
        """Continue from a snapshot of the same task.

        Raises:
            SetupError: it is not a snapshot of a tiny task.
        """
        got = {name: np.shape(array) for name, array in snapshot.items() if name != "instruction"}
        if got != _SHAPES or "instruction" not in snapshot:
            raise SetupError(f"{self.spec.env_id}: not a snapshot of a tiny task; expected {_SHAPES}, got {got}")
        x, y, vx, vy, opening = snapshot["robot"].tolist()
        (x1, y1), (x2, y2) = snapshot["objects"].tolist()
        puck_vx, puck_vy = snapshot["puck_velocity"].tolist()
        holding, steps = int(snapshot["holding"][0]), int(snapshot["steps"][0])
        self._instruct(bytes(snapshot["instruction"]).decode())
        self._world = World(x, y, vx, vy, opening, (x1, y1), (x2, y2), puck_vx, puck_vy, holding, steps)
        self._version += 1
        return self._observation()

    def close(self) -> None:
        """Nothing to free."""

    def _instruct(self, instruction: str) -> None:
        """Take a wording; in ``reach`` the first colour that it names is the target."""
        target = 0
        if self._task == "reach":
            named = re.findall(rf"\b({'|'.join(COLORS)})\b", instruction.lower())
            if not named:
                raise SetupError(f"tiny/reach: the instruction {instruction!r} names no disc; say red or blue")
            target = COLORS.index(named[0])
        self._instruction, self._target = instruction, target

    def _observation(self) -> Observation:
        w, version = self._world, self._version
        images = LazyImages(
            ("top", "robot"),
            lambda camera: paint(self._world, self._task == "reach", camera, self._size),
            lambda: self._version == version,
        )
        state = np.array((w.x, w.y, w.vx, w.vy, w.opening), np.float32)
        return Observation(images, state, self._instruction)

    def _conditions(self) -> dict[str, bool]:
        w = self._world
        if self._task == "reach":
            near = math.dist(w.robot, (w.first, w.second)[self._target]) <= GRIP_RADIUS
            return {
                "near_target": near, "gripped": w.holding >= 0, "success": near and w.holding == self._target,
            }  # fmt: skip
        near_goal = math.dist(w.first, w.second) <= GOAL_RADIUS
        return {
            "near_puck": math.dist(w.robot, w.first) <= ROBOT_RADIUS + PUCK_RADIUS + 0.02,
            "near_goal": near_goal,
            "success": near_goal and math.hypot(w.puck_vx, w.puck_vy) <= AT_REST_M_S,
        }
