"""Generative policies whose predictions are known in closed form, and a small random network one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from failwise.steer.process import DiffusionProcess, FlowProcess
from failwise.types import PolicySpec


@dataclass
class FixedContext:
    batch: int
    features_BD: torch.Tensor

    def select(self, indices):
        return FixedContext(len(indices), self.features_BD[indices])


def context_of(batch, dtype=torch.float64, dims=3):
    generator = torch.Generator().manual_seed(99)
    return FixedContext(batch, torch.randn((batch, dims), generator=generator, dtype=dtype))


@dataclass(frozen=True)
class Mixture:
    """sum_j w_j N(m_j, std^2 I) over chunks (H, A)."""

    means: torch.Tensor  # (M, H, A)
    std: float
    weights: tuple[float, ...] = (1.0,)

    def posterior_mean(self, x, alpha, sigma):
        """E[a | alpha a + sigma z = x], from Bayes' rule on the components."""
        variance = alpha**2 * self.std**2 + sigma**2
        x = x[..., None, :, :]
        distance = ((x - alpha * self.means) ** 2).sum((-2, -1))
        log_w = torch.log(torch.tensor(self.weights, dtype=x.dtype))
        share = torch.softmax(log_w - distance / (2 * variance), dim=-1)
        gain = alpha * self.std**2 / variance
        each = self.means + gain * (x - alpha * self.means)
        return (share[..., None, None] * each).sum(-3)

    def log_density(self, x, alpha, sigma):
        """log density of alpha a + sigma z at x (..., H, A), one component only."""
        variance = alpha**2 * self.std**2 + sigma**2
        dims = x.shape[-1] * x.shape[-2]
        square = ((x - alpha * self.means[0]) ** 2).sum((-2, -1))
        return -square / (2 * variance) - 0.5 * dims * np.log(2 * np.pi * variance)


class MixturePolicy:
    """The exact velocity or noise of Gaussian mixtures, one per head."""

    def __init__(self, prediction, heads, steps=16):
        first = next(iter(heads.values()))
        _, H, A = first.means.shape
        self.mixtures = heads
        self.path = FlowProcess() if prediction == "flow" else DiffusionProcess()
        self.calls = []
        self.spec = PolicySpec(
            kind="mixture",
            horizon=H,
            execute=H,
            action_dim=A,
            state_dim=1,
            cameras={},
            prediction=prediction,
            denoising_steps=steps,
            heads=tuple(heads),
        )

    def encode(self, observations):
        return context_of(len(observations))

    def predict(self, noisy_BNHA, t, context, heads):
        self.calls.append((tuple(noisy_BNHA.shape), float(t), heads))
        t = float(t)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        clean = [self.mixtures[h].posterior_mean(noisy_BNHA, alpha, sigma) for h in heads]
        return torch.stack([self.path.from_clean(c, noisy_BNHA, t) for c in clean])

    def decode(self, actions_BHA):
        return np.clip(actions_BHA.float().numpy(), -1, 1)


class NetworkPolicy:
    """Random float32 experts as one batched matrix product, as real policies have them."""

    def __init__(self, prediction="flow", heads=("success", "failure"), H=8, A=4, D=16, seed=0):
        generator = torch.Generator().manual_seed(seed)
        n_in = H * A + D + 1
        self.first = torch.randn((len(heads), n_in, 64), generator=generator) / n_in**0.5
        self.second = torch.randn((len(heads), 64, H * A), generator=generator) / 8
        self.spec = PolicySpec(
            kind="network",
            horizon=H,
            execute=H,
            action_dim=A,
            state_dim=1,
            cameras={},
            prediction=prediction,
            denoising_steps=6,
            heads=heads,
        )

    def encode(self, observations):
        return context_of(len(observations), torch.float32, 16)

    def predict(self, noisy_BNHA, t, context, heads):
        B, N, H, A = noisy_BNHA.shape
        rows = [self.spec.heads.index(h) for h in heads]
        features = context.features_BD[:, None].expand(B, N, -1)
        x = torch.cat([noisy_BNHA.flatten(2), features, t.expand(B, N, 1)], -1).flatten(0, 1)
        hidden = torch.tanh(torch.bmm(x[None].expand(len(rows), -1, -1), self.first[rows]))
        return torch.bmm(hidden, self.second[rows]).reshape(len(rows), B, N, H, A)

    def decode(self, actions_BHA):
        return np.clip(actions_BHA.numpy(), -1, 1)


def gaussian(mean_HA, std):
    return Mixture(mean_HA[None], std)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)
