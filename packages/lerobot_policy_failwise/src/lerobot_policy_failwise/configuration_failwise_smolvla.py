"""SmolVLA with a failure expert: its options."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from lerobot_policy_failwise.options import DualHeads


@PreTrainedConfig.register_subclass("failwise_smolvla")
@dataclass
class FailwiseSmolVLAConfig(SmolVLAConfig, DualHeads):
    """Options of SmolVLA and of the failure expert; see ``DualHeads``."""

    def __post_init__(self) -> None:
        self.take_over("smolvla")
        super().__post_init__()
        self.check()
