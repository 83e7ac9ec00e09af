"""Upstream's ``pd_ee_delta_pose`` and its judgement of a grasp for one arm on the CPU, without tensors.

Upstream writes both for thousands of arms at once: for one, some three of the four milliseconds of a step go into
tensors of one row, and the physics takes half of one. Here an action becomes targets by the same operations in the same
order on float32 numbers, so that targets, and with them trajectories, are upstream's bit for bit; grasps are judged
alike but for rounding at their limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Quaternion = Sequence[np.float32]  # w, x, y, z
Point = Sequence[np.float32]
_ZERO, _ONE, _HALF, _TENTH, _TWO = map(np.float32, (0.0, 1.0, 0.5, 0.1, 2.0))
_EPS = 1e-6  # upstream's: shorter vectors have no direction


class Drive:
    """From an action to the targets of all joints.

    Args:
        agent: upstream's, with ``pd_ee_delta_pose``.
    """

    def __init__(self, agent: Any) -> None:
        arm, fingers = (agent.controller.controllers[name] for name in ("arm", "gripper"))
        self._robot = agent.robot._objs[0]
        self._hand, self._root = arm.ee_link._objs[0], arm.root_link._objs[0]
        self._arm = [joint._objs[0] for joint in arm.joints]
        self._fingers = [joint._objs[0] for joint in fingers.joints]
        self._scales = [
            (_HALF * (high + low), _HALF * (high - low))
            for low, high in zip(_numbers(arm.action_space_low)[:3], _numbers(arm.action_space_high)[:3], strict=True)
        ]
        low, high = _numbers(fingers.action_space_low)[0], _numbers(fingers.action_space_high)[0]
        self._opening = _HALF * (high + low), _HALF * (high - low)
        self._turn = np.float32(arm.config.rot_lower)
        ik = arm.kinematics
        self._solve, self._link = ik.pmodel.compute_inverse_kinematics, ik.end_link_idx
        self._given, self._mask = ik.pmodel_active_joint_indices.numpy(), ik.qmask.numpy()
        self._wanted = ik.pmodel_controlled_joint_indices.numpy()
        self._moved = arm.active_joint_indices.numpy()

    @staticmethod
    def drives(agent: Any) -> bool:
        """Whether an arm is controlled as this class knows it."""
        from mani_skill.agents.controllers.pd_ee_pose import PDEEPoseController
        from mani_skill.agents.controllers.pd_joint_pos import PDJointPosMimicController
        from mani_skill.agents.robots.panda.panda import Panda

        parts = getattr(agent.controller, "controllers", {})
        kinds = [(name, type(part)) for name, part in parts.items()]
        if kinds != [("arm", PDEEPoseController), ("gripper", PDJointPosMimicController)]:
            return False
        if type(agent).is_grasping is not Panda.is_grasping:
            return False
        arm, fingers = parts["arm"].config, parts["gripper"].config
        plain = all(c.normalize_action and not (c.use_target or c.interpolate) for c in (arm, fingers))
        follows = all(m.get("multiplier", 1.0) == 1.0 and not m.get("offset") for m in fingers.mimic.values())
        turns = isinstance(arm.rot_lower, float) and arm.frame == "root_translation:root_aligned_body_rotation"
        return plain and follows and turns and arm.use_delta and not fingers.use_delta and len(fingers.joint_names) == 2

    def __call__(self, action: NDArray[np.float32]) -> None:
        """Set the targets for an action (7,) in [-1, 1]."""
        import sapien

        now_p, now_q = _times(_inverse(_parts(self._root.entity_pose)), _parts(self._hand.entity_pose))
        clipped = np.clip(action, -_ONE, _ONE)
        by = [middle + half * value for (middle, half), value in zip(self._scales, clipped[:3], strict=True)]
        turn = _product(_quaternion(self._rotation(action[3:6])), now_q)
        goal = sapien.Pose(np.array([a + b for a, b in zip(now_p, by, strict=True)]), np.array(turn))
        at = self._robot.get_qpos()
        found, solved, _ = self._solve(
            self._link, goal, initial_qpos=at[self._given], active_qmask=self._mask, max_iterations=100
        )
        targets = found[self._wanted].astype(np.float32) if solved else at[self._moved]
        middle, half = self._opening
        for joint, target in zip(self._arm, targets, strict=True):
            joint.set_drive_target(target)
        for joint in self._fingers:
            joint.set_drive_target(middle + half * clipped[6])

    def _rotation(self, asked: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rotation matrix (3, 3) of the turn that an action asks for: as Euler angles, no longer than one."""
        import torch  # its sine and its small products round in a way of their own

        turn = torch.from_numpy(asked)[None]
        norm = torch.linalg.norm(turn, axis=1)
        if norm > 1:
            turn = turn * (1 / norm)[:, None]
        turn = turn * float(self._turn)
        (cx, cy, cz), (sx, sy, sz) = torch.cos(turn)[0].numpy(), torch.sin(turn)[0].numpy()
        x = [[1, 0, 0], [0, cx, -sx], [0, sx, cx]]
        y = [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]
        z = [[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]
        one, two, three = torch.from_numpy(np.array([x, y, z], np.float32))[:, None]
        return np.asarray(torch.matmul(torch.matmul(one, two), three)[0].numpy())


def grips(
    agent: Any, thing: Any, contacts: Sequence[Any], timestep: float, min_force: float = 0.5, max_angle: float = 85.0
) -> bool:
    """Whether both fingers press on a thing, each from its side: ``Panda.is_grasping``.

    Args:
        agent: upstream's.
        thing: upstream's actor.
        contacts: all of this moment.
        timestep: seconds.
        min_force: newtons, at least.
        max_angle: degrees between a finger's direction and its force, at most.
    """
    entity = thing._bodies[0].entity
    touching = [contact for contact in contacts if entity in (contact.bodies[0].entity, contact.bodies[1].entity)]
    if not touching:
        return False
    for link, side in ((agent.finger1_link, 1.0), (agent.finger2_link, -1.0)):
        finger = link._objs[0]
        pressing = np.zeros(3)
        for contact in touching:
            first, second = (body.entity for body in contact.bodies)
            if finger.entity in (first, second):
                impulse = np.sum([point.impulse for point in contact.points], axis=0)
                pressing += impulse if first == finger.entity else -impulse
        pressing /= timestep
        size = float(np.linalg.norm(pressing))
        if size < min_force:
            return False
        opens = side * finger.entity_pose.to_transformation_matrix()[:3, 1]
        cosine = float(opens @ pressing) / max(size, _EPS) / max(float(np.linalg.norm(opens)), _EPS)
        if np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))) > max_angle:
            return False
    return True


def _numbers(values: Any) -> list[np.float32]:
    return list(np.asarray(values, np.float32))


def _parts(pose: Any) -> tuple[Point, Quaternion]:
    return list(pose.p), list(pose.q)


def _raw_product(a: Quaternion, b: Quaternion) -> Quaternion:
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def _upper(q: Quaternion) -> Quaternion:
    """Of the two quaternions of a rotation the one whose real part is not negative."""
    return [-part for part in q] if q[0] < 0 else q


def _product(a: Quaternion, b: Quaternion) -> Quaternion:
    return _upper(_raw_product(a, b))


def _turned(q: Quaternion, point: Point) -> Point:
    w, x, y, z = q
    return _raw_product(_raw_product(q, (_ZERO, *point)), (w, -x, -y, -z))[1:]


def _inverse(pose: tuple[Point, Quaternion]) -> tuple[Point, Quaternion]:
    (w, x, y, z), back = pose[1], [-part for part in pose[0]]
    q = (w, -x, -y, -z)
    return _turned(q, back), q


def _times(one: tuple[Point, Quaternion], other: tuple[Point, Quaternion]) -> tuple[Point, Quaternion]:
    moved = _turned(one[1], other[0])
    return [a + b for a, b in zip(one[0], moved, strict=True)], _product(one[1], other[1])


def _root(squares: Sequence[np.float32]) -> NDArray[np.float32]:
    import torch  # its root is not always the nearest float

    return np.asarray(torch.sqrt(torch.from_numpy(np.array(squares).clip(0))).numpy())


def _quaternion(matrix: NDArray[np.float32]) -> Quaternion:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    squares = (_ONE + a + e + i, _ONE + a - e - i, _ONE - a + e - i, _ONE - a - e + i)
    best = int(np.argmax(squares))
    size = _root(squares)[best]
    parts = (
        (size * size, h - f, c - g, d - b),
        (h - f, size * size, d + b, c + g),
        (c - g, d + b, size * size, f + h),
        (d - b, g + c, h + f, size * size),
    )[best]
    return _upper([part / (_TWO * max(size, _TENTH)) for part in parts])
