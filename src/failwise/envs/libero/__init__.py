"""LIBERO and LIBERO-PRO: table-top tasks of a Panda arm, seen through two cameras and told in English."""

from failwise.envs.libero.env import TASKS, LiberoEnv, make

__all__ = ["TASKS", "LiberoEnv", "make"]
