"""Policies with a failure expert, and environments for ``lerobot-eval``; importing registers them with LeRobot."""

from lerobot_policy_failwise.configuration_failwise_diffusion import FailwiseDiffusionConfig
from lerobot_policy_failwise.configuration_failwise_pi0 import FailwisePi0Config
from lerobot_policy_failwise.configuration_failwise_pi05 import FailwisePi05Config
from lerobot_policy_failwise.configuration_failwise_smolvla import FailwiseSmolVLAConfig
from lerobot_policy_failwise.environment import FailwiseEnvConfig

__all__ = [
    "FailwiseDiffusionConfig",
    "FailwiseEnvConfig",
    "FailwisePi0Config",
    "FailwisePi05Config",
    "FailwiseSmolVLAConfig",
]
