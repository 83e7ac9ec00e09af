"""The processors are Diffusion Policy's own."""

from __future__ import annotations

from typing import Any

from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors


def make_failwise_diffusion_pre_post_processors(config: Any, dataset_stats: Any = None) -> Any:
    """Diffusion Policy's pre- and post-processor."""
    return make_diffusion_pre_post_processors(config, dataset_stats=dataset_stats)
