"""Fewer triangles: what software rendering costs here is vertices, not pixels.

The robot is drawn by the convex shapes that it collides with, in its own colours, the table and the ground as boxes.
Fingers and things keep their shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sapien
from numpy.typing import NDArray

_TABLE = "table-workspace"
_TABLE_RGBA = (0.72, 0.56, 0.42, 1.0)
_GROUND_RGBA = (0.42, 0.44, 0.5, 1.0)
_GROUND_Z_M = -0.9196429  # the floor that the table stands on
_FINGERS = ("panda_leftfinger", "panda_rightfinger")


def simplify(env: Any) -> None:
    """Exchange the visuals of an upstream environment's robot, table and ground for simple ones."""
    for link in env.agent.robot.links:
        if link.name not in _FINGERS:
            _exchange(link._objs[0].entity, link._objs[0], None)
    table = env.scene.actors[_TABLE]._objs[0]
    _exchange(table, table.find_component_by_type(sapien.physx.PhysxRigidBaseComponent), _TABLE_RGBA)
    ground = env.scene.actors["ground"]._objs[0]
    floor = sapien.render.RenderShapeBox([10.0, 10.0, 0.01], _material(_GROUND_RGBA))
    floor.local_pose = sapien.Pose([0.0, 0.0, _GROUND_Z_M - 0.01])
    _replace(ground, [floor])


def _exchange(entity: Any, collision: Any, rgba: tuple[float, ...] | None) -> None:
    body = entity.find_component_by_type(sapien.render.RenderBodyComponent)
    if body is None or collision is None or not collision.collision_shapes:
        return
    material = _material(_colour(body) if rgba is None else rgba)
    shapes = []
    for shape in collision.collision_shapes:
        drawn = _drawn(shape, material)
        if drawn is not None:
            drawn.local_pose = shape.local_pose
            shapes.append(drawn)
    _replace(entity, shapes)


def _replace(entity: Any, shapes: list[Any]) -> None:
    body = entity.find_component_by_type(sapien.render.RenderBodyComponent)
    simple = sapien.render.RenderBodyComponent()
    for shape in shapes:
        simple.attach(shape)
    entity.remove_component(body)
    entity.add_component(simple)


def _material(rgba: Sequence[float]) -> Any:
    material = sapien.render.RenderMaterial()
    material.base_color = list(rgba)
    material.roughness = 0.8
    return material


def _drawn(shape: Any, material: Any) -> Any:
    if isinstance(shape, sapien.physx.PhysxCollisionShapeBox):
        return sapien.render.RenderShapeBox(shape.half_size, material)
    if not isinstance(shape, sapien.physx.PhysxCollisionShapeConvexMesh):
        return None
    corners = (np.asarray(shape.vertices) * np.asarray(shape.scale))[np.asarray(shape.triangles)]  # (n, 3 corners, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    n = len(corners)
    return sapien.render.RenderShapeTriangleMesh(
        corners.reshape(-1, 3).astype(np.float32),
        np.arange(3 * n, dtype=np.uint32).reshape(n, 3),
        np.repeat(normals, 3, axis=0).astype(np.float32),
        np.zeros((3 * n, 2), np.float32),
        material,
    )


def _colour(body: Any) -> list[float]:
    """The mean colour of a body's parts, by triangles."""
    parts = [part for shape in body.render_shapes for part in shape.parts]
    weights: NDArray[np.float64] = np.array([len(part.triangles) for part in parts], np.float64)
    colours = np.array([part.material.base_color for part in parts], np.float64)
    return [float(c) for c in weights @ colours / weights.sum()]
