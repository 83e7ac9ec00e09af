"""Diffusion Policy with a failure expert: its options."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

from lerobot_policy_failwise.options import DualHeads


@PreTrainedConfig.register_subclass("failwise_diffusion")
@dataclass
class FailwiseDiffusionConfig(DiffusionConfig, DualHeads):
    """Options of Diffusion Policy and of the failure expert; see ``DualHeads``."""

    def __post_init__(self) -> None:
        self.take_over("diffusion")
        super().__post_init__()
        self.check()
