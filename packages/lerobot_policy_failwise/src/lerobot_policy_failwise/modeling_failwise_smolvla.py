"""SmolVLA with a failure expert: ``L = L_success + eta L_failure``, the latter stopped at the VLM.

Source of the method: Adaptive Failure-Informed Learning (arXiv 2605.08434).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors
from torch import Tensor

from failwise.policies.lerobot.batch import Inputs
from failwise.policies.lerobot.flow import EXPERT, FlowPolicy
from lerobot_policy_failwise.configuration_failwise_smolvla import FailwiseSmolVLAConfig
from lerobot_policy_failwise.failures import beta_time
from lerobot_policy_failwise.heads import FAILURE, DualPolicy


class FailwiseSmolVLAPolicy(DualPolicy, SmolVLAPolicy):
    """LeRobot's SmolVLA; see ``DualPolicy`` for what is added."""

    config_class = FailwiseSmolVLAConfig
    name = "failwise_smolvla"

    def __init__(self, config: FailwiseSmolVLAConfig, dataset_stats: Any = None, **kwargs: Any) -> None:
        SmolVLAPolicy.__init__(self, config, **kwargs)
        self.add_expert(self.acting_weights(), dataset_stats)
        self._opened: FlowPolicy | None = None

    def acting_weights(self) -> dict[str, Tensor]:
        """The acting expert's weights by their names in ``self.model``."""
        return {n: p for n, p in self.model.named_parameters() if n.startswith(EXPERT)}

    def forward(self, batch: dict[str, Tensor], noise: Any = None, time: Any = None, reduction: str = "mean") -> Any:
        """SmolVLA's loss, plus the failure expert's one on a batch of its own while training."""
        loss, about = SmolVLAPolicy.forward(self, batch, noise, time, reduction)
        failed = self.failure_batch(make_smolvla_pre_post_processors) if self.training else None
        if failed is None:
            return loss, about
        wrong = self.failure_loss(failed)
        return loss + self.config.eta * wrong, {**about, "failure_loss": float(wrong.detach())}

    def failure_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Flow matching of the failure expert on failed chunks; no gradient reaches the vision-language model."""
        if self.config.adapt_to_pi_aloha:
            batch["observation.state"] = self._pi_aloha_decode_state(batch["observation.state"])
            batch["action"] = self._pi_aloha_encode_actions_inv(batch["action"])
        opened, actions = self.opened(), self.prepare_action(batch)
        context = opened.encode_by(lambda: SmolVLAPolicy._get_action_chunk(self, batch, torch.zeros_like(actions)))
        noise = self.model.sample_noise(actions.shape, actions.device)
        tau = beta_time(len(actions), actions.device)
        noisy = tau[:, None, None] * noise + (1 - tau[:, None, None]) * actions
        predicted, _ = opened.heads.one(FAILURE, context.given, noisy, tau)
        real = self.config.action_feature.shape[0]
        error = F.mse_loss(predicted, noise - actions, reduction="none")[..., :real]
        padded = batch.get("action_is_pad")
        if padded is None:
            return error.mean()
        weight = (~padded).unsqueeze(-1).to(error.dtype)
        return (error * weight).sum() / (weight.sum() * real).clamp_min(1)

    def _get_action_chunk(self, batch: dict[str, Tensor], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """A chunk (B, H, A), normalised: steered where ``config.alpha`` is above 0."""
        if not self.guided:
            return SmolVLAPolicy._get_action_chunk(self, batch, noise, **kwargs)
        opened = self.opened()
        opened.heads.forget()  # the weights may have been trained since
        context = opened.encode_by(lambda: SmolVLAPolicy._get_action_chunk(self, batch, noise))
        actions = self.steered(opened, context, noise)[..., : opened.spec.action_dim]
        return self._pi_aloha_encode_actions(actions) if self.config.adapt_to_pi_aloha else actions

    def opened(self) -> FlowPolicy:
        """This policy with its sampling open."""
        if self._opened is None:
            self._opened = FlowPolicy(self, Inputs(self.config, None, None, {}))
        return self._opened

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move the weights, and forget what was stacked of them elsewhere."""
        self._opened = None
        return super().to(*args, **kwargs)
