"""Policies with a failure expert, and environments for ``lerobot-eval``; importing registers them with LeRobot."""

from lerobot_policy_failwise.configuration_failwise_diffusion import FailwiseDiffusionConfig
from lerobot_policy_failwise.configuration_failwise_smolvla import FailwiseSmolVLAConfig
from lerobot_policy_failwise.environment import FailwiseEnvConfig

__all__ = ["FailwiseDiffusionConfig", "FailwiseEnvConfig", "FailwiseSmolVLAConfig"]
