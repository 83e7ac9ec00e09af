"""One LIBERO task in MuJoCo: the only file that imports ``libero``'s environments and ``robosuite``.

Everything that leaves it is in metres and radians; positions are in the world's frame unless said otherwise.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from failwise.envs.rendering_backend import prepare_rendering
from failwise.errors import MissingDependencyError, SetupError

if TYPE_CHECKING:
    from failwise.envs.libero.benchmark import TaskFiles

prepare_rendering()  # before the first import of mujoco

CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
CONTROL_HZ = 20
IDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0], np.float32)  # stands still, fingers open
_SUBSTEPS = 25  # of 2 ms
_PLACINGS = 100  # attempts at a layout without overlaps; upstream's placing fails now and then, and asks to be repeated
_CONTROLLER = (
    "goal_pos", "goal_ori", "relative_ori", "initial_joint", "initial_ee_pos", "initial_ee_ori_mat", "kp", "kd",
)  # fmt: skip
"""What the operational-space controller remembers from one step to the next."""


class Simulator:
    """An upstream environment without its observations, which cost as much as its physics.

    Args:
        files: what the benchmark says of the task.
        image_size: pixels a side.

    Raises:
        MissingDependencyError: the simulator is not installed.
        SetupError: the task's files do not fit each other.
    """

    def __init__(self, files: TaskFiles, image_size: int) -> None:
        parse, classes, self._retry, self._quat2axisangle, controller = _upstream()
        with _randomness(0):  # some models are built with random parts
            kind = _beginning_anew(classes[parse(str(files.goal_file))["problem_name"]])
            self._env: Any = kind(
                str(files.goal_file), robots=["Panda"], controller_configs=controller, gripper_types="default",
                initialization_noise=None, use_camera_obs=False, has_offscreen_renderer=False,
                control_freq=CONTROL_HZ, horizon=sys.maxsize, ignore_done=True, hard_reset=False,
            )  # fmt: skip
        self._env._observables = {}
        import mujoco

        self._mujoco = mujoco
        self.model: Any = self._env.sim.model._model
        self.data: Any = self._env.sim.data._data
        self._robot = self._env.robots[0]
        self._states = files.initial_states()
        width = 1 + self.model.nq + self.model.nv
        if self._states.shape[1] != width:
            raise SetupError(
                f"LIBERO's initial states of {files.goal_file.stem} have {self._states.shape[1]} columns, its model "
                f"{width}; set it up anew: make libero"
            )
        self.goals: tuple[tuple[str, ...], ...] = tuple(tuple(g) for g in self._env.parsed_problem["goal_state"])
        self._size = image_size
        self._renderer: Any = None
        self._pads = [
            self._geoms(self._robot.gripper.important_geoms[f"{side}_fingerpad"]) for side in ("left", "right")
        ]
        self._parts = {name: self._parts_of(name) for name in self._env.obj_body_id}

    @property
    def n_states(self) -> int:
        """How many initial states the benchmark has for the task."""
        return len(self._states)

    @property
    def base(self) -> NDArray[np.float64]:
        """Where the robot stands, (3,). Its axes are parallel to the world's: x forward, y left, z up."""
        return np.array(self._robot.base_pos, np.float64)

    @property
    def table(self) -> NDArray[np.float64]:
        """Middle of what things stand on, (3,)."""
        return np.array(self._env.workspace_offset, np.float64)

    @property
    def hand(self) -> NDArray[np.float64]:
        """Pose between the fingertips, (4, 4)."""
        site = self._robot.eef_site_id
        pose = np.eye(4)
        pose[:3, :3] = self.data.site_xmat[site].reshape(3, 3)
        pose[:3, 3] = self.data.site_xpos[site]
        return pose

    @property
    def proprioception(self) -> NDArray[np.float64]:
        """Hand position, hand orientation as an axis times an angle, and the two fingers' joints, (8,)."""
        w, x, y, z = self.data.body(self._robot.robot_model.eef_name).xquat
        fingers = self.data.qpos[self._robot._ref_gripper_joint_pos_indexes]
        return np.concatenate([self.hand[:3, 3], self._quat2axisangle(np.array([x, y, z, w])), fingers])

    def position(self, name: str) -> NDArray[np.float64]:
        """Where a thing, a piece of furniture or a region is, (3,)."""
        return np.array(self._env.object_states_dict[name].get_geom_state()["pos"], np.float64)

    def is_movable(self, name: str) -> bool:
        """Whether it is a thing that can be carried."""
        return name in self._env.objects_dict

    def holds(self, name: str) -> bool:
        """Whether both fingers' pads touch a thing (of a region: the furniture that it belongs to)."""
        sites = self._env.object_sites_dict
        parts = self._parts.get(sites[name].parent_name if name in sites else name)
        if parts is None:  # a region of the table
            return False
        pairs = self.data.contact.geom
        first, second = parts[pairs[:, 0]], parts[pairs[:, 1]]
        other = np.concatenate([pairs[first, 1], pairs[second, 0]])
        return all(bool(np.isin(other, pad).any()) for pad in self._pads)

    def fulfils(self, goal: tuple[str, ...]) -> bool:
        """Whether one of ``goals`` holds, by upstream's own test."""
        return bool(self._env._eval_predicate(list(goal)))

    def reset(self, seed: int, settle: int) -> None:
        """Begin the layout of a seed, the same however the last episode went, and let it come to rest.

        A seed below ``n_states`` is that initial state of the benchmark; any other one is drawn from the task's own
        ranges. Furniture is not a part of the initial states: it is drawn from the seed in either case.
        """
        with _randomness(seed % 2**32):
            self._place()
        if seed < self.n_states:
            self._env.sim.set_state_from_flattened(self._states[seed])
            self._env.sim.forward()
        self._env._post_process()
        for _ in range(settle):
            self.step(IDLE)

    def step(self, action: NDArray[np.float32]) -> None:
        """Apply an action (7,) for one twentieth of a second.

        The controller computes everything that depends on positions before it sets its torques, so only the second
        half of a physics step is left to do: the same numbers as upstream's step, bit for bit, in less time.
        """
        command = np.asarray(action, np.float64)
        for k in range(_SUBSTEPS):
            self._env._pre_action(command, policy_step=k == 0)
            self._mujoco.mj_step2(self.model, self.data)
        self._refresh()

    def picture(self, camera: str) -> NDArray[np.uint8]:
        """What a camera sees now, uint8 (h, w, 3), row 0 at the top.

        Raises:
            MissingDependencyError: nothing can render here.
        """
        if self._renderer is None:
            from failwise.envs.mujoco_rendering import FastRenderer

            self._renderer = FastRenderer(self.model, self._size, self._size, hidden_groups=(0,))
        index = self._mujoco.mj_name2id(self.model, self._mujoco.mjtObj.mjOBJ_CAMERA, CAMERAS[camera])
        return np.asarray(self._renderer.render(self.data, index))

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Everything that the next step depends on, as arrays."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mujoco.mj_stateSize(self.model, kind))
        self._mujoco.mj_getState(self.model, self.data, state, kind)
        controller = self._robot.controller
        arrays = {f"controller/{name}": np.array(getattr(controller, name), np.float64) for name in _CONTROLLER}
        return arrays | {
            "mj": state,
            "fingers": np.array(self._robot.gripper.current_action, np.float64),
            "body_pos": self.model.body_pos.copy(),
            "body_quat": self.model.body_quat.copy(),
        }

    def fits(self, snapshot: Mapping[str, NDArray[Any]]) -> bool:
        """Whether a snapshot has the arrays of this task."""
        mine = self.snapshot()
        return all(name in snapshot and snapshot[name].shape == array.shape for name, array in mine.items())

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a snapshot."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        self.model.body_pos[:] = snapshot["body_pos"]
        self.model.body_quat[:] = snapshot["body_quat"]
        self._mujoco.mj_setState(self.model, self.data, snapshot["mj"], kind)
        for name in _CONTROLLER:
            setattr(self._robot.controller, name, np.array(snapshot[f"controller/{name}"]))
        self._robot.gripper.current_action = np.array(snapshot["fingers"])
        self.recompute()

    def recompute(self) -> None:
        """Compute anew where everything is; no time passes, and the next step is the same, bit for bit."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mujoco.mj_stateSize(self.model, kind))
        self._mujoco.mj_getState(self.model, self.data, state, kind)
        self._refresh()
        # That solved the contacts anew; the next step is to start from the answer that was remembered.
        self._mujoco.mj_setState(self.model, self.data, state, kind)

    def close(self) -> None:
        """Free the renderer's objects and the simulator."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _place(self) -> None:
        """Draw a layout, again where upstream finds no room for a thing."""
        for _ in range(_PLACINGS):
            try:
                self._env.reset()
                break
            except self._retry:
                continue
        else:
            raise SetupError(f"LIBERO found no room for the things of its task in {_PLACINGS} attempts")
        self._robot.gripper.current_action = np.zeros(self._robot.gripper.current_action.shape)  # or the last one stays

    def _refresh(self) -> None:
        """Bring everything that follows from positions up to date: poses, contacts, a burner's glow."""
        self._env.sim.forward()
        self._env._post_process()
        self._robot.controller.new_update = True

    def _geoms(self, names: list[str]) -> NDArray[np.int64]:
        return np.array([self._env.sim.model.geom_name2id(name) for name in names])

    def _parts_of(self, name: str) -> NDArray[np.bool_]:
        """Of each geometry of the model, (ngeom,), whether it is a part of a thing."""
        roots = self.model.body_rootid
        part: NDArray[np.bool_] = roots[self.model.geom_bodyid] == roots[self._env.obj_body_id[name]]
        return part


def _beginning_anew(kind: Any) -> Any:
    """An upstream class whose furniture is back where its model has it before a layout is drawn.

    Upstream builds its model anew for every episode, which takes seconds. Here the model stays, so this is what keeps a
    layout from depending on the one before it.
    """

    def begin(env: Any) -> None:
        model = env.sim.model
        if not hasattr(env, "_first_places"):
            env._first_places = (model.body_pos.copy(), model.body_quat.copy())
        model.body_pos[:], model.body_quat[:] = env._first_places
        kind._reset_internal(env)

    return type(kind.__name__, (kind,), {"_reset_internal": begin})  # upstream checks that the name fits the task


@contextmanager
def _randomness(seed: int) -> Iterator[None]:
    """Upstream draws from numpy's global generator: seed it for a while, then give it back as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _upstream() -> tuple[Any, Any, Any, Any, Any]:
    """Upstream's parser, environments by problem, "try again" error, quaternion's axis-angle, controller's config."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # robosuite's, about a file of settings that nobody needs
    try:
        from libero.libero.envs import TASK_MAPPING
        from libero.libero.envs.bddl_utils import get_problem_info
        from robosuite import load_controller_config
        from robosuite.utils.errors import RandomizationError
        from robosuite.utils.transform_utils import quat2axisangle
    except (ImportError, OSError) as error:  # robosuite opens a log file at import
        raise MissingDependencyError(
            f"LIBERO cannot be imported ({error}); it has an environment of its own: make libero"
        ) from error
    finally:
        logging.disable(disabled)
    return (
        get_problem_info, TASK_MAPPING, RandomizationError, quat2axisangle,
        load_controller_config(default_controller="OSC_POSE"),
    )  # fmt: skip
