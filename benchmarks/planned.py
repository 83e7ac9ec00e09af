"""FailSafe's procedure (arXiv 2510.01642) on ManiSkill's own tools: upstream's motion planner, upstream's step.

A way there is a few poses, each reached by a planned path of joints, with the gripper opened or closed in between. A
failure is that way with one pose moved or turned, or with the arm left still instead; a way out is a random pose of the
undisturbed way, approached from a step of the failed one, and the rest of the way from there. Every try plays the
episode from its start. Each way ends at success. What the paper leaves open is taken in the procedure's favour: the
undisturbed way is planned only where a change did harm, and the rest of a way is planned for where things are now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
import sapien
from mani_skill.examples.motionplanning.base_motionplanner import motionplanner as upstream
from mani_skill.examples.motionplanning.panda.motionplanner import PandaArmMotionPlanningSolver
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

SOLUTIONS = {
    "PickCube-v1": "pick_cube",
    "PushCube-v1": "push_cube",
    "PullCube-v1": "pull_cube",
    "StackCube-v1": "stack_cube",
}
TOGETHER = {("StackCube-v1", 4): 3}  # where a cube goes is told from where it was lifted to: both, or neither
MOST = 300  # steps of one way
SETTLE = 10  # steps to hold still after the last one planned, as ours do: late successes count
TURNS = ("roll", "pitch", "yaw")


class EndedError(Exception):
    """The task is done, or takes too long."""


@dataclass(frozen=True)
class Change:
    """What is done to one pose: ``mode`` and ``axis`` as in ``failwise generate``, ``part`` of the poses, 0 to 1."""

    mode: str
    axis: str
    magnitude: float
    part: float

    def of(self, pose: Any) -> Any:
        """The changed pose."""
        if self.mode == "translation":
            by = self.magnitude * np.eye(3)["xyz".index(self.axis)]
            return sapien.Pose(pose.p + by, pose.q)
        x, y, z, w = Rotation.from_rotvec(self.magnitude * np.eye(3)[TURNS.index(self.axis)]).as_quat()
        return pose * sapien.Pose(q=[w, x, y, z])


@dataclass
class Way:
    """What was done, and where that led; stands in for the environment while a solution runs.

    Attributes:
        env: upstream's. fresh: whether it is set up anew first.
        actions, hands: what was commanded and where the hand then was. parts: of the solution, one a step.
        onset: step of the change. done: the task was.
    """

    env: Any
    fresh: bool = True
    actions: list[NDArray[Any]] = field(default_factory=list)
    hands: list[Any] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    part: int = 0
    onset: int | None = None
    done: bool = False

    @property
    def unwrapped(self) -> Any:
        """Upstream's environment."""
        return self.env.unwrapped

    def reset(self, seed: int) -> None:
        """Begin an episode, unless this way goes on from somewhere."""
        if self.fresh:
            self.env.reset(seed=seed)

    def step(self, action: NDArray[Any]) -> Any:
        """Upstream's step, noted down."""
        result = self.env.step(action)
        self.actions.append(action)
        self.hands.append(self.unwrapped.agent.tcp.pose.sp)
        self.parts.append(self.part)
        self.done = bool(result[4]["success"])
        if self.done or len(self.actions) >= MOST:
            raise EndedError
        return result


class Planner(PandaArmMotionPlanningSolver):
    """Upstream's, with one pose changed, or begun at a later part of a solution."""

    change: Change | None = None
    moves = most = 1  # of the solution: poses that it goes to
    begin = 0
    closing = PandaArmMotionPlanningSolver.OPEN

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gripper_state = Planner.closing
        self.count = self.moved = 0

    def _skips(self) -> bool:
        self.env.part, self.count = self.count, self.count + 1
        return self.env.part < Planner.begin

    def move_to_pose_with_screw(self, pose: Any, dry_run: bool = False, refine_steps: int = 0) -> Any:
        """To a pose, or to where the change leads instead."""
        if dry_run:
            return super().move_to_pose_with_screw(pose, dry_run=True)
        if self._skips():
            return None
        change, number = Planner.change, self.moved
        self.moved += 1
        Planner.most = max(Planner.most, self.moved)
        if change is None or number != int(change.part * Planner.moves):
            return self._move(pose)
        self.env.onset = len(self.env.actions)
        if change.mode != "noop":
            return self._move(change.of(upstream.to_sapien_pose(pose)))
        still = np.hstack([self.robot.get_qpos()[0, :7].cpu().numpy(), self.gripper_state])
        return [self.env.step(still) for _ in range(round(change.magnitude))][-1]

    def _move(self, pose: Any) -> Any:
        try:
            return super().move_to_pose_with_screw(pose)
        except UnboundLocalError:  # upstream's, where the hand is there already
            return None
        except RuntimeError:  # the planner's, where it finds no timing for a path; upstream tells of others with -1
            return -1

    def open_gripper(self, *args: Any, **options: Any) -> Any:
        """Unless it comes before what the way begins with."""
        return None if self._skips() else super().open_gripper(*args, **options)

    def close_gripper(self, *args: Any, **options: Any) -> Any:
        """Unless it comes before what the way begins with."""
        return None if self._skips() else super().close_gripper(*args, **options)


class Procedure:
    """The procedure on one task, e.g. "PickCube-v1"."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._solution: Any = import_module(f"mani_skill.examples.motionplanning.panda.solutions.{SOLUTIONS[name]}")
        self._solution.PandaArmMotionPlanningSolver = Planner
        for told in (upstream, self._solution):
            told.print = lambda *_: None  # each pose that cannot be reached is told
        self._env = gym.make(
            name, obs_mode="none", control_mode="pd_joint_pos", sim_backend="cpu", max_episode_steps=10**6
        )
        Planner.moves = 1
        self._way(0)
        Planner.moves = Planner.most

    def pairs(self, seed: int, change: Change, corrections: int, spacing: int) -> tuple[int, int]:
        """Failures (0 or 1) that a change makes, and verified ways out of it."""
        failed = self._way(seed, change=change)
        if failed.done or failed.onset is None:
            return 0, 0
        right = self._way(seed)
        if not right.done:
            return 0, 0
        random = np.random.default_rng(seed)
        points = np.arange(failed.onset + spacing, len(failed.actions), spacing)
        points = np.sort(random.permutation(points)[:corrections])
        return 1, sum(self._leads_out(seed, failed, right, int(at), random) for at in points)

    def _way(
        self, seed: int, way: Way | None = None, change: Change | None = None, begin: int = 0, closing: float = 1
    ) -> Way:
        way = way or Way(self._env)
        Planner.change, Planner.begin, Planner.closing = change, begin, closing
        try:
            self._solution.solve(way, seed=seed)
            for _ in range(SETTLE * bool(way.actions)):
                way.step(way.actions[-1])
        except EndedError:
            pass
        return way

    def _leads_out(self, seed: int, failed: Way, right: Way, at: int, random: np.random.Generator) -> bool:
        self._env.reset(seed=seed)
        self._play(failed.actions[:at])
        chosen = int(random.integers(min(10, len(right.actions) - 4), len(right.actions) - 3))
        closing = float(right.actions[chosen][-1])
        way = Way(self._env, fresh=False)
        Planner.change, Planner.begin, Planner.closing = None, 0, closing
        base = self._env.unwrapped.agent.robot.pose
        mover = Planner(
            way, debug=False, vis=False, base_pose=base, visualize_target_grasp_pose=False, print_env_info=False
        )
        try:
            mover.move_to_pose_with_screw(right.hands[chosen])
        except EndedError:
            return way.done
        part = right.parts[chosen]
        return self._way(seed, way, None, TOGETHER.get((self._name, part), part), closing).done

    def _play(self, actions: Sequence[NDArray[Any]]) -> None:
        for action in actions:
            self._env.step(action)
