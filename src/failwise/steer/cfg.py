"""Classifier-free guidance between two heads or conditions of one policy (arXiv 2207.12598)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from failwise.errors import SetupError
from failwise.steer.unsteered import Unsteered

if TYPE_CHECKING:
    from failwise.protocols import Context


class ClassifierFree(Unsteered):
    """``p = p_u + w (p_c - p_u)``: from the unconditional towards and past the conditional prediction.

    Args:
        conditional: name of the acting head, or condition.
        unconditional: name of the head, or condition, to extrapolate away from.
        weight: ``w``. 1 is the conditional prediction alone, bit for bit; 0 the unconditional one; above 1
            extrapolates.
    """

    def __init__(self, conditional: str, unconditional: str, weight: float = 1.5) -> None:
        if conditional == unconditional:
            raise SetupError(f"guidance needs two different heads, got {conditional!r} twice")
        self.weight = weight
        self.heads = (conditional,) if weight == 1.0 else (conditional, unconditional)

    def adjust(
        self, predictions_EBNHA: torch.Tensor, noisy_BNHA: torch.Tensor, t: float, context: Context
    ) -> torch.Tensor:
        """The guided prediction (B, N, H, A)."""
        if self.weight == 1.0:
            return predictions_EBNHA[0]
        conditional_BNHA, unconditional_BNHA = predictions_EBNHA[0], predictions_EBNHA[1]
        return unconditional_BNHA + self.weight * (conditional_BNHA - unconditional_BNHA)
