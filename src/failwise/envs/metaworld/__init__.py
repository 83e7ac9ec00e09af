"""Meta-World: 50 table-top tasks of one arm, seen through two cameras and told in English."""

from failwise.envs.metaworld.env import TASKS, MetaWorldEnv, make

__all__ = ["TASKS", "MetaWorldEnv", "make"]
