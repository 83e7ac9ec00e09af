"""Shapes of the critic and the value model, apart from their networks: reading options must not load torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CriticConfig:
    """Shapes of the critic and the value model."""

    prefix_dim: int = 192
    """D, width of the policy's prefix tokens."""
    horizon: int = 8
    """H, actions in a chunk."""
    action_dim: int = 4
    """A, action dims."""
    width: int = 128
    """Token width inside."""
    attention_heads: int = 4
    """Attention heads; must divide ``width``."""
    layers: int = 2
    """Transformer layers that read the prefix."""
    members: int = 4
    """E, ensemble members; member e never saw fold e."""
    pessimism: float = 0.0
    """Standard deviations over the members to subtract from their mean logit."""
    action_mean: tuple[float, ...] = ()
    """Of a critic of a policy that is not trained here: it reads the policy's pooled features in place of the prefix,
    and actions in the environment's units less this mean, over ``action_std``. Empty: prefix and normalised actions."""
    action_std: tuple[float, ...] = ()
    """See ``action_mean``."""

    @property
    def pooled(self) -> bool:
        """Whether it reads pooled features and actions in the environment's units."""
        return bool(self.action_mean)
