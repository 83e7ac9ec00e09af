"""Gradient guidance: push the predicted action up a differentiable reward at every denoising step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch

from failwise.errors import SetupError
from failwise.protocols import Context
from failwise.steer.process import Process, process_for
from failwise.steer.unsteered import Unsteered

if TYPE_CHECKING:
    from failwise.protocols import GenerativePolicy

Reward: TypeAlias = Callable[[torch.Tensor, Context], torch.Tensor]
"""Normalised clean chunks (B, N, H, A) and their context to differentiable rewards (B, N)."""


class GradientGuidance(Unsteered):
    """``v += s grad R(a_hat)`` with ``a_hat`` the clean action that the prediction points at.

    The gradient is taken at ``a_hat`` and not through the policy, so that it costs one backward pass of the
    reward alone. An epsilon-prediction is moved so that ``a_hat`` moves by the same ``(1 - t) s grad R``.

    Args:
        reward: differentiable, (B, N) from (B, N, H, A).
        strength: ``s``, in normalised action units squared per unit of reward. 0 changes nothing, bit for
            bit.
        begin: flow time before which nothing is added: at high noise ``a_hat`` is only the mean action.
        clamp: bound on ``||s grad R||`` relative to ``||p||`` per chunk, or None.
    """

    def __init__(
        self, reward: Reward, strength: float = 1.0, *, begin: float = 0.0, clamp: float | None = None
    ) -> None:
        if not 0.0 <= begin <= 1.0:
            raise SetupError(f"begin is a flow time in [0, 1], got {begin}")
        if clamp is not None and clamp <= 0:
            raise SetupError(f"clamp must be positive or None, got {clamp}")
        self.reward, self.strength, self.begin, self.clamp = reward, strength, begin, clamp
        self._process: Process | None = None
        self._norms: list[torch.Tensor] = []

    def prepare(self, policy: GenerativePolicy, context: Context) -> None:
        """Take the policy's process."""
        super().prepare(policy, context)
        self._process = process_for(policy)
        self._norms = []

    def adjust(
        self, predictions_EBNHA: torch.Tensor, noisy_BNHA: torch.Tensor, t: float, context: Context
    ) -> torch.Tensor:
        """The guided prediction (B, N, H, A).

        Raises:
            SetupError: the reward has another shape than (B, N) or does not depend on the actions.
        """
        prediction_BNHA = predictions_EBNHA[0]
        if self.strength == 0.0 or t < self.begin:
            return prediction_BNHA
        assert self._process is not None, "prepare() comes before adjust()"
        clean_BNHA = self._process.clean(prediction_BNHA, noisy_BNHA, t)
        push_BNHA = self.strength * self._gradient(clean_BNHA, context)
        if self.clamp is not None:
            norm = torch.linalg.vector_norm(push_BNHA, dim=(-2, -1), keepdim=True)
            bound = self.clamp * torch.linalg.vector_norm(prediction_BNHA, dim=(-2, -1), keepdim=True)
            push_BNHA = push_BNHA * (bound / norm.clamp_min(1e-12)).clamp_max(1.0)
        self._norms.append(torch.linalg.vector_norm(push_BNHA, dim=(-2, -1)))
        moved_BNHA = clean_BNHA + (1.0 - t) * push_BNHA
        # a difference of two conversions keeps the prediction itself exact where the push is zero
        shift = self._process.from_clean(moved_BNHA, noisy_BNHA, t) - self._process.from_clean(
            clean_BNHA, noisy_BNHA, t
        )
        return prediction_BNHA + shift

    def _gradient(self, clean_BNHA: torch.Tensor, context: Context) -> torch.Tensor:
        with torch.enable_grad():
            leaf_BNHA = clean_BNHA.detach().clone().requires_grad_(True)
            reward_BN = self.reward(leaf_BNHA, context)
            if reward_BN.shape != leaf_BNHA.shape[:2]:
                raise SetupError(
                    f"the reward has shape {tuple(reward_BN.shape)}, expected {tuple(leaf_BNHA.shape[:2])}"
                )
            if not reward_BN.requires_grad:
                raise SetupError("the reward does not depend differentiably on the actions")
            (gradient_BNHA,) = torch.autograd.grad(reward_BN.sum(), leaf_BNHA)
        return gradient_BNHA

    def info(self) -> list[dict[str, float]]:
        """Per observation: the mean length of the push over steps and samples."""
        if not self._norms:
            return super().info()
        return [{"gradient_norm": norm} for norm in torch.stack(self._norms).mean(dim=(0, 2)).tolist()]
