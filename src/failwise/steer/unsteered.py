"""No steering: the neutral hooks that every other steering starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch

from failwise.errors import SetupError

if TYPE_CHECKING:
    from failwise.protocols import Context, GenerativePolicy


class Unsteered:
    """The acting head as it is, one sample.

    ``heads = ()`` stands for the policy's own acting head, ``policy.spec.heads[0]``, so that a steering that
    only draws or selects works with every policy.
    """

    heads: tuple[str, ...] = ()
    samples: int = 1
    _batch: int = 0

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, policy: GenerativePolicy, critic: Any = None) -> Self:
        """The steering that an agent folder describes: its constructor's arguments as JSON.

        Args:
            options: keyword arguments by name.
            policy: the policy that will be steered.
            critic: the agent's own critic, for a steering that needs one: ``critic(actions_BNHA, context)``
                gives scores (B, N), ``critic.value(context)`` P(success) (B,).

        Raises:
            SetupError: an option is unknown, missing or out of range.
        """
        return cls._built(options)

    @classmethod
    def _built(cls, options: Mapping[str, Any], **models: Any) -> Self:
        try:
            return cls(**options, **models)
        except TypeError as error:
            raise SetupError(f"steering {cls.__name__}: {error}; options given: {sorted(options)}") from error

    def prepare(self, policy: GenerativePolicy, context: Context) -> None:
        """Remember the batch size, for ``info``."""
        self._batch = context.batch

    def noise(self, noise_BNHA: torch.Tensor, context: Context) -> torch.Tensor:
        """The noise as drawn, (B, N, H, A)."""
        return noise_BNHA

    def heads_at(self, k: int) -> tuple[str, ...]:
        """Which of ``heads`` are wanted at denoising step k, 0 .. K - 1: all of them."""
        return self.heads

    def adjust(
        self, predictions_EBNHA: torch.Tensor, noisy_BNHA: torch.Tensor, t: float, context: Context
    ) -> torch.Tensor:
        """The acting head's prediction, (B, N, H, A)."""
        return predictions_EBNHA[0]

    def select(self, actions_BNHA: torch.Tensor, context: Context) -> torch.Tensor:
        """Sample 0 of each observation, (B,)."""
        return torch.zeros(actions_BNHA.shape[0], dtype=torch.long, device=actions_BNHA.device)

    def info(self) -> list[dict[str, float]]:
        """Nothing to report, once per observation."""
        return [{} for _ in range(self._batch)]


class Several(Unsteered):
    """N samples of the acting head as it is; the first one is chosen.

    Raises:
        SetupError: fewer than one sample.
    """

    def __init__(self, samples: int) -> None:
        if samples < 1:
            raise SetupError(f"samples must be at least 1, got {samples}")
        self.samples = samples
