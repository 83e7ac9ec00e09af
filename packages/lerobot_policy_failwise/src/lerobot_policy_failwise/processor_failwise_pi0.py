"""The processors are pi0's own."""

from __future__ import annotations

from typing import Any

from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors


def make_failwise_pi0_pre_post_processors(config: Any, dataset_stats: Any = None) -> Any:
    """pi0's pre- and post-processor."""
    return make_pi0_pre_post_processors(config, dataset_stats=dataset_stats)
