"""The processors are SmolVLA's own."""

from __future__ import annotations

from typing import Any

from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors


def make_failwise_smolvla_pre_post_processors(config: Any, dataset_stats: Any = None) -> Any:
    """SmolVLA's pre- and post-processor."""
    return make_smolvla_pre_post_processors(config, dataset_stats=dataset_stats)
