"""pi0 with a failure expert: its options."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config

from lerobot_policy_failwise.options import DualHeads


@PreTrainedConfig.register_subclass("failwise_pi0")
@dataclass
class FailwisePi0Config(PI0Config, DualHeads):
    """Options of pi0 and of the failure expert; see ``DualHeads``."""

    def __post_init__(self) -> None:
        self.take_over("pi0")
        super().__post_init__()
        self.check()
