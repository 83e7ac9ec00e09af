"""A compact VLA small enough to run in a millisecond, with experts that differ, and things for it to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser
from failwise.types import Observation

SENTENCES = ("move to the red disc", "move to the blue disc, please", "grip")
HEADS = ("success", "failure", "own_success")


def small_config(**changes: Any) -> CompactConfig:
    shapes: dict[str, Any] = {
        "cameras": {"robot": (32, 32), "top": (32, 32)}, "state_dim": 5, "action_dim": 3, "horizon": 4, "execute": 4,
        "width": 32, "attention_heads": 2, "conv_channels": (8, 8, 8), "backbone_layers": 1, "expert_layers": 1,
        "heads": HEADS, "denoising_steps": 3,
    }  # fmt: skip
    return CompactConfig(**{**shapes, **changes})


def small_policy(**changes: Any) -> CompactVLA:
    torch.manual_seed(0)
    config = small_config(**changes)
    A, S = config.action_dim, config.state_dim
    normaliser = Normaliser(
        torch.linspace(-0.2, 0.2, S), torch.linspace(0.5, 1.5, S), torch.linspace(-0.1, 0.1, A),
        torch.linspace(0.4, 0.8, A), -torch.ones(A), torch.ones(A),
    )  # fmt: skip
    policy = CompactVLA(config, normaliser)
    with torch.no_grad():  # the experts start equal, and their output at zero
        for parameter in policy.network.experts.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    lengths = zip(SENTENCES, (5, 9, 3), strict=True)
    policy.text.load_state_dict({s: torch.randn(n, 384).half() for s, n in lengths})  # no text encoder needed
    return policy


def observations(n: int, seed: int = 0) -> list[Observation]:
    random = np.random.default_rng(seed)
    return [
        Observation(
            {c: random.integers(0, 256, (32, 32, 3), np.uint8) for c in ("top", "robot")},
            random.normal(size=5).astype(np.float32),
            SENTENCES[i % len(SENTENCES)],
        )
        for i in range(n)
    ]


def noisy(policy: CompactVLA, b: int, n: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Noised chunks (B, N, H, A) and a flow time (B, N) for each."""
    generator = torch.Generator().manual_seed(seed)
    shape = (b, n, policy.config.horizon, policy.config.action_dim)
    return torch.randn(shape, generator=generator), torch.rand((b, n), generator=generator)
