"""What is carried slips out of the fingers: does the robot notice? For every environment whose hand carries things.

A policy that trusts its own joints more than its eyes goes on as if it still held the thing, and ends where it would
have ended: a *false completion* (ReViP, arXiv 2601.16667). Written behind a task: "metaworld/pick-place@drop". Here
the thing is dropped and what follows is observed; ``failwise.evaluate.false_completion`` counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from failwise.envs.leading import ArmEnvironment, with_gripper
from failwise.errors import SetupError
from failwise.protocols import Arm, Environment
from failwise.types import Observation

VARIANT = "drop"
SHARES = (0.2, 0.5)  # of the way to the goal after which the fingers open: the layout's seed draws from here
LIFTED_M = 0.02  # above where it was taken: less is no carrying
LEAST_WAY_M = 0.1  # on a shorter way the place of the drop could not be told from the goal
LONGEST_RELEASE_S = 0.5  # what has not fallen by then hangs on the fingers
NEAR_M, AWAY_M = 0.03, 0.06  # beyond the distance between hand and thing while it was held
ARRIVED_M = 0.04  # horizontally, from where the hand would have set the thing down

WAITING, LETTING_GO, DROPPED, STUCK = range(4)


@runtime_checkable
class Carries(Protocol):
    """What tells where the thing and its goal are. The environment also has the condition "grasped"."""

    def poses(self) -> dict[str, NDArray[np.float64]]:
        """Positions (3,) in metres of ``hand``, ``object`` and ``goal``, all in one frame, z up."""
        ...


@dataclass
class Course:
    """How far things have come. Steps count from 0 as recorded; -1 for what has not happened.

    Attributes:
        share: of the way to the goal after which the fingers open.
        way_m: horizontal distance from where the thing was grasped to its goal; NaN while it is not held.
        height_m: of the thing where it was grasped.
        grip_x_m, grip_y_m, grip_z_m: from the thing to the hand while it was held.
        phase: waiting, letting go, dropped, or stuck (it did not fall).
        opened: steps for which the fingers have been held open.
        dropped: step at which the fingers opened.
        left: whether the hand has left the thing since.
        returned: step at which the hand was back at the thing, or held it again.
        arrived: step at which the hand was, without the thing, where it would have set it down.
    """

    share: float
    way_m: float = float("nan")
    height_m: float = 0.0
    grip_x_m: float = 0.0
    grip_y_m: float = 0.0
    grip_z_m: float = 0.0
    phase: int = WAITING
    opened: int = 0
    dropped: int = -1
    left: int = 0
    returned: int = -1
    arrived: int = -1
    steps: int = 0

    def see(self, poses: Mapping[str, NDArray[np.float64]], grasped: bool, longest_release: int) -> None:
        """Take in one step. Positions in metres, z up."""
        hand, thing, goal = poses["hand"], poses["object"], poses["goal"]
        if self.phase == WAITING:
            self._wait(hand, thing, goal, grasped)
        elif self.phase == LETTING_GO:
            self.opened += 1
            # As long as it has not fallen away from the fingers, they would close on it again and catch it.
            if self._apart(hand, thing) > AWAY_M or self.opened >= longest_release:
                self.phase = STUCK if grasped else DROPPED
        elif self.phase == DROPPED and self.returned < 0:
            self._follow(hand, thing, goal, grasped)
        self.steps += 1

    def _wait(
        self, hand: NDArray[np.float64], thing: NDArray[np.float64], goal: NDArray[np.float64], grasped: bool
    ) -> None:
        if not grasped:
            self.way_m = float("nan")
            return
        left_m = float(np.linalg.norm((thing - goal)[:2]))
        if np.isnan(self.way_m):
            self.way_m, self.height_m = left_m, float(thing[2])
        carried = thing[2] - self.height_m >= LIFTED_M and self.way_m >= LEAST_WAY_M
        if carried and 1 - left_m / self.way_m >= self.share:
            self.grip_x_m, self.grip_y_m, self.grip_z_m = (float(v) for v in hand - thing)
            self.phase, self.dropped = LETTING_GO, self.steps + 1

    def _follow(
        self, hand: NDArray[np.float64], thing: NDArray[np.float64], goal: NDArray[np.float64], grasped: bool
    ) -> None:
        apart = self._apart(hand, thing)
        self.left = int(self.left or apart > AWAY_M)
        if grasped or (self.left and apart <= NEAR_M):
            self.returned = self.steps
        elif self.arrived < 0 and np.linalg.norm((hand - self._grip - goal)[:2]) <= ARRIVED_M:
            self.arrived = self.steps

    @property
    def _grip(self) -> NDArray[np.float64]:
        return np.array([self.grip_x_m, self.grip_y_m, self.grip_z_m])

    def _apart(self, hand: NDArray[np.float64], thing: NDArray[np.float64]) -> float:
        """How much farther the hand is from the thing than while it held it, metres."""
        return float(np.linalg.norm(hand - thing) - np.linalg.norm(self._grip))


class Dropping:
    """An environment in which the fingers open once while they carry something.

    The moment is where the thing has covered a share of its way to the goal, drawn from ``SHARES`` by the layout's
    seed, so it is the same for whoever carries it there. From then on the gripper's part of every action is replaced
    by "open", until the thing has fallen away from the fingers, at most for half a second; everything else of the
    action, and every later action, is the agent's own. What is recorded is what the agent commanded. An episode in
    which nothing is carried so far is an episode of the plain task.

    Raises:
        SetupError: the environment has no gripper that can be led, no ``poses`` or no condition "grasped".
    """

    def __init__(self, env: Environment) -> None:
        if not (isinstance(env, Arm) and isinstance(env, Carries) and "grasped" in env.spec.conditions) or (
            env.gripper is None
        ):
            raise SetupError(
                f"{env.spec.env_id} carries nothing that could be dropped; @{VARIANT} needs a gripper that can be led, "
                "poses() and the condition 'grasped'"
            )
        self._env = cast(ArmEnvironment, env)
        self._carries: Carries = env
        self.spec = replace(env.spec, env_id=f"{env.spec.env_id}@{VARIANT}")
        self.axes, self.gripper, self.workspace = env.axes, env.gripper, env.workspace
        self._longest = max(2, round(LONGEST_RELEASE_S * env.spec.control_hz))
        self._course = Course(share=SHARES[0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode of the plain task; the layout's seed also draws when the fingers open.

        Seeds, layouts and options are the plain task's.

        Raises:
            SetupError: the seed is negative, or the plain task does not take the options.
        """
        answer = self._env.reset(seed=seed, options=options)
        layout = int(answer[1]["seed"])
        self._course = Course(share=float(np.random.default_rng([layout, 11]).uniform(*SHARES)))
        return answer

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply one action, with the fingers open while they let go."""
        if self._course.phase == LETTING_GO and np.shape(action) == self.spec.action_low.shape:
            action = with_gripper(self._env, action, closing=-1.0)
        answer = self._env.step(action)
        self._course.see(self._carries.poses(), bool(answer[4]["conditions"]["grasped"]), self._longest)
        return answer

    def drop_record(self) -> dict[str, int | float]:
        """What came of it so far, as far as a verdict needs it: see ``Course``."""
        course = self._course
        fallen = course.phase == DROPPED
        return {
            "share": round(course.share, 4),
            "dropped": course.dropped if fallen else -1,
            "returned": course.returned,
            "arrived": course.arrived,
        }

    def expert(self) -> NDArray[Any] | None:
        """The plain task's expert, who sees where things are."""
        return self._env.expert()

    def hand(self) -> NDArray[Any]:
        """Where the hand is, (6,)."""
        return self._env.hand()

    def nudge(self, error_6: NDArray[Any]) -> NDArray[Any]:
        """The action (A,) that moves the hand by an error."""
        return self._env.nudge(error_6)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """The plain task's, and how far things have come."""
        return self._with_course(self._env.snapshot())

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> Observation:
        """Continue from a snapshot of the same task.

        Raises:
            SetupError: it is of another task, or of the plain one.
        """
        if "drop" not in snapshot or np.shape(snapshot["drop"]) != (len(fields(Course)),):
            raise SetupError(f"this snapshot does not fit {self.spec.env_id}: it is of another task or version")
        observation = self._env.restore({name: array for name, array in snapshot.items() if name != "drop"})
        kinds = [type(getattr(self._course, field.name)) for field in fields(Course)]
        self._course = Course(*(kind(value) for kind, value in zip(kinds, snapshot["drop"].tolist(), strict=True)))
        return observation

    def close(self) -> None:
        """Free the plain task."""
        self._env.close()

    def _with_course(self, snapshot: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        course = [float(getattr(self._course, field.name)) for field in fields(Course)]
        return {**snapshot, "drop": np.array(course)}

    def __getattr__(self, name: str) -> Any:
        """What else the plain task offers: poses, layout, others, beside; and peek, with how far things have come."""
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._env, name)
        return (lambda: self._with_course(found())) if name == "peek" else found
