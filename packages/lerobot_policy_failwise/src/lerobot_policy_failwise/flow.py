"""What SmolVLA, pi0 and pi05 share with a failure expert: ``L = L_success + eta L_failure``, stopped at the VLM.

Source of the method: Adaptive Failure-Informed Learning (arXiv 2605.08434).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from failwise.policies.lerobot.batch import Inputs
from failwise.policies.lerobot.flow import FlowPolicy, expert_weights
from lerobot_policy_failwise.heads import FAILURE, DualPolicy


class DualFlow(DualPolicy):
    """A subclass has LeRobot's policy as its other base, and says how that one samples a chunk."""

    make_processors: ClassVar[Callable[..., Any]]
    model: Any
    prepare_action: Callable[[dict[str, Tensor]], Tensor]
    train: Callable[[bool], Any]
    _opened: FlowPolicy | None = None

    def plain_chunk(self, batch: dict[str, Tensor], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """A chunk (B, H, A), normalised, as LeRobot's policy samples it."""
        raise NotImplementedError

    def acting_weights(self) -> dict[str, Tensor]:
        """The acting expert's weights by their names in ``self.model``."""
        return dict(expert_weights(self.model))

    def forward(self, batch: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The acting policy's loss, plus the failure expert's one on a batch of its own while training."""
        parent: Any = super()
        loss, about = parent.forward(batch, *args, **kwargs)
        failed = self.failure_batch(type(self).make_processors) if self.training else None
        if failed is None:
            return loss, about
        wrong = self.failure_loss(failed)
        return loss + self.config.eta * wrong, {**about, "failure_loss": float(wrong.detach())}

    def failure_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Flow matching of the failure expert on failed chunks; no gradient reaches the vision-language model."""
        opened, actions, training = self.opened(), self.prepare_action(batch), self.training
        context = opened.encode_by(lambda: self.plain_chunk(batch, torch.zeros_like(actions)))
        self.train(training)  # LeRobot's sampling switches it off
        noise = self.model.sample_noise(actions.shape, actions.device)
        tau = self.model.sample_time(len(actions), actions.device)
        noisy = tau[:, None, None] * noise + (1 - tau[:, None, None]) * actions
        predicted, _ = opened.heads.one(FAILURE, context.given, noisy, tau)
        real = self.config.action_feature.shape[0]
        error = F.mse_loss(predicted, noise - actions, reduction="none")[..., :real]
        padded = batch.get("action_is_pad")
        if padded is None:
            return error.mean()
        weight = (~padded).unsqueeze(-1).to(error.dtype)
        return (error * weight).sum() / (weight.sum() * real).clamp_min(1)

    def guided_chunk(self, batch: dict[str, Tensor], noise: Tensor | None) -> Tensor:
        """A chunk (B, H, A), normalised, steered away from the failure expert."""
        opened = self.opened()
        opened.heads.forget()  # the weights may have been trained since
        context = opened.encode_by(lambda: self.plain_chunk(batch, noise))
        return self.steered(opened, context, noise)[..., : opened.spec.action_dim]

    def opened(self) -> FlowPolicy:
        """This policy with its sampling open."""
        if self._opened is None:
            self._opened = FlowPolicy(self, Inputs(self.config, None, None, {}))
        return self._opened

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move the weights, and forget what was stacked of them elsewhere."""
        self._opened = None
        parent: Any = super()
        return parent.to(*args, **kwargs)
