"""The compact VLA's configuration: everything that its weights' shapes and meaning depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from failwise.errors import CheckpointError, SetupError


@dataclass(frozen=True)
class CompactConfig:
    """Shapes of the compact VLA. Defaults: 3 M parameters, an hour of training on two cores at most."""

    cameras: dict[str, tuple[int, int]] = field(default_factory=lambda: {"corner": (96, 96), "gripper": (96, 96)})
    """Camera name -> (height, width) in pixels; both divisible by 16."""
    state_dim: int = 4
    """S, proprioception dims."""
    action_dim: int = 4
    """A, action dims."""
    horizon: int = 8
    """H, actions in a chunk."""
    execute: int = 8
    """Actions to execute before the next inference, at most ``horizon``."""
    width: int = 192
    """D, token width of backbone and expert."""
    attention_heads: int = 6
    """Attention heads; must divide ``width``."""
    conv_channels: tuple[int, int, int] = (32, 64, 128)
    """Channels after the first three strided convolutions; the fourth gives ``width``."""
    backbone_layers: int = 2
    """Transformer layers over image, text and proprioception tokens."""
    expert_layers: int = 3
    """Transformer layers of an action expert."""
    mlp_ratio: int = 2
    """Hidden width of the feed-forward blocks over ``width``."""
    text_dim: int = 384
    """Width of the frozen text encoder's token states."""
    text_tokens: int = 20
    """Text tokens kept."""
    prediction: Literal["flow", "epsilon"] = "flow"
    """What the experts predict: the velocity a - z, or the noise."""
    denoising_steps: int = 6
    """K, denoising steps at sampling."""
    heads: tuple[str, ...] = ("success",)
    """Names of the action experts on the one backbone; the first one acts."""
    shared_layers: int = 0
    """Expert layers, from the input on, that the other heads read from the first one instead of having their own:
    guidance gets cheaper by as much. Fewer than ``expert_layers``."""

    def __post_init__(self) -> None:
        if self.width % self.attention_heads:
            raise SetupError(f"width {self.width} is not divisible by attention_heads {self.attention_heads}")
        if not 1 <= self.execute <= self.horizon:
            raise SetupError(f"execute must be 1 to horizon {self.horizon}, not {self.execute}")
        for name, (h, w) in self.cameras.items():
            if h % 16 or w % 16:
                raise SetupError(f"camera {name!r} is {h}x{w}: both sides must be divisible by 16")
        if not 0 <= self.shared_layers < self.expert_layers:
            raise SetupError(f"shared_layers must be 0 to {self.expert_layers - 1}, not {self.shared_layers}")
        if len(set(self.heads)) != len(self.heads) or not self.heads:
            raise SetupError(f"heads must be distinct names, at least one, not {self.heads}")

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict, inverse of ``from_json``."""
        return {"kind": "compact", **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str) -> CompactConfig:
        """Read ``config.json``.

        Raises:
            CheckpointError: another kind, or keys that this version does not know.
        """
        data = dict(data)
        kind = data.pop("kind", None)
        if kind != "compact":
            raise CheckpointError(f"{where} holds a policy of kind {kind!r}, not 'compact'")
        known = {f.name for f in fields(cls)}
        if extra := sorted(set(data) - known):
            raise CheckpointError(f"{where} has unknown keys {extra}; it was written by another version of Failwise")
        data["cameras"] = {c: (int(h), int(w)) for c, (h, w) in data.get("cameras", {}).items()}
        for key in ("conv_channels", "heads"):
            if key in data:
                data[key] = tuple(data[key])
        return cls(**data)
