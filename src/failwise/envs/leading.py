"""Leading an environment's hand: what corrective moves are made of, whoever asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from failwise.errors import SetupError
from failwise.protocols import Arm, Environment
from failwise.types import HAND_AXES

NEAR_M, NEAR_RAD = 0.01, 0.05  # at which a move has arrived


class ArmEnvironment(Environment, Arm, Protocol):
    """An environment with a hand that can be led. For type checkers."""


def arm_of(env: Environment, purpose: str) -> ArmEnvironment:
    """The environment itself, once it is clear that its hand can be led.

    Raises:
        SetupError: it cannot. ``purpose`` says what needs it.
    """
    if not isinstance(env, Arm):
        raise SetupError(
            f"{env.spec.env_id} has no hand that can be led (hand, nudge, axes, gripper, workspace of "
            f"failwise.protocols.Arm), which {purpose} needs"
        )
    return env


def with_gripper(env: ArmEnvironment, action: NDArray[Any], closing: float) -> NDArray[np.float32]:
    """The action (A,) with the gripper's part replaced by a command: -1 opens, 1 closes, as far as the bounds allow."""
    out = np.array(action, np.float32)
    if env.gripper is not None:
        index, sign = env.gripper
        middle, half = _gripper_range(env, index)
        out[index] = middle + half * (sign * closing)
    return out


def closing_commands(env: ArmEnvironment, actions: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The gripper's part of some actions (T,), from -1 opens to 1 closes; zeros without a gripper."""
    if env.gripper is None or not actions:
        return np.zeros(len(actions), np.float32)
    index, sign = env.gripper
    middle, half = _gripper_range(env, index)
    return np.asarray(sign * (np.stack(actions)[:, index] - middle) / half, np.float32)


def _gripper_range(env: ArmEnvironment, index: int) -> tuple[float, float]:
    """Middle and half width of what the gripper's part of an action may be."""
    low, high = float(env.spec.action_low[index]), float(env.spec.action_high[index])
    return (low + high) / 2, (high - low) / 2


def inside(env: Arm, target_6: NDArray[Any]) -> bool:
    """Whether a pose lies in the workspace."""
    low, high = env.workspace
    return bool(np.all(target_6[:3] >= low - NEAR_M) and np.all(target_6[:3] <= high + NEAR_M))


def towards(env: ArmEnvironment, target_6: NDArray[Any], closing: float) -> NDArray[np.float32] | None:
    """The next action (A,) on the way to a pose, or None once the hand is there."""
    movable = np.array([axis in env.axes for axis in HAND_AXES])
    error = np.where(movable, np.asarray(target_6, np.float64) - env.hand(), 0.0)
    if np.linalg.norm(error[:3]) < NEAR_M and np.linalg.norm(error[3:]) < NEAR_RAD:
        return None
    return with_gripper(env, env.nudge(error), closing)
