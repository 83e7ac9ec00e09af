"""pi05 with a failure expert: its options."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from lerobot_policy_failwise.options import DualHeads


@PreTrainedConfig.register_subclass("failwise_pi05")
@dataclass
class FailwisePi05Config(PI05Config, DualHeads):
    """Options of pi05 and of the failure expert; see ``DualHeads``."""

    def __post_init__(self) -> None:
        self.take_over("pi05")
        super().__post_init__()
        self.check()
