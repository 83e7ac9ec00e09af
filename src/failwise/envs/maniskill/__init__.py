"""ManiSkill3: seven table-top tasks of a Panda arm, seen through three cameras and told in English."""

from failwise.envs.maniskill.env import TASKS, ManiSkillEnv, make

__all__ = ["TASKS", "ManiSkillEnv", "make"]
