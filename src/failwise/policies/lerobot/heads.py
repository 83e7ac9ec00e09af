"""Several experts of one architecture in one pass: their weights stacked, the pass vectorised over the stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from failwise.errors import CheckpointError

ACTING = "success"


class Heads:
    """The acting expert of a module, and further sets of the same weights beside it.

    Args:
        module: whose forward gives (prediction, hidden states), tensors.
        prefix: of its weights' names before those in ``own`` and ``more``.
        own: the acting expert's weights in the module, by name.
        more: name of a head -> its weights, under the same names. Weights that are left out are the acting expert's.

    Raises:
        CheckpointError: a head brings a weight that the expert does not have, or one of another shape.
    """

    def __init__(
        self, module: nn.Module, prefix: str, own: Mapping[str, Tensor], more: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        for head, weights in more.items():
            for name, weight in weights.items():
                if name not in own or own[name].shape != weight.shape:
                    raise CheckpointError(f"the head {head!r} does not fit this policy's expert at {name}")
        self._module, self._prefix, self.own, self._more = module, prefix, own, more
        self.names = (ACTING, *more)
        self._stacks: dict[tuple[str, ...], dict[str, Tensor]] = {}

    def __call__(self, heads: tuple[str, ...], *args: Any) -> tuple[Tensor, Tensor]:
        """Predictions (E, ...) and hidden states (E, ...) of the named heads.

        The acting expert alone runs as the policy itself runs it, to the last bit.

        Raises:
            CheckpointError: the policy has no such head.
        """
        if unknown := [h for h in heads if h not in self.names]:
            raise CheckpointError(
                f"this policy has no head {unknown[0]!r}, only {', '.join(self.names)}; "
                "train one with lerobot-train --policy.type=failwise_smolvla (or _pi0, _pi05, _diffusion)"
            )
        if heads == (ACTING,):
            prediction, hidden = self._module(*args)
            return prediction[None], hidden[None]
        stack = self._stack(heads)

        def one(weights: dict[str, Tensor]) -> Any:
            return functional_call(self._module, weights, args)

        prediction, hidden = vmap(one)(stack)
        return prediction, hidden

    def one(self, head: str, *args: Any) -> tuple[Tensor, Tensor]:
        """Prediction and hidden states of one head, with gradients to its own weights: for training it."""
        weights = {self._prefix + name: self._weight(head, name) for name in self.own}
        done: tuple[Tensor, Tensor] = functional_call(self._module, weights, args)
        return done

    def forget(self) -> None:
        """Weights changed: stack them anew when they are next asked for."""
        self._stacks.clear()

    def _stack(self, heads: tuple[str, ...]) -> dict[str, Tensor]:
        if heads not in self._stacks:
            with torch.no_grad():
                self._stacks[heads] = {
                    self._prefix + name: torch.stack([self._weight(head, name) for head in heads]) for name in self.own
                }
        return self._stacks[heads]

    def _weight(self, head: str, name: str) -> Tensor:
        return self._more.get(head, {}).get(name, self.own[name])
