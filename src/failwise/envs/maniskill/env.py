"""ManiSkill3 behind Failwise's environment protocol.

What the policy sees: three cameras (front, side, and one on the hand), the hand's pose, the gripper's opening, and
one English sentence. Object and goal poses never reach it. Positions are in the robot's base frame: x forward, y left,
z up, 0 on the table.

Departures from ``gymnasium.make(...)``, and why:

* Pictures are taken on access only, so a step that nobody looks at runs at the speed of the physics.
* The goal marker of PickCube shows in the pictures; upstream hides it and tells its position instead.
* ``snapshot`` also takes the simulation itself through the restored state, so that what follows is the same, bit for
  bit, whether it was restored or simply went on.
* An episode goes on after success, up to the step limit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from failwise.envs.given import LayoutSeeds, checked_action, checked_options
from failwise.envs.lazy import LazyImages
from failwise.envs.maniskill.expert import HOME, OPEN, Stage, servo
from failwise.envs.maniskill.rotations import from_angles, to_angles
from failwise.envs.maniskill.tasks import TASKS as _TASKS
from failwise.envs.maniskill.variants import CUBES, PLAIN, VARIANTS
from failwise.errors import EpisodeError, SetupError, UnknownNameError
from failwise.types import HAND_AXES, EnvSpec, Observation

if TYPE_CHECKING:
    from failwise.envs.maniskill.expert import Pose
    from failwise.envs.maniskill.simulator import Simulator

CONTROL_HZ = 20.0
CAMERAS = ("front", "side", "hand")
CONDITIONS = ("near_object", "grasped", "near_goal", "success")
STATE_NAMES = (
    "hand_x_m", "hand_y_m", "hand_z_m", "hand_roll_rad", "hand_pitch_rad", "hand_yaw_rad", "gripper_opening_01",
)  # fmt: skip
FINGER_M = 0.04  # how far a finger opens
_WORKSPACE = (np.array([0.4, -0.3, 0.01]), np.array([0.8, 0.3, 0.45]))


@cache
def wordings() -> dict[str, dict[str, Any]]:
    """Per task: ``instruction``, ``paraphrases`` (for training) and ``held_out`` (never trained on)."""
    text = files("failwise.envs.maniskill").joinpath("instructions.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


TASKS: tuple[str, ...] = tuple(_TASKS)


def make(task: str, **options: Any) -> ManiSkillEnv:
    """The environment of a task such as "PickCube-v1" or "PickCube-v1@view". Options as of ``ManiSkillEnv``."""
    return ManiSkillEnv(task, **options)


class ManiSkillEnv:
    """One ManiSkill3 task.

    Args:
        task: upstream's name, e.g. "PickCube-v1"; behind it one of ``VARIANTS``, e.g. "PickCube-v1@view".
        image_size: pixels a side of all cameras, 16 to 512.
        cameras: which of "front", "side" and "hand" to offer.
        step_limit: steps until truncation, at most 500; the task's own when None.
        simple_visuals: draw the robot by its collision shapes, which have far fewer triangles.

    Actions: float32 (7,) in [-1, 1], upstream's ``pd_ee_delta_pose``: hand displacement x, y, z in units of 10 cm,
    turn about x, y, z in units of **minus** 0.1 rad (upstream's sign), gripper (1 opens, -1 closes). In one step the
    arm covers a part of what an action asks for. Proprioception: hand position in metres, roll, pitch, yaw in radians
    away from fingers-down, gripper opening in [0, 1].

    Raises:
        UnknownNameError: no such task, variant or camera.
        SetupError: a task has no variants, or an option is out of its range.
        MissingDependencyError: the simulator or its Vulkan driver is missing or too old.
    """

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 96,
        cameras: tuple[str, ...] = CAMERAS,
        step_limit: int | None = None,
        simple_visuals: bool = True,
    ) -> None:
        name, _, changed = task.partition("@")
        if name not in _TASKS:
            raise UnknownNameError("maniskill task", name, TASKS)
        if changed and changed not in VARIANTS:
            raise UnknownNameError("maniskill variant", changed, VARIANTS)
        if changed and name not in CUBES:
            raise SetupError(f"maniskill variants are of {', '.join(CUBES)}; {name} has none")
        if unknown := [c for c in cameras if c not in CAMERAS]:
            raise UnknownNameError("maniskill camera", unknown[0], CAMERAS)
        if not 16 <= image_size <= 512:
            raise SetupError(f"maniskill image_size must be 16 to 512 pixels, not {image_size}")
        if step_limit is not None and not 1 <= step_limit <= 500:
            raise SetupError(f"maniskill step_limit must be 1 to 500, not {step_limit}")
        from failwise.envs.maniskill.simulator import Simulator

        self._task = _TASKS[name]
        variant = VARIANTS[changed] if changed else PLAIN
        self._world: Simulator = Simulator(name, self._task, image_size, simple_visuals, variant)
        self.axes = HAND_AXES
        self.gripper = (6, -1.0)
        self.workspace = _WORKSPACE
        self.others = self._task.others
        words = wordings()[name]
        self.spec = EnvSpec(
            env_id=f"maniskill/{task}",
            instruction=words["instruction"],
            paraphrases=tuple(words["paraphrases"]),
            held_out=tuple(words["held_out"]),
            action_low=-np.ones(7, np.float32),
            action_high=np.ones(7, np.float32),
            state_names=STATE_NAMES,
            cameras=dict.fromkeys(cameras, (image_size, image_size)),
            conditions=CONDITIONS,
            step_limit=step_limit or self._task.step_limit,
            control_hz=CONTROL_HZ,
            has_expert=True,
        )
        self._steps = 0
        self._version = 0  # counts every change of the simulation: pictures of an older one are stale
        self._hand: tuple[Pose, NDArray[np.float64]] | None = None  # as the simulator tells it, and as we do
        self._instruction = self.spec.instruction
        self._layouts = LayoutSeeds(self.spec.env_id)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. Without a seed, the next layout of the sequence that the last seed began.

        Raises:
            SetupError: the seed is negative, or ``options`` holds anything but an instruction.
        """
        self._instruction = checked_options(self.spec, options)
        seed = self._layouts.draw(seed)
        self._world.reset(seed)
        self._steps = 0
        self._version += 1
        conditions = dict.fromkeys(CONDITIONS, False)
        return self._observation(), {"conditions": conditions, "success": False, "seed": seed}

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply one action.

        Raises:
            EpisodeError: the action is not finite or has another shape, or the simulation diverged.
        """
        bounded = checked_action(self.spec, action)
        try:
            reward, success = self._world.step(bounded)
        except Exception as error:  # the simulator's own kinds; one lost episode must not end a night's run
            raise EpisodeError(f"{self.spec.env_id}: the simulator failed at step {self._steps} ({error})") from error
        self._steps += 1
        self._version += 1
        observation = self._observation()
        if not (np.isfinite(observation.state).all() and np.isfinite(reward)):
            raise EpisodeError(f"{self.spec.env_id}: the simulation diverged at step {self._steps}")
        info = {"conditions": self._conditions(success), "success": success}
        return observation, reward, False, self._steps >= self.spec.step_limit, info

    def expert(self) -> NDArray[np.float32]:
        """The scripted expert's action (7,) for the present state. It sees the full simulator state."""
        return np.clip(servo(self._world.hand, self._task.expert(self._world)), -1.0, 1.0)

    def poses(self) -> dict[str, NDArray[np.float64]]:
        """Positions (3,) in metres of ``hand`` (between the fingers), ``object`` and ``goal``: no policy sees them."""
        return {
            "hand": self._world.hand[:3, 3].copy(),
            "object": self._world.pose(self._task.thing)[:3, 3].copy(),
            "goal": self._task.goal(self._world),
        }

    def hand(self) -> NDArray[np.float64]:
        """Where the hand is, (6,): metres in the robot's base frame, then roll, pitch, yaw away from fingers-down."""
        pose = self._world.hand  # the same array as long as nothing was done to the simulation
        if self._hand is None or self._hand[0] is not pose:
            turn = to_angles(pose[:3, :3] @ HOME.T)
            self._hand = pose, np.concatenate([pose[:3, 3], turn])
        return self._hand[1].copy()

    def nudge(self, error_6: NDArray[Any]) -> NDArray[np.float32]:
        """The action (7,) that moves the hand by an error, as far as one step can; the gripper's part is 0."""
        error = np.asarray(error_6, np.float64)
        if not error.any():
            return np.zeros(7, np.float32)
        wanted = self.hand() + error
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = from_angles(wanted[3:]) @ HOME, wanted[:3]
        action = servo(self._world.hand, Stage(pose, OPEN))
        action[self.gripper[0]] = 0.0
        return np.clip(action, -1.0, 1.0)

    def beside(self, other: str) -> NDArray[np.float64]:
        """From the thing that the task is about to another of ``others``, (3,), metres."""
        pose = self._world.pose
        return np.array(pose(other)[:3, 3] - pose(self._task.thing)[:3, 3])

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Everything that the next step depends on, as arrays."""
        return {**self._world.snapshot(), "steps": np.array([self._steps])}

    def peek(self) -> dict[str, NDArray[Any]]:
        """As ``snapshot``, but the simulation goes on as if nobody had looked.

        Its solver keeps the contacts that it remembers, so what follows is not bit for bit what follows a restore.
        """
        return {**self._world.peek(), "steps": np.array([self._steps])}

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
        """Read anew where everything is; no time passes, and the next step is the same, bit for bit."""
        self._world.recompute()
        self._version += 1
        return self._observation()

    def close(self) -> None:
        """Free the simulator and its renderer."""
        self._world.close()

    def _observation(self) -> Observation:
        version = self._version
        images = LazyImages(tuple(self.spec.cameras), self._world.picture, lambda: self._version == version)
        state = np.append(self.hand(), self._world.opening / FINGER_M).astype(np.float32)
        return Observation(images, state, self._instruction)

    def _conditions(self, success: bool) -> dict[str, bool]:
        poses = self.poses()
        return {
            "near_object": bool(np.linalg.norm(poses["hand"] - poses["object"]) < self._task.near_m),
            "grasped": self._world.holds(self._task.thing),
            "near_goal": self._task.placed(self._world),
            "success": success,
        }
