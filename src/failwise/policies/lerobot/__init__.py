"""Policies that LeRobot trained: SmolVLA, pi0, pi05 and Diffusion open for steering; any other as it acts."""

from failwise.policies.lerobot.checkpoint import LeRobotPolicy

__all__ = ["LeRobotPolicy"]
