"""Does an environment lead its hand as ``failwise.protocols.Arm`` says? Asked only of those that have a hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from failwise.protocols import Arm, Environment
from failwise.types import HAND_AXES

_STEPS = 25
_DISTANCE = {"x": 0.05, "y": 0.05, "z": 0.05, "roll": 0.2, "pitch": 0.2, "yaw": 0.2}  # metres, radians


def check_arm(env: Environment) -> Iterator[str]:
    """Leading the hand somewhere brings it closer along every axis that it can move, and stays inside the bounds."""
    if not isinstance(env, Arm):
        return
    if unknown := [axis for axis in env.axes if axis not in HAND_AXES]:
        yield f"axes names {unknown[0]!r}; expected names out of {HAND_AXES}. Fix the environment's axes"
        return
    low, high = env.spec.action_low, env.spec.action_high
    still = np.asarray(env.nudge(np.zeros(6)))
    if still.shape != low.shape or np.abs(still).max() > 1e-6:
        yield f"nudge(zeros(6)) is {still.tolist()}; expected zeros of shape {low.shape}. Fix nudge()"
        return
    if env.gripper is not None and not 0 <= env.gripper[0] < len(low):
        yield f"gripper is {env.gripper}; expected (index into the action, sign that closes). Fix gripper"
    middle = (np.asarray(env.workspace[0]) + np.asarray(env.workspace[1])) / 2
    for axis in env.axes:
        index = HAND_AXES.index(axis)
        env.reset(seed=4)
        goal = np.array(env.hand(), np.float64)
        if goal.shape != (6,) or not np.isfinite(goal).all():
            yield f"hand() gave {goal.tolist()}; expected 6 finite numbers: metres, then radians. Fix hand()"
            return
        inwards = 1.0 if index >= 3 or goal[index] < middle[index] else -1.0
        goal[index] += inwards * _DISTANCE[axis]
        before = abs(goal[index] - env.hand()[index])
        for _ in range(_STEPS):
            action = np.asarray(env.nudge(goal - env.hand()), np.float32)
            if (action < low - 1e-6).any() or (action > high + 1e-6).any():
                yield f"nudge() along {axis} gave {action.tolist()}, outside the action bounds. Fix: clip in nudge()"
                return
            env.step(action)
        left = abs(goal[index] - env.hand()[index])
        if left > 0.25 * before:
            yield (
                f"after {_STEPS} steps of nudge() along {axis}, {left:.3f} of {before:.3f} are left; expected "
                "less than a quarter. Fix the scale or the sign in nudge(), or the frame of hand()"
            )
