"""The compact VLA's network: convolutional image tokens, frozen text tokens, a cached prefix, stacked action experts.

Shape legend: B observations, L prefix tokens, D width, E experts, N noised samples of one observation, H horizon,
A action dims, S proprioception dims, T text tokens.

The experts' weights are stacked along E, so that several experts are one batched matrix product: on a small batch two
cost hardly more than one. The same N axis serves level-2 minibatches in training and best-of-N in sampling: the
backbone and the keys and values that the experts read from it are computed once per observation.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from failwise.policies.compact.config import CompactConfig


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over the last two axes (.., queries, d), (.., keys, d); ``mask`` is True where a key is real.

    Written out where gradients are needed, because the fused CPU kernel's backward pass is four times slower at these
    sizes; its forward pass is the faster one.
    """
    if not (torch.is_grad_enabled() and q.requires_grad):
        return F.scaled_dot_product_attention(q, k, v, mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e4)
    out: Tensor = scores.softmax(-1).to(v.dtype) @ v
    return out


class ImageTokens(nn.Module):
    """uint8 pixels to (B, h/16 * w/16, D) tokens, with a learned position each."""

    def __init__(self, config: CompactConfig, size: tuple[int, int]) -> None:
        super().__init__()
        c1, c2, c3 = config.conv_channels
        d = config.width
        self.stem = nn.Sequential(
            nn.Conv2d(3, c1, 3, 2, 1), nn.SiLU(),  # no norm here: it would cost more than the convolution
            nn.Conv2d(c1, c2, 3, 2, 1), nn.GroupNorm(8, c2), nn.SiLU(),
            nn.Conv2d(c2, c3, 3, 2, 1), nn.GroupNorm(8, c3), nn.SiLU(),
        )  # fmt: skip
        self.residual = nn.Sequential(nn.Conv2d(c3, c3, 3, 1, 1), nn.GroupNorm(8, c3), nn.SiLU())
        self.out = nn.Conv2d(c3, d, 3, 2, 1)
        self.position = nn.Parameter(torch.randn(1, (size[0] // 16) * (size[1] // 16), d) * 0.02)

    def forward(self, pixels_B3hw: Tensor) -> Tensor:
        """Tokens (B, h/16 * w/16, D) of float pixels (B, 3, h, w) in [-1, 1]."""
        x = pixels_B3hw.to(memory_format=torch.channels_last)
        x = self.stem(x)
        tokens: Tensor = self.out(x + self.residual(x)).flatten(2).transpose(1, 2) + self.position
        return tokens


class Block(nn.Module):
    """Pre-norm transformer layer over the prefix."""

    def __init__(self, d: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, ratio * d), nn.Linear(ratio * d, d)

    def forward(self, x_BLD: Tensor, mask_B11L: Tensor) -> Tensor:
        """Prefix tokens in, prefix tokens out; masked ones are not read."""
        B, L, D = x_BLD.shape
        q, k, v = self.qkv(self.norm1(x_BLD)).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v, mask_B11L)
        x_BLD = x_BLD + self.proj(y.transpose(1, 2).reshape(B, L, D))
        out: Tensor = x_BLD + self.down(F.gelu(self.up(self.norm2(x_BLD)), approximate="tanh"))
        return out


class Backbone(nn.Module):
    """Observation to prefix (B, L, D) and its attention mask (B, 1, 1, L), True where a token is real."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        d = config.width
        self.cameras = tuple(config.cameras)
        self.images = nn.ModuleDict({name: ImageTokens(config, size) for name, size in config.cameras.items()})
        self.text = nn.Linear(config.text_dim, d)
        self.text_position = nn.Parameter(torch.randn(1, config.text_tokens, d) * 0.02)
        self.state = nn.Sequential(nn.Linear(config.state_dim, d), nn.SiLU(), nn.Linear(d, d))
        self.blocks = nn.ModuleList(
            Block(d, config.attention_heads, config.mlp_ratio) for _ in range(config.backbone_layers)
        )
        self.norm = nn.LayerNorm(d)

    def forward(
        self, images: dict[str, Tensor], state_BS: Tensor, text_BTC: Tensor, text_mask_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images are float (B, 3, h, w) in [-1, 1]; the state is normalised."""
        tokens = [self.state(state_BS)[:, None]]
        tokens += [self.images[name](images[name]) for name in self.cameras]
        seen = sum(t.shape[1] for t in tokens)
        x = torch.cat([*tokens, self.text(text_BTC) + self.text_position[:, : text_BTC.shape[1]]], dim=1)
        mask = torch.cat([text_mask_BT.new_ones(len(x), seen), text_mask_BT], dim=1)[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), mask


class StackedLinear(nn.Module):
    """E linear maps as one batched product: (E, M, in) -> (E, M, out)."""

    def __init__(self, experts: int, d_in: int, d_out: int, zero: bool = False) -> None:
        super().__init__()
        bound = 0.0 if zero else 1 / math.sqrt(d_in)
        weight = torch.empty(1, d_in, d_out).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight.repeat(experts, 1, 1))
        self.bias = nn.Parameter(torch.zeros(experts, 1, d_out))

    def forward(self, x_EMI: Tensor, pick: slice | list[int]) -> Tensor:
        """The picked maps, each on its own slice of the input."""
        return torch.baddbmm(self.bias[pick], x_EMI, self.weight[pick])


class StackedNorm(nn.Module):
    """E layer norms: (E, M, D) -> (E, M, D)."""

    def __init__(self, experts: int, d: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(experts, 1, d))
        self.bias = nn.Parameter(torch.zeros(experts, 1, d))

    def forward(self, x_EMD: Tensor, pick: slice | list[int]) -> Tensor:
        """The picked norms, each on its own slice of the input."""
        return F.layer_norm(x_EMD, x_EMD.shape[-1:]) * self.gain[pick] + self.bias[pick]


class ExpertLayer(nn.Module):
    """Self-attention among a chunk's action tokens, cross-attention to the prefix, feed-forward."""

    def __init__(self, experts: int, d: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = (StackedNorm(experts, d) for _ in range(3))
        self.qkv, self.proj = StackedLinear(experts, d, 3 * d), StackedLinear(experts, d, d)
        self.query, self.key_value = StackedLinear(experts, d, d), StackedLinear(experts, d, 2 * d)
        self.cross = StackedLinear(experts, d, d)
        self.up, self.down = StackedLinear(experts, d, ratio * d), StackedLinear(experts, ratio * d, d)

    def cache(self, prefix_EBLD: Tensor, pick: slice | list[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix, (E*B, heads, L, D/heads) each."""
        E, B, L, D = prefix_EBLD.shape
        kv = self.key_value(prefix_EBLD.reshape(E, B * L, D), pick).view(E * B, L, 2, self.heads, D // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4)
        return k, v

    def forward(
        self, x_EMD: Tensor, shape: tuple[int, int, int], kv: tuple[Tensor, Tensor], mask: Tensor,
        pick: slice | list[int],
    ) -> Tensor:  # fmt: skip
        """(E, B*N*H, D) in and out; ``shape`` is (B, N, H), ``kv`` and ``mask`` are of the prefix."""
        E, M, D = x_EMD.shape
        B, N, H = shape
        nh, dh = self.heads, D // self.heads
        qkv = self.qkv(self.norm1(x_EMD, pick), pick).view(E * B * N, H, 3, nh, dh)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = attend(q, k, v).transpose(1, 2).reshape(E, M, D)
        x_EMD = x_EMD + self.proj(y, pick)
        # Queries do not attend to each other here: all N samples of an observation share one set of keys.
        q = self.query(self.norm2(x_EMD, pick), pick).view(E * B, N * H, nh, dh).transpose(1, 2)
        y = attend(q, kv[0], kv[1], mask).transpose(1, 2).reshape(E, M, D)
        x_EMD = x_EMD + self.cross(y, pick)
        hidden = F.gelu(self.up(self.norm3(x_EMD, pick), pick), approximate="tanh")
        out: Tensor = x_EMD + self.down(hidden, pick)
        return out


class Experts(nn.Module):
    """E action experts with stacked weights, all starting from the same values.

    With ``shared_layers`` > 0 the input and the first layers are the first expert's for all: those rows of the others'
    weights are not used, and no gradient of theirs reaches the first expert.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        E, d = len(config.heads), config.width
        self.width, self.shared = d, config.shared_layers
        self.inp = StackedLinear(E, config.action_dim, d)
        self.position = nn.Parameter(torch.randn(1, 1, 1, config.horizon, d).mul_(0.02).repeat(E, 1, 1, 1, 1))
        self.time1, self.time2 = StackedLinear(E, 64, d), StackedLinear(E, d, d)
        self.layers = nn.ModuleList(
            ExpertLayer(E, d, config.attention_heads, config.mlp_ratio) for _ in range(config.expert_layers)
        )
        self.norm = StackedNorm(E, d)
        self.out = StackedLinear(E, d, config.action_dim, zero=True)

    def is_shared(self, name: str) -> bool:
        """Whether a parameter (its name in the whole network) is read from the first expert by all."""
        parts = name.split(".")
        if not self.shared or parts[0] != "experts":
            return False
        return parts[1] in ("inp", "position", "time1", "time2") or (
            parts[1] == "layers" and int(parts[2]) < self.shared
        )

    def cache(self, prefix_EBLD: Tensor, pick: slice | list[int]) -> list[tuple[Tensor, Tensor]]:
        """Every layer's keys and values of the prefix; of shared layers only the first expert's, (B, ..)."""
        first = slice(0, 1)
        return [
            cast(ExpertLayer, layer).cache(*((prefix_EBLD[:1], first) if i < self.shared else (prefix_EBLD, pick)))
            for i, layer in enumerate(self.layers)
        ]

    def forward(
        self, noisy_EBNHA: Tensor, t_EBN: Tensor, caches: list[tuple[Tensor, Tensor]], mask: Tensor,
        pick: slice | list[int], hidden: list[Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Predictions (E, B, N, H, A). ``mask`` is (E*B, 1, 1, L).

        The first picked expert's last hidden states (B, N, H, D) are appended to ``hidden``, if it is given.
        """
        E, B, N, H, A = noisy_EBNHA.shape
        own = pick
        if self.shared:  # every expert sees the same noised chunk, so what is shared is computed once
            noisy_EBNHA, t_EBN, pick = noisy_EBNHA[:1], t_EBN[:1], slice(0, 1)
        e = len(noisy_EBNHA)
        time = self.time2(F.silu(self.time1(time_features(t_EBN).reshape(e, B * N, 64), pick)), pick)
        x = self.inp(noisy_EBNHA.reshape(e, B * N * H, A), pick).view(e, B, N, H, self.width)
        x = x + self.position[pick] + time.view(e, B, N, 1, self.width)
        x = x.reshape(e, B * N * H, self.width)
        for i, (layer, kv) in enumerate(zip(self.layers, caches, strict=True)):
            if self.shared and i == self.shared:
                # A failure must not teach the success expert, not even through the layers that both read.
                x, pick = (x if _first(own) == 0 else x.detach()).expand(E, -1, -1), own
            x = layer(x, (B, N, H), kv, mask[:B] if i < self.shared else mask, pick)
        x = self.norm(x, pick)
        if hidden is not None:
            hidden.append(x[0].view(B, N, H, self.width))
        out: Tensor = self.out(x, pick).view(E, B, N, H, A)
        return out


def _first(pick: slice | list[int]) -> int:
    """The first of the picked experts."""
    return pick[0] if isinstance(pick, list) else (pick.start or 0)


def time_features(t: Tensor) -> Tensor:
    """Sines and cosines (..., 64) of the flow time, periods from 0.02 to 4."""
    periods = torch.logspace(math.log10(0.02), math.log10(4.0), 32, device=t.device, dtype=t.dtype)
    angle = 2 * math.pi * t[..., None] / periods
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class CompactNetwork(nn.Module):
    """Backbone and experts."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.experts = Experts(config)

    def predict_shared(
        self, noisy_BNHA: Tensor, t_BN: Tensor, prefix_BLD: Tensor, mask_B11L: Tensor, head: int,
    ) -> Tensor:  # fmt: skip
        """One head's prediction (B, N, H, A), for training."""
        pick = slice(head, head + 1)
        caches = self.experts.cache(prefix_BLD[None], pick)
        predicted: Tensor = self.experts(noisy_BNHA[None], t_BN[None], caches, mask_B11L, pick)
        return predicted[0]
