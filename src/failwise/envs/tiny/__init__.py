"""Two table-top tasks without a simulator: numpy only, fast, for tests and for trying things out."""

from failwise.envs.tiny.env import TASKS, TinyEnv, make

__all__ = ["TASKS", "TinyEnv", "make"]
