"""A suite that makes sure of both outcomes, whatever a policy has learned.

In layouts of even seeds an episode succeeds after eight steps, whoever acts. In those of odd seeds only the real task
counts, which the scripted expert masters and a policy that was trained for seconds mostly does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.envs.tiny import TASKS, TinyEnv
from failwise.types import Observation

__all__ = ["TASKS", "ParityEnv", "make"]

STEPS = 8


def make(task: str, **options: Any) -> ParityEnv:
    return ParityEnv(task, **options)


class ParityEnv(TinyEnv):
    def __init__(self, task: str, **options: Any) -> None:
        super().__init__(task, **options)
        self.spec = replace(self.spec, env_id=f"parity/{task}")
        self._even = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        self._even = info["seed"] % 2 == 0
        return observation, info

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, reward, lost, truncated, info = super().step(action)
        if self._even:
            lost = False
            info["success"] = info["conditions"]["success"] = self._world.steps >= STEPS
        return observation, reward, lost, truncated, info

    def snapshot(self) -> dict[str, NDArray[Any]]:
        return {**super().snapshot(), "even": np.array([self._even])}

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> Observation:
        self._even = bool(snapshot["even"][0])
        return super().restore({name: array for name, array in snapshot.items() if name != "even"})
