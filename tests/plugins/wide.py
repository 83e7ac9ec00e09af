"""A suite whose actions are no unit box and whose gripper comes first, as plug-ins of other people have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.envs.given import checked_action
from failwise.envs.tiny import TASKS, TinyEnv
from failwise.types import Observation

__all__ = ["TASKS", "WideEnv", "make"]

LOW = np.array([0.0, -30.0, 10.0], np.float32)  # gripper opening in metres, then x and y in units of their own
HIGH = np.array([0.08, 30.0, 50.0], np.float32)
ORDER = [2, 0, 1]  # of the wide action, the place in the tiny one
CLOSED, OPEN = LOW[0], HIGH[0]


def make(task: str, **options: Any) -> WideEnv:
    return WideEnv(task, **options)


class WideEnv(TinyEnv):
    def __init__(self, task: str, **options: Any) -> None:
        super().__init__(task, **options)
        self._tiny = self.spec
        self._wide = replace(self.spec, env_id=f"wide/{task}", action_low=LOW, action_high=HIGH)
        self.spec = self._wide
        self.gripper = (0, -1.0)

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        wide = checked_action(self._wide, action)
        tiny = np.empty(3, np.float32)
        tiny[ORDER] = (2 * (wide - LOW) / (HIGH - LOW) - 1) * (-1, 1, 1)
        self.spec = self._tiny
        try:
            return super().step(tiny)
        finally:
            self.spec = self._wide

    def expert(self) -> NDArray[np.float32]:
        return to_wide(super().expert())


def to_wide(tiny: NDArray[np.float32]) -> NDArray[np.float32]:
    """The wide action that means what a tiny one does: positive closes there, a small opening here."""
    return (LOW + (tiny[ORDER] * (-1, 1, 1) + 1) / 2 * (HIGH - LOW)).astype(np.float32)
