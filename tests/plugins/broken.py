"""A suite in which no episode comes to an end of its own: every first step fails, as with a robot that lost its arm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from failwise.envs.tiny import TASKS, TinyEnv
from failwise.errors import EpisodeError
from failwise.types import Observation

__all__ = ["TASKS", "BrokenEnv", "make"]


def make(task: str, **options: Any) -> BrokenEnv:
    return BrokenEnv(task, **options)


class BrokenEnv(TinyEnv):
    def __init__(self, task: str, **options: Any) -> None:
        super().__init__(task, **options)
        self.spec = replace(self.spec, env_id=f"broken/{task}")

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        raise EpisodeError("the arm came off")
