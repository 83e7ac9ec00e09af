"""LIBERO behind Failwise's environment protocol.

What the policy sees: two cameras (the scene, and the hand's own), the hand's pose, the fingers, and one English
sentence: what published policies for LIBERO are trained on. Object and goal poses never reach it.

Departures from upstream, and why:

* Pictures are the right way up and render on access only, without multi-sampling and shadows.
* Every seed is a layout: the benchmark's initial states first, then new ones out of the task's own ranges. Furniture,
  which upstream's initial states leave out, is drawn from the seed as well, so a seed repeats exactly.
* An episode begins when things have come to rest, as in published evaluations, and goes on after success.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from failwise.envs.given import LayoutSeeds, checked_action, checked_options
from failwise.envs.lazy import LazyImages
from failwise.envs.libero.tasks import TASKS, parse_task, steps_of
from failwise.errors import EpisodeError, SetupError, UnknownNameError
from failwise.types import HAND_AXES, EnvSpec, Observation

if TYPE_CHECKING:
    from failwise.envs.libero.simulator import Simulator

__all__ = ["TASKS", "LiberoEnv", "make"]

CAMERAS = ("agentview", "wrist")
STATE_NAMES = (
    "hand_x_m", "hand_y_m", "hand_z_m", "hand_turn_x_rad", "hand_turn_y_rad", "hand_turn_z_rad",
    "left_finger_m", "right_finger_m",
)  # fmt: skip
SETTLE_STEPS = 10
HOME = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # the hand's usual rotation: fingers down
ACTION_M, ACTION_RAD = 0.05, 0.5  # what a full action asks for; the arm covers a part of it in one step
_GAIN = 1.5  # more than what is left, because the arm covers only a part
_NEAR_M, _NEAR_FURNITURE_M = 0.08, 0.15
_REACH = (np.array([-0.35, -0.4, 0.0]), np.array([0.25, 0.4, 0.45]))  # from the middle of the table


def make(task: str, **options: Any) -> LiberoEnv:
    """The environment of a task such as "libero_spatial:0". Options as of ``LiberoEnv``."""
    return LiberoEnv(task, **options)


class LiberoEnv:
    """One task of LIBERO or LIBERO-PRO.

    Args:
        task: suite and index, e.g. "libero_spatial:0" or "libero_goal_swap:3".
        image_size: pixels a side of all cameras, 16 to 512.
        cameras: which of "agentview" and "wrist" to offer.
        step_limit: steps until truncation, at most 1000; the suite's own when None.
        settle_steps: steps of standing still before an episode begins, 0 to 100; they do not count.

    Actions: float32 (7,) in [-1, 1], operational-space control: hand displacement x, y, z in units of 5 cm, turn about
    the world's x, y, z in units of 0.5 rad, gripper (-1 opens, 1 closes). In one step the arm covers a part of what an
    action asks for. Proprioception: hand position in metres, hand orientation as an axis times an angle in radians,
    both in the world's frame, and the position of each finger in metres.

    Raises:
        UnknownNameError: no such suite or camera.
        SetupError: no such task in the suite, or an option is out of its range.
        MissingDependencyError: the simulator is not installed, or (at the first picture) nothing can render.
    """

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 128,
        cameras: tuple[str, ...] = CAMERAS,
        step_limit: int | None = None,
        settle_steps: int = SETTLE_STEPS,
    ) -> None:
        suite, index = parse_task(task)
        if unknown := [c for c in cameras if c not in CAMERAS]:
            raise UnknownNameError("libero camera", unknown[0], CAMERAS)
        for name, value, least, most in (
            ("image_size", image_size, 16, 512),
            ("step_limit", 1 if step_limit is None else step_limit, 1, 1000),
            ("settle_steps", settle_steps, 0, 100),
        ):
            if not least <= value <= most:
                raise SetupError(f"libero {name} must be {least} to {most}, not {value}")
        from failwise.envs.libero.benchmark import task_files

        files = task_files(suite, index)
        from failwise.envs.libero.simulator import CONTROL_HZ, Simulator

        self._world: Simulator = Simulator(files, image_size)
        self.axes = HAND_AXES
        self.gripper = (6, 1.0)
        low, high = (self._world.table - self._world.base + corner for corner in _REACH)
        self.workspace = (low, high)
        self._goals = {"_".join((*goal[1:2], goal[0], *goal[2:])): goal for goal in self._world.goals}
        self.spec = EnvSpec(
            env_id=f"libero/{suite}:{index}",
            instruction=files.instruction,
            paraphrases=files.paraphrases,
            held_out=files.held_out,
            action_low=-np.ones(7, np.float32),
            action_high=np.ones(7, np.float32),
            state_names=STATE_NAMES,
            cameras=dict.fromkeys(cameras, (image_size, image_size)),
            conditions=("near_object", "grasped", *self._goals, "success"),
            step_limit=step_limit or steps_of(suite),
            control_hz=float(CONTROL_HZ),
        )
        self._settle = settle_steps
        self._steps = 0
        self._version = 0  # counts every change of the simulation: pictures of an older one are stale
        self._instruction = self.spec.instruction
        self._layouts = LayoutSeeds(self.spec.env_id)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. Without a seed, the next layout of the sequence that the last seed began.

        Seeds 0, 1, ... up to the benchmark's number of initial states (50) are those states; all others are layouts of
        their own, drawn from the ranges that the task itself gives.

        Raises:
            SetupError: the seed is negative, or ``options`` holds anything but an instruction.
        """
        self._instruction = checked_options(self.spec, options)
        seed = self._layouts.draw(seed)
        self._world.reset(seed, self._settle)
        self._steps = 0
        self._version += 1
        conditions = self._conditions()
        return self._observation(), {"conditions": conditions, "success": conditions["success"], "seed": seed}

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply one action. The reward is upstream's: 1 while the task is done, else 0.

        Raises:
            EpisodeError: the action is not finite or has another shape, or the simulation diverged.
        """
        bounded = checked_action(self.spec, action)
        try:
            self._world.step(bounded)
        except Exception as error:  # the simulator's own kinds; one lost episode must not end a night's run
            raise EpisodeError(f"{self.spec.env_id}: the simulator failed at step {self._steps} ({error})") from error
        self._steps += 1
        self._version += 1
        observation = self._observation()
        if not np.isfinite(observation.state).all():
            raise EpisodeError(f"{self.spec.env_id}: the simulation diverged at step {self._steps}")
        conditions = self._conditions()
        info = {"conditions": conditions, "success": conditions["success"]}
        return observation, float(conditions["success"]), False, self._steps >= self.spec.step_limit, info

    def expert(self) -> None:
        """LIBERO has no scripted expert."""
        return None

    def poses(self) -> dict[str, NDArray[np.float64]]:
        """Positions (3,) in metres, robot's base frame, of ``hand``, ``object`` and ``goal``: no policy sees them.

        Object and goal are those of the first part of the goal that does not hold yet, things to carry first.
        """
        thing, place = self._focus()
        return {
            "hand": self._world.hand[:3, 3] - self._world.base,
            "object": self._world.position(thing) - self._world.base,
            "goal": self._world.position(place) - self._world.base,
        }

    def hand(self) -> NDArray[np.float64]:
        """Where the hand is, (6,): metres in the robot's base frame, then roll, pitch, yaw away from fingers-down."""
        pose = self._world.hand
        turn = Rotation.from_matrix(pose[:3, :3] @ HOME.T).as_euler("xyz")
        return np.concatenate([pose[:3, 3] - self._world.base, turn])

    def nudge(self, error_6: NDArray[Any]) -> NDArray[np.float32]:
        """The action (7,) that moves the hand by an error, as far as one step can; the gripper's part is 0."""
        error = np.asarray(error_6, np.float64)
        if not error.any():
            return np.zeros(7, np.float32)
        wanted = Rotation.from_euler("xyz", self.hand()[3:] + error[3:]).as_matrix() @ HOME
        turn = Rotation.from_matrix(wanted @ self._world.hand[:3, :3].T).as_rotvec()
        action = np.concatenate([error[:3] * _GAIN / ACTION_M, turn * _GAIN / ACTION_RAD, [0.0]])
        return np.asarray(np.clip(action, -1.0, 1.0), np.float32)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Everything that the next step depends on, as arrays; nothing is touched."""
        return {**self._world.snapshot(), "steps": np.array([self._steps])}

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> Observation:
        """Continue from a snapshot of the same task.

        Raises:
            SetupError: the snapshot is of another task or another version of the simulator.
        """
        if "steps" not in snapshot or not self._world.fits(snapshot):
            raise SetupError(f"this snapshot does not fit {self.spec.env_id}: it is of another task or version")
        self._world.restore(snapshot)
        self._steps = int(snapshot["steps"][0])
        self._version += 1
        return self._observation()

    def recompute(self) -> Observation:
        """Compute anew where everything is; no time passes, and the next step is the same, bit for bit."""
        self._world.recompute()
        self._version += 1
        return self._observation()

    def close(self) -> None:
        """Free the simulator and its renderer."""
        self._world.close()

    def _focus(self) -> tuple[str, str]:
        """What the task is about now, and where it belongs; of furniture, both are its own place."""
        goals = sorted(self._goals.values(), key=lambda goal: not self._world.is_movable(goal[1]))
        goal = next((goal for goal in goals if not self._world.fulfils(goal)), goals[0])
        return goal[1], goal[-1]

    def _observation(self) -> Observation:
        version = self._version
        images = LazyImages(tuple(self.spec.cameras), self._world.picture, lambda: self._version == version)
        return Observation(images, self._world.proprioception.astype(np.float32), self._instruction)

    def _conditions(self) -> dict[str, bool]:
        world = self._world
        thing, _ = self._focus()
        near = _NEAR_M if world.is_movable(thing) else _NEAR_FURNITURE_M
        parts = {name: world.fulfils(goal) for name, goal in self._goals.items()}
        return {
            "near_object": bool(np.linalg.norm(world.hand[:3, 3] - world.position(thing)) < near),
            "grasped": world.holds(thing),
            **parts,
            "success": all(parts.values()),
        }
