"""The denoising objective, with level-2 minibatches: many noised actions for one encoded observation.

Flow (arXiv 2210.02747): ``x_t = (1 - t) z + t a``, target ``a - z``. Diffusion: ``x_t = sin(phi) a + cos(phi) z``,
target ``z``. Level 2 (Mini-Diffuser): N noised copies of each action chunk share the backbone's pass.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from failwise.policies.compact import CompactConfig
from failwise.steer.process import DiffusionProcess


def noised(
    config: CompactConfig, actions_BHA: Tensor, copies: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """N noised copies of normalised chunks: x (B, N, H, A), time (B, N), target (B, N, H, A)."""
    B, H, A = actions_BHA.shape
    # Drawn where the generator is, which is the CPU: the same noise wherever training runs.
    z = torch.randn(B, copies, H, A, generator=generator).to(actions_BHA.device)
    t = torch.rand(B, copies, generator=generator).to(actions_BHA.device)
    a = actions_BHA[:, None]
    if config.prediction == "flow":
        s = t[..., None, None]
        return (1 - s) * z + s * a, t, a - z
    process = DiffusionProcess()
    first = process.sigma(0.0)
    # phi runs linearly in t between the angles of the two ends.
    low = math.acos(first)
    phi = (low + t * (torch.pi / 2 - low))[..., None, None]
    return phi.sin() * a + phi.cos() * z, t, z.expand(B, copies, H, A)
