"""A policy that acts during a takeover: it learned the verified ways out of failures."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from failwise.errors import CheckpointError, EpisodeError

if TYPE_CHECKING:
    from failwise.types import Observation

FOLDER = "acting"


def has_acting(folder: Path) -> bool:
    """Whether a recovery actor's folder holds a recovery policy too, and no training of one under way."""
    return (folder / FOLDER / "config.json").is_file() and not training_of(folder).is_dir()


def training_of(folder: Path) -> Path:
    """What lies in a recovery actor's folder as long as its recovery policy is trained."""
    return folder / FOLDER / "training"


class ActingPolicy:
    """Chunk after chunk of a generative policy, as long as somebody asks for actions.

    Args:
        policy: a ``GenerativePolicy``.
    """

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.begin(0)

    @classmethod
    def load(cls, folder: Path) -> ActingPolicy:
        """Read a policy's folder.

        Raises:
            CheckpointError: it is none of a policy whose denoising we run.
        """
        from failwise.policies.sharing import shared_policy

        policy = shared_policy(folder)
        if not hasattr(policy, "encode"):
            raise CheckpointError(
                f"{folder} is a {policy.spec.kind!r}; a recovery policy is one of 'failwise train bc'"
            )
        return cls(policy)

    def begin(self, seed: int) -> None:
        """Start an episode; its chunks are drawn from the seed alone."""
        import torch

        self._generator = torch.Generator().manual_seed(seed)
        self.take_over()

    def take_over(self) -> None:
        """Look anew at the next step."""
        self._pending: deque[NDArray[Any]] = deque()

    def act(self, observation: Observation) -> NDArray[Any]:
        """The next action (A,), in the environment's units.

        Raises:
            EpisodeError: the policy returned a number that is not finite.
        """
        if not self._pending:
            from failwise.steer import Unsteered, sample

            sampled = sample(self.policy, self.policy.encode([observation]), Unsteered(), self._generator)
            actions = self.policy.decode(sampled.actions_BHA)[0][: self.policy.spec.execute]
            if not np.isfinite(actions).all():
                raise EpisodeError("the recovery policy returned actions that are not finite")
            self._pending.extend(actions)
        return self._pending.popleft()
