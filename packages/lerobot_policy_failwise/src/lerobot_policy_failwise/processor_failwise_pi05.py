"""The processors are pi05's own."""

from __future__ import annotations

from typing import Any

from lerobot.policies.pi05.processor_pi05 import make_pi05_pre_post_processors


def make_failwise_pi05_pre_post_processors(config: Any, dataset_stats: Any = None) -> Any:
    """pi05's pre- and post-processor."""
    return make_pi05_pre_post_processors(config, dataset_stats=dataset_stats)
