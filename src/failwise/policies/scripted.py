"""Policies without a network: uniformly random actions, and the environment's own expert."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from failwise.errors import CheckpointError, EpisodeError, SetupError
from failwise.types import ActionChunk, Observation, PolicySpec

if TYPE_CHECKING:
    from failwise.protocols import Environment


class RandomPolicy:
    """Independent uniform actions inside the environment's bounds: the floor that every trained policy must clear.

    Until ``take_bounds`` gives others, the bounds are [-1, 1].

    Args:
        action_dim: A; None takes as many as the bounds have that are given, 4 until then.
        horizon: H, actions a chunk; all of them are executed.
        seed: of the actions, until ``reset`` gives another.

    Raises:
        SetupError: ``action_dim`` or ``horizon`` is below 1.
    """

    def __init__(self, action_dim: int | None = 4, horizon: int = 8, seed: int = 0) -> None:
        self._any_width = action_dim is None
        action_dim = 4 if action_dim is None else action_dim
        if action_dim < 1 or horizon < 1:
            raise SetupError(f"a random policy needs action_dim >= 1 and horizon >= 1, not {action_dim} and {horizon}")
        self.spec = PolicySpec(
            kind="random", horizon=horizon, execute=horizon, action_dim=action_dim, state_dim=0, cameras={}
        )
        self.take_bounds(-np.ones(action_dim), np.ones(action_dim))
        self.reset(seed)

    def take_bounds(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        """Draw between ``low`` and ``high`` (A,) from now on.

        Raises:
            SetupError: they have another number of dimensions than the policy's actions.
        """
        if self._any_width:
            self.spec = replace(self.spec, action_dim=len(low))
        if not len(low) == len(high) == self.spec.action_dim:
            raise SetupError(
                f"random:{self.spec.action_dim} gives {self.spec.action_dim} numbers an action, but the environment "
                f"takes {len(low)}: write random:{len(low)}"
            )
        self._low, self._high = np.asarray(low, np.float64), np.asarray(high, np.float64)

    def reset(self, seed: int) -> None:
        """Begin an episode: the same seed gives the same actions."""
        self._random = np.random.default_rng(seed)

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk (H, A) per observation, looking at none of them."""
        shape = (len(observations), self.spec.horizon, self.spec.action_dim)
        return [
            ActionChunk(actions) for actions in self._random.uniform(self._low, self._high, shape).astype(np.float32)
        ]

    def save(self, folder: str | Path) -> None:
        """Write a policy folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {"kind": "random", "action_dim": self.spec.action_dim, "horizon": self.spec.horizon}
        (Path(folder) / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a policy folder.

        Raises:
            CheckpointError: its ``config.json`` is not that of a random policy.
        """
        path = Path(folder) / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            return cls(int(config["action_dim"]), int(config["horizon"]))
        except (OSError, ValueError, KeyError, TypeError, SetupError) as error:
            raise CheckpointError(f"{path} does not describe a random policy ({error})") from error


class ExpertPolicy:
    """The scripted expert of one environment, as a policy. Privileged: it reads the simulator, not the observation.

    Raises:
        SetupError: the environment has no expert.
    """

    def __init__(self, env: Environment) -> None:
        if not env.spec.has_expert:
            raise SetupError(f"{env.spec.env_id} has no scripted expert; use a policy instead")
        self._env = env
        self.spec = PolicySpec(
            kind="expert", horizon=1, execute=1, action_dim=len(env.spec.action_low),
            state_dim=len(env.spec.state_names), cameras={},
        )  # fmt: skip

    def reset(self, seed: int) -> None:
        """Begin an episode; the expert has neither memory nor randomness."""

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """The expert's action (1, A) for the environment as it is now.

        Raises:
            EpisodeError: asked for more or fewer than one observation, or the expert has no answer.
        """
        action = self._env.expert() if len(observations) == 1 else None
        if action is None:
            raise EpisodeError(
                f"the expert of {self._env.spec.env_id} answers one observation at a time: that of its own state now"
            )
        return [ActionChunk(np.asarray(action, np.float32)[None])]
