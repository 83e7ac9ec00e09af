"""Best of N: draw several chunks, act on the one that a critic rates highest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import torch

from failwise.errors import EpisodeError, SetupError
from failwise.protocols import Context
from failwise.steer.unsteered import Unsteered

if TYPE_CHECKING:
    from failwise.protocols import GenerativePolicy

Critic: TypeAlias = Callable[[torch.Tensor, Context], torch.Tensor]
"""Normalised chunks (B, N, H, A) and context to scores (B, N), higher is better: P(success | o, chunk)."""


class BestOfN(Unsteered):
    """Of N sampled chunks, the one with the highest score.

    Args:
        critic: scores (B, N) of chunks (B, N, H, A).
        samples: N >= 1.
        margin: keep sample 0 unless the best beats it by more than this (in the critic's units, >= 0), so
            that noise in the critic alone does not change the policy.
    """

    def __init__(self, critic: Critic, samples: int = 8, margin: float = 0.0) -> None:
        if samples < 1:
            raise SetupError(f"samples must be at least 1, got {samples}")
        if margin < 0:
            raise SetupError(f"margin must not be negative, got {margin}")
        self.critic, self.samples, self.margin = critic, samples, margin
        self._info: list[dict[str, float]] = []

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, policy: GenerativePolicy, critic: Any = None) -> Self:
        """With the agent's own critic.

        Raises:
            SetupError: the agent has none, or an option is wrong.
        """
        if critic is None:
            raise SetupError("best of N needs a critic, but the agent has none; train one and save it with the agent")
        return cls._built(options, critic=critic)

    def prepare(self, policy: GenerativePolicy, context: Context) -> None:
        """Forget the last scores."""
        super().prepare(policy, context)
        self._info = super().info()

    def select(self, actions_BNHA: torch.Tensor, context: Context) -> torch.Tensor:
        """The index (B,) of the best sample, of the lowest index among equals.

        Raises:
            SetupError: the critic's scores have another shape than (B, N).
            EpisodeError: a score is not a number.
        """
        scores_BN = self.critic(actions_BNHA, context)
        if scores_BN.shape != actions_BNHA.shape[:2]:
            raise SetupError(
                f"the critic gave scores of shape {tuple(scores_BN.shape)}, expected {tuple(actions_BNHA.shape[:2])}"
            )
        if bool(torch.isnan(scores_BN).any()):
            raise EpisodeError("the critic gave a score that is not a number")
        best_B = scores_BN.argmax(dim=1)
        best_score_B = scores_BN.gather(1, best_B[:, None])[:, 0]
        index_B = torch.where(best_score_B > scores_BN[:, 0] + self.margin, best_B, torch.zeros_like(best_B))
        chosen_B = scores_BN.gather(1, index_B[:, None])[:, 0]
        self._info = [
            {"critic_chosen": chosen, "critic_first": first, "critic_mean": mean, "critic_spread": spread}
            for chosen, first, mean, spread in zip(
                chosen_B.tolist(),
                scores_BN[:, 0].tolist(),
                scores_BN.mean(1).tolist(),
                scores_BN.std(1, correction=0).tolist(),
                strict=True,
            )
        ]
        return index_B

    def info(self) -> list[dict[str, float]]:
        """Per observation: the chosen score, sample 0's, the N samples' mean and standard deviation."""
        return self._info
