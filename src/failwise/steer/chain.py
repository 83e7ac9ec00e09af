"""Several steerings as one: for instance gated AFIL on every sample, then best-of-N over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from failwise.errors import SetupError
from failwise.steer.unsteered import Unsteered

if TYPE_CHECKING:
    from failwise.protocols import Context, GenerativePolicy, Steering


class Chain(Unsteered):
    """Applies its members in order.

    The heads are the union of the members', the samples their maximum. Each member's ``adjust`` sees, as the
    acting head, what the member before it made of that head, and the other heads as the policy predicted
    them. One member at most may draw more than one sample: that one selects.

    Raises:
        SetupError: no members, two members that select, or members that act with different heads.
    """

    def __init__(self, members: Sequence[Steering]) -> None:
        if not members:
            raise SetupError("a chain needs at least one steering; use Unsteered() for none")
        selecting = [m for m in members if m.samples > 1]
        if len(selecting) > 1:
            names = ", ".join(type(m).__name__ for m in selecting)
            raise SetupError(f"only one steering of a chain may draw several samples, got {names}")
        acting = list(dict.fromkeys(m.heads[0] for m in members if m.heads))
        if len(acting) > 1:
            raise SetupError(f"the steerings of a chain act with different heads: {', '.join(acting)}")
        self.members = tuple(members)
        self.heads = tuple(dict.fromkeys(head for m in members for head in m.heads))
        self.samples = max(m.samples for m in members)
        self._selector: Steering = selecting[0] if selecting else Unsteered()
        self._now = self.heads, [m.heads for m in members]

    def prepare(self, policy: GenerativePolicy, context: Context) -> None:
        """Prepare every member."""
        super().prepare(policy, context)
        for member in self.members:
            member.prepare(policy, context)

    def noise(self, noise_BNHA: torch.Tensor, context: Context) -> torch.Tensor:
        """Every member's noise hook, in order."""
        for member in self.members:
            noise_BNHA = member.noise(noise_BNHA, context)
        return noise_BNHA

    def heads_at(self, k: int) -> tuple[str, ...]:
        """The union of what the members want at denoising step k."""
        wanted = [m.heads_at(k) for m in self.members]
        self._now = tuple(dict.fromkeys(head for heads in wanted for head in heads)), wanted
        return self._now[0]

    def adjust(
        self, predictions_EBNHA: torch.Tensor, noisy_BNHA: torch.Tensor, t: float, context: Context
    ) -> torch.Tensor:
        """Every member's prediction hook, in order, on the acting head."""
        acting_BNHA = predictions_EBNHA[0]
        there, wanted = self._now
        for member, heads in zip(self.members, wanted, strict=True):
            others = [predictions_EBNHA[there.index(head)] for head in heads[1:]]
            seen_EBNHA = torch.stack([acting_BNHA, *others])
            acting_BNHA = member.adjust(seen_EBNHA, noisy_BNHA, t, context)
        return acting_BNHA

    def select(self, actions_BNHA: torch.Tensor, context: Context) -> torch.Tensor:
        """The choice (B,) of the member that draws several samples, else sample 0."""
        return self._selector.select(actions_BNHA, context)

    def info(self) -> list[dict[str, float]]:
        """All members' scalars; a later member's value stands where two use one name."""
        merged: list[dict[str, float]] = [{} for _ in range(self._batch)]
        for member in self.members:
            for into, new in zip(merged, member.info(), strict=True):
                into.update(new)
        return merged
