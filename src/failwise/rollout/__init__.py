"""The closed loop: agents in environments, episodes into a store, on one process or many."""

from failwise.rollout.collecting import ExecutorKind, collect, default_workers, make_executor, run_item
from failwise.rollout.loop import RolloutItem, RolloutOptions, instruction_for, run_episode

__all__ = [
    "ExecutorKind",
    "RolloutItem",
    "RolloutOptions",
    "collect",
    "default_workers",
    "instruction_for",
    "make_executor",
    "run_episode",
    "run_item",
]
