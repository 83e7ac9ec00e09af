"""The same tasks changed in one way that a policy has not been trained on: the axes of FailSafe's generalisation test.

Written behind the task: "maniskill/PickCube-v1@view". FailSafe (arXiv 2510.01642) judges its recovery model on other
spatial ranges, another camera view, other objects and another arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Views = Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]]

VIEWS: Views = {  # eye and target in the world, metres
    "front": ((0.45, 0.0, 0.4), (-0.05, 0.0, 0.08)),
    "side": ((0.0, 0.6, 0.4), (0.0, 0.0, 0.08)),
}
_MOVED: Views = {  # each about 15 degrees around its target, and a little higher
    "front": ((0.43, 0.13, 0.44), (-0.05, 0.0, 0.08)),
    "side": ((-0.15, 0.58, 0.44), (0.0, 0.0, 0.08)),
}
CUBES = ("PickCube-v1", "PushCube-v1", "StackCube-v1", "PullCube-v1")
_MOVED_BY_TASK = ("cube", "cubeA")  # upstream's names of what the tasks with cubes are about


@dataclass(frozen=True)
class Variant:
    """One change.

    Attributes:
        views: eye and target of the standing cameras, in the simulator's world, metres.
        shift_m: everything lies so far from where the layout puts it, in a direction that the layout's seed draws.
        cylinders: what the task is about is a standing cylinder, as wide and as high as the cube was.
        robot: the simulator's name of the arm, in place of the task's own.
    """

    views: Views = field(default_factory=lambda: VIEWS)
    shift_m: float = 0.0
    cylinders: bool = False
    robot: str = ""

    def shift(self, seed: int) -> NDArray[np.float64]:
        """By how much a layout is moved, (2,), metres."""
        angle = np.random.default_rng([seed, 7]).uniform(0.0, 2 * np.pi)
        return self.shift_m * np.array([np.cos(angle), np.sin(angle)])


PLAIN = Variant()
VARIANTS: dict[str, Variant] = {
    "space": Variant(shift_m=0.06),
    "view": Variant(views=_MOVED),
    "object": Variant(cylinders=True),
    "arm": Variant(robot="panda_wristcam"),
}


@contextmanager
def cylinders_for_cubes() -> Iterator[None]:
    """While it lasts, upstream builds the cube that a task is about as a standing cylinder."""
    from mani_skill.utils.building import actors

    cube = actors.build_cube

    def build(scene: Any, half_size: float, color: Any, name: str, *args: Any, **options: Any) -> Any:
        if name not in _MOVED_BY_TASK:
            return cube(scene, half_size, color, name, *args, **options)
        import sapien

        builder = scene.create_actor_builder()
        standing = sapien.Pose(q=[0.70710678, 0.0, 0.70710678, 0.0])  # upstream's cylinders lie along x
        builder.add_cylinder_collision(standing, radius=half_size, half_length=half_size)
        paint = sapien.render.RenderMaterial(base_color=color)
        builder.add_cylinder_visual(standing, radius=half_size, half_length=half_size, material=paint)
        builder.set_initial_pose(options.get("initial_pose") or sapien.Pose(p=[0.0, 0.0, half_size]))
        return builder.build(name=name)

    actors.build_cube = build
    try:
        yield
    finally:
        actors.build_cube = cube
