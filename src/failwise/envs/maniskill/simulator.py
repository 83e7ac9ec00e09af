"""One upstream ManiSkill task: the only file that imports ``mani_skill`` and ``sapien``.

Everything that leaves it is in metres and in the robot's base frame.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from failwise.envs.maniskill.driving import Drive, grips
from failwise.envs.maniskill.variants import PLAIN, Variant, cylinders_for_cubes
from failwise.envs.maniskill.vulkan import REMEDY, choose_driver
from failwise.errors import MissingDependencyError

if TYPE_CHECKING:
    from failwise.envs.maniskill.expert import Pose
    from failwise.envs.maniskill.tasks import Task

BASE_X_M = -0.615  # of the robot's base in the simulator's world, whose axes are parallel
_TOUCH_M = 1e-3
_FURNITURE = ("table-workspace", "ground")
_HAND_CAMERA = ((0.06, 0.0, 0.02), (0.70710678, 0.0, -0.70710678, 0.0))  # beside the fingers, looking along them


class Simulator:
    """An upstream environment without observations, and cameras that are asked one by one.

    Args:
        name: upstream's name of the task.
        task: ours.
        image_size: pixels a side.
        simple_visuals: draw the robot by its collision shapes.
        variant: what is changed in it.

    Raises:
        MissingDependencyError: the simulator or its Vulkan driver is missing or too old.
    """

    def __init__(self, name: str, task: Task, image_size: int, simple_visuals: bool, variant: Variant = PLAIN) -> None:
        kind = _environment_class(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium's, about an observation space that nobody asks for
            self._env: Any = _with_cameras(kind, image_size, variant)(
                obs_mode="none", control_mode="pd_ee_delta_pose", robot_uids=variant.robot or task.robot,
                sim_backend="physx_cpu", render_backend="cpu",
                sim_config={"scene_config": {"enable_enhanced_determinism": True}},
            )  # fmt: skip
        self._task, self._variant = task, variant
        self._held: set[str] = set()
        self._fresh = False  # whether the renderer has the present poses
        self._poses: dict[str, Pose] = {}  # of the hand and of things, at this moment
        self._grasps: dict[Any, bool] = {}  # whether each thing is grasped, at this moment
        self._touching: list[Any] | None = None  # contacts, at this moment
        self._shapes: dict[str, tuple[int, ...]] = {}  # of a snapshot's arrays
        self._things = [actor for actor in self._env.scene.actors.values() if actor.px_body_type == "dynamic"]
        self._bodies = [body for body in self._env.scene.sub_scenes[0].entities if _is_physical(body)]
        agent = self._env.agent
        self._drive = Drive(agent) if Drive.drives(agent) else None  # None: upstream's own way
        self._judge_grasps_once()
        if simple_visuals:
            from failwise.envs.maniskill.visuals import simplify

            simplify(self._env)

    @property
    def hand(self) -> Pose:
        """Pose between the fingertips, (4, 4), not to be written to."""
        return self._pose_of("", lambda: self._env.agent.tcp._objs[0].entity_pose)

    @property
    def opening(self) -> float:
        """How far each finger is open on average, 0 to 0.04 m."""
        return float(self._env.agent.robot._objs[0].get_qpos()[-2:].mean())

    def pose(self, name: str) -> Pose:
        """Pose of a thing by upstream's name, (4, 4), not to be written to; "socket" is where a charger belongs."""
        env = self._env
        return self._pose_of(name, lambda: env.goal_pose.sp if name == "socket" else getattr(env, name)._objs[0].pose)

    def holds(self, name: str) -> bool:
        """Whether the fingers held a thing after the last step (in tasks without a grasp: touched it)."""
        return getattr(self._env, name).name in self._held

    def reset(self, seed: int) -> None:
        """A new layout out of the task's whole range: the same for the same seed, however the last episode went."""
        self._settle(lambda: self._begin(seed % 2**32))
        self._held = set()
        self._changed()

    def step(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        """Apply an action (7,). Returns reward and success."""
        self._changed()
        reward, info = self._driven(self._drive, action) if self._drive else self._env.step(action)[1::3]
        self._held = {thing.name for thing in self._things if self._grips(thing)}
        return float(reward), bool(info["success"])

    def _driven(self, drive: Drive, action: NDArray[np.float32]) -> tuple[Any, Mapping[str, Any]]:
        """What upstream's step does, without its tensors of one row."""
        import torch

        env = self._env
        drive(action)
        for _ in range(env._sim_steps_per_control):
            env.scene.step()
        env._elapsed_steps += 1
        info = env.get_info()
        return env.get_reward(obs={}, action=torch.from_numpy(action)[None], info=info), info

    def picture(self, camera: str) -> NDArray[np.uint8]:
        """What a camera sees now, uint8 (h, w, 3)."""
        if not self._fresh:
            self._env.scene.update_render(update_human_render_cameras=False)
            self._fresh = True
        sensor = self._env._sensors[camera]
        sensor.capture()
        picture = sensor.get_obs(rgb=True, depth=False, position=False, segmentation=False)["rgb"]
        return np.array(picture[0].numpy(), np.uint8)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """The state as arrays. The simulation goes on from the same arrays, without its memory of earlier contacts."""
        state = self.peek()
        self.restore(state)
        return state

    def fits(self, snapshot: Mapping[str, NDArray[Any]]) -> bool:
        """Whether a snapshot has the arrays of this task."""
        if not self._shapes:
            self._shapes = {name: array.shape for name, array in self.peek().items()}
        return all(name in snapshot and snapshot[name].shape == shape for name, shape in self._shapes.items())

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a snapshot."""
        self._settle(lambda: self._place(snapshot))
        self._held = {thing.name for thing, held in zip(self._things, snapshot["held"], strict=True) if held}
        self._changed()

    def recompute(self) -> None:
        """Forget all that was computed of this moment: the next question and the next image ask the simulation."""
        self._changed()

    def _changed(self) -> None:
        """What was known of the moment before is of no use any more."""
        self._fresh = False
        self._poses.clear()
        self._grasps.clear()
        self._touching = None

    def _pose_of(self, name: str, ask: Callable[[], Any]) -> Pose:
        """A pose, asked for once a moment: who acts, watches and records all ask. Upstream's tensors are left out."""
        if name not in self._poses:
            pose = _in_base(ask())
            pose.setflags(write=False)
            self._poses[name] = pose
        return self._poses[name]

    def _judge_grasps_once(self) -> None:
        """Have each grasp judged once a moment: success, reward and we ask, and each time costs 0.7 ms."""
        import torch

        agent, upstream = self._env.agent, self._env.agent.is_grasping

        def is_grasping(thing: Any, *limits: float, **named: float) -> Any:
            key = (thing.name, limits, *named.items())
            if key not in self._grasps:
                self._grasps[key] = bool(
                    grips(agent, thing, self._contacts(), self._env.scene.px.timestep, *limits, **named)
                    if self._drive
                    else upstream(thing, *limits, **named)
                )
            return torch.tensor([self._grasps[key]])

        self._env.agent.is_grasping = is_grasping

    def _begin(self, seed: int) -> None:
        self._env.reset(seed=seed)
        robot = self._env.agent.robot
        robot.set_joint_drive_targets(robot.get_qpos(), robot.active_joints)  # the last episode's are still there
        if self._variant.shift_m:
            self._move_layout(self._variant.shift(seed))

    def _move_layout(self, by: NDArray[np.float64]) -> None:
        """Move all things and markers along the table."""
        import torch
        from mani_skill.utils.structs.pose import Pose

        for name, actor in self._env.scene.actors.items():
            if name not in _FURNITURE:
                moved = actor.pose.raw_pose.clone()
                moved[:, :2] += torch.as_tensor(by, dtype=moved.dtype)
                actor.set_pose(Pose.create(moved))

    def _place(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        import torch

        tensors = {name: torch.from_numpy(np.array(array)) for name, array in snapshot.items()}
        nested: dict[str, dict[str, Any]] = {"actors": {}, "articulations": {}}
        for name, tensor in tensors.items():
            group, _, item = name.partition("/")
            if group in nested:
                nested[group][item] = tensor
        self._env.set_state_dict(nested)
        robot = self._env.agent.robot
        robot.set_joint_drive_targets(tensors["targets"], robot.active_joints)
        self._env.agent.controller.reset()
        self._env._elapsed_steps[:] = tensors["elapsed"]
        if "socket" in tensors:
            self._env.goal_pose.raw_pose[:] = tensors["socket"]

    def close(self) -> None:
        """Free the scene."""
        self._env.close()

    def peek(self) -> dict[str, NDArray[Any]]:
        """The state as arrays; nothing is touched."""
        env, kept = self._env, self._env.scene.state_dict_registry
        arrays: dict[str, NDArray[Any]] = {
            f"actors/{name}": _actor_state(actor)
            for name, actor in kept.actors.items() if actor.px_body_type != "static"
        }  # fmt: skip
        arrays |= {f"articulations/{name}": _articulation_state(one) for name, one in kept.articulations.items()}
        arrays["targets"] = env.agent.robot.drive_targets.cpu().numpy().copy()
        arrays["elapsed"] = env.elapsed_steps.cpu().numpy().copy()
        arrays["held"] = np.array([thing.name in self._held for thing in self._things])
        if hasattr(env, "goal_pose"):
            arrays["socket"] = env.goal_pose.raw_pose.cpu().numpy().copy()
        return arrays

    def _grips(self, thing: Any) -> bool:
        agent = self._env.agent
        if self._task.held:
            return bool(agent.is_grasping(thing))
        # Nearness, not force: what is pushed bounces ahead of the fingers, and forces are those of one moment.
        fingers = {link._objs[0].entity for link in (agent.finger1_link, agent.finger2_link)}
        pairs = ({body.entity for body in contact.bodies} for contact in self._near())
        return any(thing._objs[0] in pair and pair & fingers for pair in pairs)

    def _contacts(self) -> list[Any]:
        if self._touching is None:
            self._touching = list(self._env.scene.px.get_contacts())
        return self._touching

    def _near(self) -> list[Any]:
        """Contacts of things that touch; those that the solver only expects are left out."""
        return [c for c in self._contacts() if min((p.separation for p in c.points), default=np.inf) < _TOUCH_M]

    def _settle(self, place: Callable[[], object]) -> None:
        """Put everything somewhere so that what follows does not depend on what came before.

        The solver remembers contacts, and the order in which it takes them up depends on all contacts that there ever
        were; no state tells either. So all bodies move, in the same order, into a new simulation that knows nothing.
        """
        import sapien

        self._changed()
        old = self._env.scene.px
        new = sapien.physx.PhysxCpuSystem()
        new.timestep = old.timestep
        scene = sapien.Scene([new, self._env.scene.sub_scenes[0].render_system])
        for body in self._bodies:
            body.remove_from_scene()
        for body in self._bodies:
            scene.add_entity(body)
        self._env.scene.px = new
        self._physics = scene  # which lives as long as somebody holds it
        place()
        for thing in self._things:  # how soon each falls asleep it carries along
            thing._objs[0].find_component_by_type(sapien.physx.PhysxRigidDynamicComponent).wake_up()


def _actor_state(actor: Any) -> NDArray[np.float32]:
    """As upstream's ``get_state`` of an actor, (1, 13): position, quaternion, and the two velocities."""
    pose, still = actor._objs[0].pose, np.zeros(3, np.float32)
    body = actor._bodies[0] if actor.px_body_type == "dynamic" else None
    turning = still if body is None else body.angular_velocity
    return np.concatenate([pose.p, pose.q, still if body is None else body.linear_velocity, turning])[None]


def _articulation_state(articulation: Any) -> NDArray[np.float32]:
    """As upstream's ``get_state`` of an articulation, (1, 13 + 2 joints): of its root, then joints and their speeds."""
    joints, root = articulation._objs[0], articulation.root._objs[0]
    pose = root.entity_pose
    speeds = root.linear_velocity, root.angular_velocity
    return np.concatenate([pose.p, pose.q, *speeds, joints.get_qpos(), joints.get_qvel()])[None]


def _in_base(pose: Any) -> Pose:
    matrix = np.asarray(pose.to_transformation_matrix(), np.float64)
    matrix[0, 3] -= BASE_X_M
    return matrix


def _is_physical(entity: Any) -> bool:
    import sapien

    return any(isinstance(part, sapien.physx.PhysxBaseComponent) for part in entity.components)


def _environment_class(name: str) -> Any:
    """Upstream's class of a task, after a look at whether it can run here."""
    choose_driver()
    try:
        import mani_skill.envs  # noqa: F401  # registers the tasks
        import sapien
        from mani_skill.utils.registration import REGISTERED_ENVS
    except ImportError as error:
        raise MissingDependencyError(
            f"ManiSkill cannot be imported ({error}); it has an environment of its own: make maniskill"
        ) from error
    try:
        sapien.render.RenderSystem(sapien.Device("cpu"))
    except RuntimeError as error:
        raise MissingDependencyError(f"ManiSkill finds no Vulkan driver that it can use ({error}): {REMEDY}") from error
    return REGISTERED_ENVS[name].cls


def _with_cameras(kind: Any, image_size: int, variant: Variant) -> Any:
    """A task's class with our cameras instead of its own, and its thing as a variant wants it."""
    import sapien
    from mani_skill.sensors.camera import CameraConfig
    from mani_skill.utils import sapien_utils

    def cameras(env: Any) -> list[Any]:
        look = {name: sapien_utils.look_at(eye, target) for name, (eye, target) in variant.views.items()}
        options: dict[str, Any] = {"width": image_size, "height": image_size, "near": 0.01, "far": 10.0}
        configs = [CameraConfig(uid=name, pose=pose, fov=1.0, **options) for name, pose in look.items()]
        hand = env.agent.robot.links_map["panda_hand"]
        pose = sapien.Pose(*_HAND_CAMERA)
        return [*configs, CameraConfig(uid="hand", pose=pose, fov=np.pi / 2, mount=hand, **options)]

    def load(env: Any, options: Any) -> None:
        with cylinders_for_cubes() if variant.cylinders else nullcontext():
            kind._load_scene(env, options)

    arms = [*kind.SUPPORTED_ROBOTS, *([variant.robot] if variant.robot else [])]  # or upstream warns of it
    changes = {"_default_sensor_configs": property(cameras), "_load_scene": load, "SUPPORTED_ROBOTS": arms}
    return type(kind.__name__, (kind,), changes)
