"""Meta-World behind Failwise's environment protocol.

What the policy sees: two cameras (the scene from the corner, the gripper's own), the hand's position and the gripper's
opening, and one English sentence. Object and goal poses never reach it.

Departures from ``gymnasium.make("Meta-World/MT1")``, and why:

* ``reset(seed=)`` upstream ignores its seed and draws from 50 fixed layouts, so training and test layouts coincide.
  Here each seed draws a new layout from the task's whole continuous range, and repeats exactly.
* ``corner2`` is moved closer: from its stock pose the objects are two pixels wide.
* Images render on access only, without multi-sampling and shadows.
* ``reset`` upstream writes bodies, sites and joints of the layout into the model and returns without computing where
  that puts them: images and object positions are still those of the default layout. Here they are computed first.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.envs.given import LayoutSeeds, checked_action, checked_options
from failwise.envs.lazy import LazyImages
from failwise.envs.rendering_backend import prepare_rendering
from failwise.errors import EpisodeError, MissingDependencyError, SetupError, UnknownNameError
from failwise.types import EnvSpec, Observation

prepare_rendering()  # before the first import of mujoco

STEP_LIMIT = 200
CONTROL_HZ = 80.0
CORNER_POSITION = (0.75, 0.075, 0.7)  # metres; of the moved corner2 camera
CAMERAS = {"corner": "corner2", "gripper": "gripperPOV"}
STATE_NAMES = ("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening_01")
CONDITIONS = ("near_object", "grasped", "near_goal", "success")

# Where upstream's info["near_object"] is a measure of orientation instead of distance, and obj_to_target is always 0.
_WITHOUT_DISTANCES = frozenset({"assembly", "box-close", "disassemble", "hammer"})
_NEAR_OBJECT_M = 0.05
_NEAR_GOAL_M = 0.12
_IN_PLACE = 0.5
_SERVO_GAIN = 25.0  # action units a metre: as upstream's experts, which neither overshoot nor dawdle


@cache
def wordings() -> dict[str, dict[str, Any]]:
    """Per task: ``instruction``, ``paraphrases`` (for training) and ``held_out`` (never trained on)."""
    text = files("failwise.envs.metaworld").joinpath("instructions.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


TASKS: tuple[str, ...] = tuple(wordings())


def make(task: str, **options: Any) -> MetaWorldEnv:
    """The environment of a task such as "pick-place". Options as of ``MetaWorldEnv``."""
    return MetaWorldEnv(task, **options)


class MetaWorldEnv:
    """One Meta-World task.

    Args:
        task: name without the version, e.g. "pick-place".
        image_size: pixels a side of both cameras, 16 to 512.
        cameras: which of "corner" and "gripper" to offer.
        step_limit: steps until truncation, at most upstream's 500.

    Actions: float32 (4,) in [-1, 1]: hand displacement x, y, z in units of 1 cm, gripper effort (positive closes).
    Proprioception: hand position in metres, gripper opening in [0, 1].

    Raises:
        UnknownNameError: no such task.
        MissingDependencyError: the simulator is not installed, or (at the first picture) nothing can render.
    """

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 96,
        cameras: tuple[str, ...] = ("corner", "gripper"),
        step_limit: int = STEP_LIMIT,
    ) -> None:
        if task not in TASKS:
            raise UnknownNameError("metaworld task", task, TASKS)
        if unknown := [c for c in cameras if c not in CAMERAS]:
            raise UnknownNameError("metaworld camera", unknown[0], CAMERAS)
        if not 16 <= image_size <= 512:
            raise SetupError(f"metaworld image_size must be 16 to 512 pixels, not {image_size}")
        if not 1 <= step_limit <= 500:
            raise SetupError(f"metaworld step_limit must be 1 to 500, not {step_limit}")
        self._env = _upstream(task)
        self._task = task
        self.axes = ("x", "y", "z")
        self.gripper = (3, 1.0)
        self.workspace = (np.array(self._env.mocap_low, np.float64), np.array(self._env.mocap_high, np.float64))
        words = wordings()[task]
        self.spec = EnvSpec(
            env_id=f"metaworld/{task}",
            instruction=words["instruction"],
            paraphrases=tuple(words["paraphrases"]),
            held_out=tuple(words["held_out"]),
            action_low=-np.ones(4, np.float32),
            action_high=np.ones(4, np.float32),
            state_names=STATE_NAMES,
            cameras=dict.fromkeys(cameras, (image_size, image_size)),
            conditions=CONDITIONS,
            step_limit=step_limit,
            control_hz=CONTROL_HZ,
            has_expert=True,
        )
        self._size = image_size
        self._renderer: Any = None
        self._camera_ids: dict[str, int] = {}
        self._expert: Any = None
        self._raw: NDArray[np.float64] = np.zeros(39)
        self._steps = 0
        self._version = 0  # counts every change of the simulation: pictures of an older one are stale
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
        self._env.seed(seed)
        raw, _ = self._env.reset()
        self._derive_poses()
        now = self._env._get_curr_obs_combined_no_goal()
        self._env._prev_obs = now.copy()
        self._raw = np.concatenate([now, now, raw[-3:]])  # this moment, the one before, the goal
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
            self._raw, reward, _, _, info = self._env.step(bounded)
        except Exception as error:  # the simulator's own kinds; one lost episode must not end a night's run
            raise EpisodeError(
                f"metaworld/{self._task}: the simulator failed at step {self._steps} ({error})"
            ) from error
        if self._env._did_see_sim_exception or not np.isfinite(self._raw).all():
            raise EpisodeError(f"metaworld/{self._task}: the simulation diverged at step {self._steps}")
        self._steps += 1
        self._version += 1
        conditions = self._conditions(info)
        out = {"conditions": conditions, "success": conditions["success"]}
        return self._observation(), float(reward), False, self._steps >= self.spec.step_limit, out

    def expert(self) -> NDArray[np.float32]:
        """The scripted expert's action (4,), clipped to the bounds. It sees the full simulator state."""
        if self._expert is None:
            from metaworld.policies import ENV_POLICY_MAP

            experts: Any = ENV_POLICY_MAP
            self._expert = experts[f"{self._task}-v3"]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # upstream warns about gains that it clips itself
            action = self._expert.get_action(self._raw)
        return np.clip(np.asarray(action, np.float32), -1.0, 1.0)

    def poses(self) -> dict[str, NDArray[np.float64]]:
        """Positions (3,) in metres of ``hand`` (between the fingers), ``object`` and ``goal``: no policy sees them."""
        return {
            "hand": np.array(self._env.tcp_center, np.float64),
            "object": np.array(self._raw[4:7], np.float64),
            "goal": np.array(self._env._target_pos, np.float64),
        }

    def hand(self) -> NDArray[np.float64]:
        """Where the hand is, (6,): metres in the world's frame; it never turns."""
        return np.concatenate([np.asarray(self._raw[:3], np.float64), np.zeros(3)])

    def nudge(self, error_6: NDArray[Any]) -> NDArray[np.float32]:
        """The action (4,) that moves the hand by an error, as far as one step can; the gripper's part is 0."""
        motion = np.clip(_SERVO_GAIN * np.asarray(error_6)[:3], -1.0, 1.0)
        return np.append(motion, 0.0).astype(np.float32)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Everything that the next step depends on, as arrays.

        MuJoCo's integration state alone is not enough: rewards and success read attributes that reset sets.
        """
        env = self._env
        arrays: dict[str, NDArray[Any]] = {
            "mj": self._integration_state(),
            "body_pos": env.model.body_pos.copy(),
            "body_quat": env.model.body_quat.copy(),
            "site_pos": env.model.site_pos.copy(),
            "raw": self._raw.copy(),
            "steps": np.array([self._steps]),
        }
        for name, value in vars(env).items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and not self._is_live(value):
                arrays[f"array/{name}"] = value.copy()
            elif isinstance(value, (bool, int, float, np.number, np.bool_)):
                arrays[f"scalar/{name}"] = np.array([value])
        return arrays

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> Observation:
        """Continue from a snapshot of the same task.

        Raises:
            SetupError: the snapshot is of another task or another version of the simulator.
        """
        import mujoco

        env = self._env
        size = mujoco.mj_stateSize(env.model, mujoco.mjtState.mjSTATE_INTEGRATION)
        if "mj" not in snapshot or snapshot["mj"].shape != (size,):
            raise SetupError(f"this snapshot does not fit metaworld/{self._task}: it is of another task or version")
        for name in ("body_pos", "body_quat", "site_pos"):
            getattr(env.model, name)[:] = snapshot[name]
        for name, value in snapshot.items():
            kind, _, attribute = name.partition("/")
            if kind == "array":
                setattr(env, attribute, np.array(value))
            elif kind == "scalar":
                setattr(env, attribute, value[0].item())
        mujoco.mj_setState(env.model, env.data, snapshot["mj"], mujoco.mjtState.mjSTATE_INTEGRATION)
        self._derive_poses()
        self._raw = np.array(snapshot["raw"])
        self._steps = int(snapshot["steps"][0])
        self._version += 1
        return self._observation()

    def recompute(self) -> Observation:
        """Compute anew where everything is; no time passes, and the next step is the same, bit for bit."""
        self._derive_poses()
        self._version += 1
        return self._observation()

    def close(self) -> None:
        """Free the renderer's objects and the simulator."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _integration_state(self) -> NDArray[np.float64]:
        """All that MuJoCo's next step reads: positions, velocities, controls, what its solver remembers."""
        import mujoco

        state = np.empty(mujoco.mj_stateSize(self._env.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(self._env.model, self._env.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return state

    def _derive_poses(self) -> None:
        """Compute poses of bodies, geometries, sites and cameras from the present positions and model."""
        import mujoco

        state = self._integration_state()
        mujoco.mj_forward(self._env.model, self._env.data)
        # mj_forward solves the contacts anew and would warm-start the next step from its own answer.
        mujoco.mj_setState(self._env.model, self._env.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)

    def _is_live(self, value: NDArray[Any]) -> bool:
        """Whether an attribute is a window into the simulation's own memory: copying it would freeze it."""
        data = self._env.data
        return any(np.may_share_memory(value, part) for part in (data.xpos, data.site_xpos, data.geom_xpos, data.qpos))

    def _observation(self) -> Observation:
        version = self._version
        images = LazyImages(tuple(self.spec.cameras), self._render, lambda: self._version == version)
        return Observation(images, self._raw[:4].astype(np.float32), self._instruction)

    def _render(self, camera: str) -> NDArray[np.uint8]:
        if self._renderer is None:
            import mujoco

            from failwise.envs.mujoco_rendering import FastRenderer

            model = self._env.model
            self._renderer = FastRenderer(model, self._size, self._size)
            for name, upstream in CAMERAS.items():
                self._camera_ids[name] = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, upstream)
            model.cam_pos[self._camera_ids["corner"]] = CORNER_POSITION
            mujoco.mj_camlight(model, self._env.data)
        return np.asarray(
            self._renderer.render(self._env.data, self._camera_ids[camera], upside_down=camera == "corner")
        )

    def _conditions(self, info: Mapping[str, Any]) -> dict[str, bool]:
        """Named conditions from the distances and flags of the task's own reward."""
        if self._task in _WITHOUT_DISTANCES:
            near = float(np.linalg.norm(self._env.tcp_center - self._raw[4:7])) <= _NEAR_OBJECT_M
            placed = float(info["in_place_reward"]) >= _IN_PLACE
        else:
            near = float(info["near_object"]) > 0.5
            placed = float(info["obj_to_target"]) <= _NEAR_GOAL_M
        return {
            "near_object": bool(near),
            "grasped": bool(info["grasp_success"]),
            "near_goal": bool(placed),
            "success": bool(info["success"]),
        }


def _upstream(task: str) -> Any:
    """Meta-World's own environment, set up for continuous seeded layouts and a full observation for the expert."""
    try:
        import metaworld
    except ImportError as error:
        raise MissingDependencyError(
            f"Meta-World cannot be imported ({error}); install it with: pip install 'failwise[metaworld]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Not through metaworld.MT1: it would first simulate 50 layouts, seconds a task, that nobody uses here.
        env: Any = metaworld.env_dict.ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        env._set_task_called = True
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        env._partially_observable = False
        env.__dict__.pop("sawyer_observation_space", None)  # cached for the partial observation
        env.seed(0)
        env.reset()
    return env
