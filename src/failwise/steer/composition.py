"""Composition: constant convex weights over several heads or several policies (GPC, arXiv 2510.01068)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from failwise.errors import SetupError, UnknownNameError
from failwise.steer.unsteered import Unsteered

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from failwise.protocols import Context, GenerativePolicy
    from failwise.types import Observation


class Composition(Unsteered):
    """``p = sum_i w_i p_i`` at the same noisy chunk, ``w_i >= 0`` and ``sum_i w_i = 1``.

    Args:
        weights: head name -> weight. The first head with a weight above zero is the acting one. Heads of
            weight zero are not evaluated; a single head of weight 1 is that head, bit for bit.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        if any(not math.isfinite(w) or w < 0 for w in weights.values()):
            raise SetupError(f"composition weights must not be negative, got {dict(weights)}")
        if abs(sum(weights.values()) - 1.0) > 1e-6:
            raise SetupError(f"composition weights must sum to 1, got {dict(weights)} (sum {sum(weights.values()):g})")
        self.weights = {head: w for head, w in weights.items() if w > 0}
        self.heads = tuple(self.weights)

    def adjust(
        self, predictions_EBNHA: torch.Tensor, noisy_BNHA: torch.Tensor, t: float, context: Context
    ) -> torch.Tensor:
        """The combined prediction (B, N, H, A)."""
        if len(self.heads) == 1:
            return predictions_EBNHA[0]
        weights_E = predictions_EBNHA.new_tensor(list(self.weights.values()))
        return (weights_E[:, None, None, None, None] * predictions_EBNHA).sum(dim=0)


@dataclass
class EnsembleContext:
    """One context per member policy, for the same B observations. ``features_BD`` are the first member's."""

    members: Mapping[str, Context]
    batch: int
    features_BD: torch.Tensor

    @classmethod
    def of(cls, members: Mapping[str, Context]) -> EnsembleContext:
        """From the members' own contexts."""
        first = next(iter(members.values()))
        return cls(members, first.batch, first.features_BD)

    def select(self, indices: torch.Tensor) -> EnsembleContext:
        """Every member's contexts of some observations."""
        return self.of({name: context.select(indices) for name, context in self.members.items()})


class Ensemble:
    """Several policies as one ``GenerativePolicy`` whose heads are called ``"member.head"``.

    Their predictions only combine where they mean the same thing, so the members must agree in prediction
    type, chunk shape and in the units of their normalised actions.

    Args:
        members: name -> policy; the first one's acting head acts.

    Raises:
        SetupError: no members, or members that do not agree.
    """

    def __init__(self, members: Mapping[str, GenerativePolicy]) -> None:
        if not members:
            raise SetupError("an ensemble needs at least one policy")
        self.members = dict(members)
        first_name, first = next(iter(self.members.items()))
        for name, policy in self.members.items():
            _require_agreement(first_name, first, name, policy)
        heads = tuple(f"{name}.{head}" for name, policy in self.members.items() for head in policy.spec.heads)
        self.spec = replace(first.spec, heads=heads)

    def encode(self, observations: Sequence[Observation]) -> EnsembleContext:
        """Every member's own backbone, once."""
        return EnsembleContext.of({name: policy.encode(observations) for name, policy in self.members.items()})

    def predict(
        self, noisy_BNHA: torch.Tensor, t: torch.Tensor, context: Context, heads: tuple[str, ...]
    ) -> torch.Tensor:
        """Predictions (E, B, N, H, A): one batched expert pass per member that is asked for."""
        if not isinstance(context, EnsembleContext):
            raise SetupError("an ensemble predicts from its own encode()")
        wanted: dict[str, list[str]] = {}
        for full in heads:
            if full not in self.spec.heads:
                raise UnknownNameError("action head", full, self.spec.heads)
            # a member's name may hold a dot, so the longest one that fits is meant
            name = max((n for n in self.members if full.startswith(f"{n}.")), key=len)
            wanted.setdefault(name, []).append(full[len(name) + 1 :])
        found: dict[str, torch.Tensor] = {}
        for name, own in wanted.items():
            predictions = self.members[name].predict(noisy_BNHA, t, context.members[name], tuple(own))
            found.update({f"{name}.{head}": p for head, p in zip(own, predictions, strict=True)})
        return torch.stack([found[full] for full in heads])

    def decode(self, actions_BHA: torch.Tensor) -> NDArray[Any]:
        """The members' common units."""
        return next(iter(self.members.values())).decode(actions_BHA)


def _require_agreement(first_name: str, first: GenerativePolicy, name: str, policy: GenerativePolicy) -> None:
    for field in ("prediction", "horizon", "action_dim"):
        expected, actual = getattr(first.spec, field), getattr(policy.spec, field)
        if expected != actual:
            raise SetupError(
                f"policies {first_name!r} and {name!r} do not compose: {field} is {expected!r} and {actual!r}"
            )
    shape = (1, first.spec.horizon, first.spec.action_dim)
    for level in (-0.5, 0.0, 0.5):
        probe = torch.full(shape, level)
        if not np.allclose(first.decode(probe), policy.decode(probe), atol=1e-5):
            raise SetupError(
                f"policies {first_name!r} and {name!r} do not compose: they normalise actions differently; "
                "train them with the same normaliser"
            )
