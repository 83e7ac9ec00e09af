"""The compact VLA as a generative policy: encode once, predict many times, save and load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from failwise.errors import CheckpointError, DataError
from failwise.policies.compact.config import CompactConfig
from failwise.policies.compact.network import CompactNetwork
from failwise.policies.text import TextCache
from failwise.types import Observation, PolicySpec

Cache: TypeAlias = tuple[list[tuple[Tensor, Tensor]], Tensor]
"""Every expert layer's keys and values of the prefix, (E*B, heads, L, D/heads) each, and their mask (E*B, 1, 1, L)."""


@dataclass(frozen=True)
class Normaliser:
    """Mean and scale of proprioception and actions, fitted once on the demonstrations and never on failures.

    ``action_low`` and ``action_high`` are the environment's bounds (A,), to which decoded actions are clipped.
    """

    state_mean: Tensor
    state_std: Tensor
    action_mean: Tensor
    action_std: Tensor
    action_low: Tensor
    action_high: Tensor

    @classmethod
    def fit(
        cls, states_MS: NDArray[Any], actions_MA: NDArray[Any], low: NDArray[Any], high: NDArray[Any]
    ) -> Normaliser:
        """From M frames. Scales are floored at 1e-2 (state) and 1e-1 (action) so that constants do not explode."""
        s, a = np.asarray(states_MS, np.float64), np.asarray(actions_MA, np.float64)
        as_tensor = [s.mean(0), np.maximum(s.std(0), 1e-2), a.mean(0), np.maximum(a.std(0), 1e-1), low, high]
        return cls(*(torch.as_tensor(np.asarray(x, np.float32)) for x in as_tensor))

    def state(self, state_BS: Tensor) -> Tensor:
        """Units to normalised."""
        return (state_BS - self.state_mean) / self.state_std

    def action(self, actions: Tensor) -> Tensor:
        """Units to normalised, (..., A)."""
        return (actions - self.action_mean) / self.action_std

    def units(self, actions: Tensor) -> Tensor:
        """Normalised to units, clipped to the bounds, (..., A)."""
        return torch.clamp(actions * self.action_std + self.action_mean, self.action_low, self.action_high)


@dataclass
class CompactContext:
    """The cached prefix of B observations, and the experts' keys and values read from it so far.

    ``hidden``: None, or a list to which every ``predict`` appends the acting expert's hidden states (B, N, H, D).
    """

    prefix_BLD: Tensor
    mask_B11L: Tensor
    caches: dict[tuple[str, ...], Cache] = field(default_factory=dict)
    hidden: list[Tensor] | None = None

    @property
    def batch(self) -> int:
        """B."""
        return len(self.prefix_BLD)

    @property
    def features_BD(self) -> Tensor:  # noqa: N802
        """Mean of the real prefix tokens (B, D): what detectors and value models read."""
        weight = self.mask_B11L[:, 0, 0, :, None].to(self.prefix_BLD.dtype)
        return (self.prefix_BLD * weight).sum(1) / weight.sum(1)

    def select(self, indices: Tensor) -> CompactContext:
        """The contexts of some observations."""
        return CompactContext(self.prefix_BLD[indices], self.mask_B11L[indices])


class CompactVLA:
    """A small vision-language-action policy with a flow- or diffusion-based action expert (or several).

    Args:
        config: shapes. network: weights; random when not given. normaliser: fitted on demonstrations.
        env_id_prefix: suite that it was trained in, for error messages.
    """

    def __init__(
        self, config: CompactConfig, normaliser: Normaliser, network: CompactNetwork | None = None,
        text: TextCache | None = None, notes: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self.network = (network or CompactNetwork(config)).eval()
        self.normaliser = normaliser
        self.text = text or TextCache(config.text_tokens)
        self.notes = notes or {}
        self.spec = PolicySpec(
            kind="compact",
            horizon=config.horizon,
            execute=config.execute,
            action_dim=config.action_dim,
            state_dim=config.state_dim,
            cameras=dict(config.cameras),
            prediction=config.prediction,
            denoising_steps=config.denoising_steps,
            heads=config.heads,
            feature_dim=config.width,
        )

    def inputs(self, observations: Sequence[Observation]) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Observations to network inputs: images (B, 3, h, w) in [-1, 1], state (B, S), text (B, T, C), mask (B, T).

        Raises:
            DataError: a camera is missing or of another size, or the state has another length.
        """
        images: dict[str, Tensor] = {}
        for camera, size in self.config.cameras.items():
            if missing := [o for o in observations if camera not in o.images]:
                raise DataError(
                    f"the policy needs camera {camera!r}, but the observation has {sorted(missing[0].images)}; "
                    "choose an environment with that camera"
                )
            stack = np.stack([o.images[camera] for o in observations])
            if stack.shape[1:3] != tuple(size):
                raise DataError(
                    f"camera {camera!r} gives {stack.shape[1]}x{stack.shape[2]} pixels, but the policy was trained "
                    f"on {size[0]}x{size[1]}; set the environment's image_size"
                )
            images[camera] = pixels_to_float(torch.from_numpy(stack))
        state = torch.from_numpy(np.stack([np.asarray(o.state, np.float32) for o in observations]))
        if state.shape[1] != self.config.state_dim:
            raise DataError(f"proprioception has {state.shape[1]} numbers, the policy takes {self.config.state_dim}")
        text, mask = self.text.batch([o.instruction for o in observations])
        longest = int(mask.sum(1).max())  # padding comes last, and nothing reads it
        text, mask = text[:, :longest], mask[:, :longest]
        return images, self.normaliser.state(state), text, mask

    @torch.inference_mode()
    def encode(self, observations: Sequence[Observation]) -> CompactContext:
        """Run the backbone once per observation."""
        return CompactContext(*self.network.backbone(*self.inputs(observations)))

    @torch.inference_mode()
    def predict(self, noisy_BNHA: Tensor, t: Tensor, context: CompactContext, heads: tuple[str, ...]) -> Tensor:
        """Predictions (E, B, N, H, A) of the named heads, in one batched pass."""
        pick = self._pick(heads)
        E, (B, N) = len(heads), noisy_BNHA.shape[:2]
        if heads not in context.caches:
            context.caches[heads] = self._cache(context, heads, pick)
        caches, mask = context.caches[heads]
        t_EBN = torch.as_tensor(t, dtype=noisy_BNHA.dtype).expand(E, B, N)
        noisy_EBNHA = noisy_BNHA[None].expand(E, -1, -1, -1, -1)
        predicted: Tensor = self.network.experts(noisy_EBNHA, t_EBN, caches, mask, pick, context.hidden)
        return predicted

    def _cache(self, context: CompactContext, heads: tuple[str, ...], pick: slice | list[int]) -> Cache:
        """Keys and values of the prefix for these heads; those of more heads that begin with them are reused."""
        E, B = len(heads), context.batch
        for known, (caches, mask) in context.caches.items():
            if known[:E] == heads:
                return [(k[: E * B], v[: E * B]) for k, v in caches], mask[: E * B]
        prefix = context.prefix_BLD[None].expand(E, -1, -1, -1)
        return self.network.experts.cache(prefix, pick), context.mask_B11L.repeat(E, 1, 1, 1)

    def decode(self, actions_BHA: Tensor) -> NDArray[np.float32]:
        """Normalised actions to the environment's units, clipped to its bounds."""
        return np.asarray(self.normaliser.units(actions_BHA).numpy(), np.float32)

    def _pick(self, heads: tuple[str, ...]) -> slice | list[int]:
        if unknown := [h for h in heads if h not in self.config.heads]:
            raise CheckpointError(
                f"this policy has no head {unknown[0]!r}, only {list(self.config.heads)}; "
                "failwise improve trains further heads"
            )
        index = [self.config.heads.index(h) for h in heads]
        if index == list(range(index[0], index[0] + len(index))):
            return slice(index[0], index[0] + len(index))  # a view: no copy of the weights
        return index

    def with_heads(self, heads: tuple[str, ...], shared_layers: int | None = None) -> CompactVLA:
        """A copy with these heads; each new one starts from the acting head's weights.

        Args:
            heads: names, the acting one first.
            shared_layers: see ``CompactConfig``; None keeps the number of this policy.
        """
        shared = self.config.shared_layers if shared_layers is None else shared_layers
        config = replace(self.config, heads=heads, shared_layers=shared)
        network = CompactNetwork(config)
        state = self.network.state_dict()
        source = [self.config.heads.index(h) if h in self.config.heads else 0 for h in heads]
        for name, value in state.items():
            rows = [0] * len(heads) if self.network.experts.is_shared(name) else source
            state[name] = value[rows].clone() if name.startswith("experts.") else value.clone()
        network.load_state_dict(state)
        return CompactVLA(config, self.normaliser, network, self.text, dict(self.notes))

    def twin(self) -> CompactVLA:
        """Another policy with the same weights, in the same memory; what it encodes of new wordings is its own."""
        text = TextCache(self.config.text_tokens)
        text.load_state_dict(self.text.state_dict())
        return CompactVLA(self.config, self.normaliser, self.network, text, dict(self.notes))

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and text.safetensors, each replaced atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        normaliser = {f"normaliser.{k}": v for k, v in vars(self.normaliser).items()}
        tensors = {**self.network.state_dict(), **normaliser}
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.tmp")
        (folder / "model.tmp").rename(folder / "model.safetensors")
        states = self.text.state_dict()
        # Sentences are values, not keys of the file: keys are limited in what they may hold.
        save_file({f"{i:05d}": v.contiguous() for i, v in enumerate(states.values())}, folder / "text.tmp")
        (folder / "text.tmp").rename(folder / "text.safetensors")
        config = {**self.config.to_json()}
        about = {"config": config, "sentences": list(states), "notes": self.notes, "kind": "compact"}
        # Not sorted: the order of the cameras is the order of their tokens.
        (folder / "config.tmp").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (folder / "config.tmp").rename(folder / "config.json")

    @classmethod
    def load(cls, folder: Path) -> CompactVLA:
        """Read a checkpoint folder.

        Raises:
            CheckpointError: files missing, damaged, or of another architecture than config.json says.
        """
        for name in ("config.json", "model.safetensors", "text.safetensors"):
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder} is not a policy folder: {name} is missing")
        try:
            about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config = CompactConfig.from_json(about["config"], str(folder / "config.json"))
            tensors = load_file(folder / "model.safetensors")
            states = load_file(folder / "text.safetensors")
            sentences = dict(zip(about["sentences"], states.values(), strict=True))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder} is damaged ({error}); train or copy it again") from error
        normaliser = {k.split(".", 1)[1]: tensors.pop(k) for k in list(tensors) if k.startswith("normaliser.")}
        network = CompactNetwork(config)
        expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
        found = {k: tuple(v.shape) for k, v in tensors.items()}
        if expected != found or len(normaliser) != 6:
            odd = [name for name, _ in sorted(set(expected.items()) ^ set(found.items()))] or ["the normaliser"]
            raise CheckpointError(
                f"{folder}/model.safetensors is of another architecture than its config.json (first: {odd[0]})"
            )
        network.load_state_dict(tensors)
        text = TextCache(config.text_tokens)
        text.load_state_dict(sentences)
        return cls(config, Normaliser(**normaliser), network, text, about.get("notes", {}))


def pixels_to_float(pixels_Bhw3: Tensor) -> Tensor:
    """uint8 (B, h, w, 3) in 0..255 to float (B, 3, h, w) in [-1, 1]."""
    return pixels_Bhw3.permute(0, 3, 1, 2).float().mul_(1 / 127.5).sub_(1.0)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a policy folder's weights file, hex, or "" where there is none."""
    path = folder / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
