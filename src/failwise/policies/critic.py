"""The chunk critic and the value model: how likely is success from here, with and without a given chunk?

Both read the policy's own encoded prefix, so that scoring costs no second encoding. Each is an ensemble whose members
left out one part of the episodes each (cross-fitting), with stacked weights: one batched pass for all members.

Shape legend as in ``failwise.policies.compact.network``; here E is the ensemble's members.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from failwise.errors import CheckpointError, SetupError
from failwise.policies.compact.network import ExpertLayer, StackedLinear, StackedNorm
from failwise.policies.critic_config import CriticConfig


class _Reader(nn.Module):
    """Query tokens read the prefix; their mean gives one logit a query set. (E, B, N, Q, d) -> (E, B, N)."""

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        E, d = config.members, config.width
        self.project = StackedLinear(E, config.prefix_dim, d)
        self.layers = nn.ModuleList(ExpertLayer(E, d, config.attention_heads, 2) for _ in range(config.layers))
        self.norm, self.out = StackedNorm(E, d), StackedLinear(E, d, 1)

    def forward(self, tokens_EBNQd: Tensor, prefix_BLD: Tensor, mask_B11L: Tensor) -> Tensor:
        E, B, N, Q, d = tokens_EBNQd.shape
        L = prefix_BLD.shape[1]
        every = slice(0, E)
        prefix = self.project(prefix_BLD[None].expand(E, -1, -1, -1).reshape(E, B * L, -1), every).view(E, B, L, d)
        mask = mask_B11L.repeat(E, 1, 1, 1)
        x = tokens_EBNQd.reshape(E, B * N * Q, d)
        for layer in self.layers:
            x = layer(x, (B, N, Q), cast(ExpertLayer, layer).cache(prefix, every), mask, every)
        x = self.norm(x, every).view(E, B * N, Q, d).mean(2)
        out: Tensor = self.out(x, every).view(E, B, N)
        return out


class CriticNetwork(nn.Module):
    """Value V(o) and critic Q(o, chunk), as logits of P(success)."""

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        E, d = config.members, config.width
        self.config = config
        self.value_token = nn.Parameter(torch.randn(E, 1, 1, 4, d) * 0.2)
        self.value_reader = _Reader(config)
        self.action_in = StackedLinear(E, config.action_dim, d)
        self.position = nn.Parameter(torch.randn(E, 1, 1, config.horizon, d) * 0.2)
        self.critic_reader = _Reader(config)

    def value(self, prefix_BLD: Tensor, mask_B11L: Tensor) -> Tensor:
        """Logits (E, B)."""
        tokens = self.value_token.expand(-1, len(prefix_BLD), -1, -1, -1)
        return self.value_reader(tokens, prefix_BLD, mask_B11L)[..., 0]  # type: ignore[no-any-return]

    def critic(self, actions_BNHA: Tensor, prefix_BLD: Tensor, mask_B11L: Tensor) -> Tensor:
        """Logits (E, B, N) of normalised chunks."""
        E = self.config.members
        B, N, H, A = actions_BNHA.shape
        flat = actions_BNHA.reshape(1, B * N * H, A).expand(E, -1, -1)
        tokens = self.action_in(flat, slice(0, E)).view(E, B, N, H, -1) + self.position
        return self.critic_reader(tokens, prefix_BLD, mask_B11L)  # type: ignore[no-any-return]


class Critic:
    """A trained critic, ready to steer: call it with chunks, or ask it for the value of an observation.

    Args:
        config: shapes. network: weights. notes: how it was trained and how well it ranks held-out episodes.
    """

    def __init__(self, config: CriticConfig, network: CriticNetwork, notes: dict[str, Any] | None = None) -> None:
        self.config, self.network, self.notes = config, network.eval(), notes or {}
        self._decode: Callable[[Tensor], Any] | None = None

    def bind(self, policy: Any) -> None:
        """Learn from the policy how its normalised actions become the environment's, where that is what is read."""
        if self.config.pooled:
            self._decode = policy.decode

    @torch.inference_mode()
    def __call__(self, actions_BNHA: Tensor, context: Any) -> Tensor:
        """P(success | o, chunk), (B, N), of normalised chunks (B, N, H, A)."""
        logits = self.network.critic(self._actions(actions_BNHA), *self._prefix(context))
        return torch.sigmoid(self._pool(logits))

    @torch.inference_mode()
    def value(self, context: Any) -> Tensor:
        """P(success | o), (B,)."""
        return torch.sigmoid(self._pool(self.network.value(*self._prefix(context))))

    def _prefix(self, context: Any) -> tuple[Tensor, Tensor]:
        """What is read of an observation, (B, L, D), and its mask."""
        if not self.config.pooled:
            return context.prefix_BLD, context.mask_B11L
        features_BD = context.features_BD.float().cpu()
        if features_BD.shape[1] != self.config.prefix_dim:
            raise CheckpointError(
                f"the critic reads features of width {self.config.prefix_dim}, this policy has {features_BD.shape[1]}"
            )
        return pooled_prefix(features_BD)

    def _actions(self, actions_BNHA: Tensor) -> Tensor:
        """The chunks as the critic was taught them."""
        if not self.config.pooled:
            return actions_BNHA
        if self._decode is None:
            raise SetupError("this critic reads actions in the environment's units: bind it to its policy first")
        B, N = actions_BNHA.shape[:2]
        units = torch.from_numpy(self._decode(actions_BNHA.flatten(0, 1)))
        units_BNHA = units.reshape(B, N, *units.shape[1:])
        return in_critics_units(units_BNHA[:, :, : self.config.horizon], self.config)

    def _pool(self, logits_E: Tensor) -> Tensor:
        return logits_E.mean(0) - self.config.pessimism * logits_E.std(0)

    def save(self, folder: Path) -> None:
        """Write critic.json and critic.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.network.state_dict().items()}, folder / "critic.safetensors")
        about = {"config": asdict(self.config), "notes": self.notes}
        (folder / "critic.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Critic:
        """Read a critic folder.

        Raises:
            CheckpointError: files missing, damaged, or of another architecture.
        """
        for name in ("critic.json", "critic.safetensors"):
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder} is not a critic folder: {name} is missing")
        try:
            about = json.loads((folder / "critic.json").read_text(encoding="utf-8"))
            said: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items()}
            config = CriticConfig(**said)
            network = CriticNetwork(config)
            network.load_state_dict(load_file(folder / "critic.safetensors"))
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{folder} is damaged or of another architecture ({reason})") from error
        return cls(config, network, about.get("notes", {}))


def pooled_prefix(features_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features as a prefix of one token: (B, 1, D) and its mask (B, 1, 1, 1)."""
    return features_BD[:, None], torch.ones(len(features_BD), 1, 1, 1, dtype=torch.bool)


def in_critics_units(actions: Tensor, config: CriticConfig) -> Tensor:
    """Actions (..., A) in the environment's units, as a pooled critic reads them."""
    return (actions - torch.tensor(config.action_mean)) / torch.tensor(config.action_std)
