"""SmolVLA with a failure expert; see ``flow.py``."""

from __future__ import annotations

from typing import Any

from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors
from torch import Tensor

from lerobot_policy_failwise.configuration_failwise_smolvla import FailwiseSmolVLAConfig
from lerobot_policy_failwise.flow import DualFlow


class FailwiseSmolVLAPolicy(DualFlow, SmolVLAPolicy):
    """LeRobot's SmolVLA; see ``DualFlow`` for what is added."""

    config_class = FailwiseSmolVLAConfig
    name = "failwise_smolvla"
    make_processors = staticmethod(make_smolvla_pre_post_processors)

    def __init__(self, config: FailwiseSmolVLAConfig, dataset_stats: Any = None, **kwargs: Any) -> None:
        SmolVLAPolicy.__init__(self, config, **kwargs)
        self.add_expert(self.acting_weights(), dataset_stats)

    def plain_chunk(self, batch: dict[str, Tensor], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """A chunk (B, H, A), normalised, as SmolVLA samples it."""
        return SmolVLAPolicy._get_action_chunk(self, batch, noise, **kwargs)

    def failure_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """As of ``DualFlow``, in the joints of Aloha as pi counts them where the options say so."""
        if self.config.adapt_to_pi_aloha:
            batch["observation.state"] = self._pi_aloha_decode_state(batch["observation.state"])
            batch["action"] = self._pi_aloha_encode_actions_inv(batch["action"])
        return super().failure_loss(batch)

    def _get_action_chunk(self, batch: dict[str, Tensor], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """A chunk (B, H, A), normalised: steered where ``config.alpha`` is above 0."""
        if not self.guided:
            return self.plain_chunk(batch, noise, **kwargs)
        actions = self.guided_chunk(batch, noise)
        return self._pi_aloha_encode_actions(actions) if self.config.adapt_to_pi_aloha else actions
