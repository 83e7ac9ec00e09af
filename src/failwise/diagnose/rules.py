"""Why a manipulation failed, from named conditions and positions: for tasks that reach, grasp, carry and place.

The rules ask in the order of the task what was achieved last, and when it was lost or came closest:

    reach      the hand never came near the object
    disturb    the object was moved away before it was grasped
    grasp      near the object, but never grasped it
    drop       grasped it, and lost it away from the goal
    transport  held it, and never brought it near the goal
    placement  near the goal, but not as the task wants it

``axis`` is the direction of the largest miss at the onset (x, y or z of the world, or "gripper" for a drop), ``stage``
the condition that was due, ``correction`` the way that was missing: metres in the world's axes, and the gripper.
The names of FailSafe (arXiv 2510.01642) for perturbations, translation by axis, no-op and early release, correspond to
reach/transport/placement with an axis, to a miss without motion, and to drop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from failwise.diagnose.course import Course
from failwise.errors import DataError
from failwise.types import Diagnosis

MODES = ("reach", "disturb", "grasp", "drop", "transport", "placement")
AXES = ("x", "y", "z")
NEEDED = ("near_object", "grasped", "near_goal")
MOVED_M = 0.04  # an object that was moved so far without being grasped was pushed away
HELD_STEPS = 3  # a grasp that lasted less was a touch


@dataclass(frozen=True)
class Finding:
    """A diagnosis, and the step at which it begins."""

    diagnosis: Diagnosis
    onset: int


def diagnose(course: Course) -> Finding:
    """Why an episode failed.

    Raises:
        DataError: it succeeded, has no step, or lacks a condition that the rules ask for.
    """
    if missing := [name for name in NEEDED if name not in course.conditions]:
        raise DataError(f"no condition {missing[0]!r} in this episode; the rules ask for {', '.join(NEEDED)}")
    if course.succeeded or not len(course):
        raise DataError("there is nothing to explain: the episode succeeded, or has no step")
    near, grasped, placed = (np.asarray(course.conditions[name]) for name in NEEDED)
    grasped = _lasting(grasped, HELD_STEPS)
    reaching = np.linalg.norm(course.thing - course.hand, axis=1)
    carrying = np.linalg.norm(course.goal - course.thing, axis=1)
    moved = np.linalg.norm(course.thing - course.thing[0], axis=1)[1:]
    if grasped.any():
        held = np.flatnonzero(grasped)
        lost = int(held[-1]) + 1
        let_go = lost < len(course)
        if placed[held[-1]] if let_go else (placed & grasped).any():
            closest = int(carrying[1:].argmin())
            return _found("placement", "success", closest, course.goal - course.thing[closest + 1], 1.0, "at the goal")
        if let_go:
            return _found("drop", "grasped", lost, course.thing[lost] - course.hand[lost], -1.0, "let go", "gripper")
        start = int(held[0])
        closest = start + int(carrying[start + 1 :].argmin())
        miss = course.goal - course.thing[closest + 1]
        return _found("transport", "near_goal", closest, miss, 1.0, "the object was held away from the goal")
    if placed.any() and moved.max() > MOVED_M:
        closest = int(carrying[1:].argmin())
        miss = course.goal - course.thing[closest + 1]
        return _found("placement", "success", closest, miss, 1.0, "pushed to the goal, never held")
    if moved.max() > MOVED_M:
        at = int(np.flatnonzero(moved > MOVED_M)[0])
        miss = course.thing[at + 1] - course.hand[at + 1]
        return _found("disturb", "grasped", at, miss, -1.0, f"the object was moved {100 * moved.max():.0f} cm unheld")
    closest = int(reaching[1:].argmin())
    miss = course.thing[closest + 1] - course.hand[closest + 1]
    if not near.any():
        return _found("reach", "near_object", closest, miss, -1.0, f"never closer than {100 * reaching.min():.0f} cm")
    tried = np.flatnonzero(near & (course.gripper > 0))
    onset = int(tried[0]) if len(tried) else closest
    return _found("grasp", "grasped", onset, course.thing[onset] - course.hand[onset], 1.0, "near it, never held it")


def _found(
    mode: str, stage: str, onset: int, miss: NDArray[np.float64], gripper: float, text: str, axis: str = ""
) -> Finding:
    x, y, z = (float(v) for v in miss)
    return Finding(
        Diagnosis(
            mode=mode,
            axis=axis or AXES[int(np.abs(miss).argmax())],
            stage=stage,
            active_entities=("gripper", "object"),
            correction=(x, y, z, 0.0, 0.0, 0.0, gripper),
            text=text,
        ),
        onset,
    )


def _lasting(held_T: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Only stretches of at least so many steps, an odd number."""
    from scipy.ndimage import binary_opening

    return np.asarray(binary_opening(held_T, np.ones(steps, bool)))
