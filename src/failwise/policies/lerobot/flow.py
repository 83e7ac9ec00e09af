"""SmolVLA, pi0 and pi05 opened up: their own code encodes once and denoises; sampling is left to this package.

LeRobot's time runs the other way: ``tau = 1`` is noise, ``tau = 0`` the action, and the prediction is ``u = z - a``.
``FlowPolicy.predict`` is the one place where that is turned round. On the grid of the policy's own denoising steps it
uses LeRobot's own arithmetic for ``tau``, so that plain sampling gives its actions bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from failwise.errors import CheckpointError
from failwise.policies.lerobot.heads import ACTING, Heads
from failwise.types import Observation, PolicySpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from failwise.policies.lerobot.batch import Inputs

EXPERT = (  # what belongs to the action expert, as it begins in the names of the weights
    "vlm_with_expert.lm_expert.", "paligemma_with_expert.gemma_expert.", "action_in_proj.", "action_out_proj.",
    "action_time_mlp_in.", "action_time_mlp_out.", "time_mlp_in.", "time_mlp_out.",
)  # fmt: skip


@dataclass
class FlowContext:
    """The prefix of B observations, encoded: what the policy's own code hands to its denoising step.

    Attributes:
        given: its arguments besides the noisy actions and the time; tensors (B, ...) and the cache of keys and values.
        prefix_BLD: hidden states of the prefix after the last layer. mask_B11L: which of them are real.
        hidden: None, or a list to which ``predict`` appends the acting expert's hidden states (B, N, H, D).
    """

    given: dict[str, Any]
    prefix_BLD: Tensor
    mask_B11L: Tensor
    hidden: list[Tensor] | None = None
    _repeated: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def batch(self) -> int:
        """B."""
        return len(self.prefix_BLD)

    @property
    def features_BD(self) -> Tensor:  # noqa: N802
        """Mean of the real prefix tokens (B, D), float32."""
        weight = self.mask_B11L[:, 0, 0, :, None].float()
        return (self.prefix_BLD.float() * weight).sum(1) / weight.sum(1)

    def select(self, indices: Tensor) -> FlowContext:
        """The contexts of some observations."""
        given = {
            k: _rows(v, lambda x: x[indices], lambda c: c.batch_select_indices(indices)) for k, v in self.given.items()
        }
        return FlowContext(given, self.prefix_BLD[indices], self.mask_B11L[indices])

    def repeated(self, n: int) -> dict[str, Any]:
        """``given`` with every row n times in a row."""
        if n == 1:
            return self.given
        if n not in self._repeated:
            self._repeated[n] = {
                k: _rows(v, lambda x: x.repeat_interleave(n, 0), lambda c: c.batch_repeat_interleave(n))
                for k, v in self.given.items()
            }
        return self._repeated[n]


class FlowPolicy:
    """A flow-matching policy of LeRobot as a ``GenerativePolicy``.

    Args:
        policy: the policy, in evaluation mode. inputs: its names and processors.

    A policy may bring further experts beside its own one: ``policy.extra_heads()`` gives {name: {weight: tensor}} in
    the names of ``policy.model``.
    """

    def __init__(self, policy: Any, inputs: Inputs) -> None:
        self.policy, self.inputs = policy, inputs
        self.core: Any = policy.model
        config = policy.config
        self.steps = int(getattr(config, "num_steps", 0) or getattr(config, "num_inference_steps", 0) or 10)
        self.step = _Step(self.core)
        own = expert_weights(self.core)
        more = policy.extra_heads() if hasattr(policy, "extra_heads") else {}
        self.heads = Heads(self.step, "core.", own, more)
        width = int(config.max_action_dim)
        self.spec = PolicySpec(
            kind="lerobot",
            horizon=int(config.chunk_size),
            execute=inputs.execute,
            action_dim=inputs.action_dim,
            state_dim=inputs.state_dim,
            cameras=inputs.sizes,
            resizes_images=inputs.resizes,
            prediction="flow",
            denoising_steps=self.steps,
            heads=self.heads.names,
            feature_dim=0,
            latent_dim=width,
        )

    def twin(self) -> FlowPolicy:
        """Another policy with the same weights, in the same memory, and with a past of its own."""
        other = copy.copy(self)
        other.inputs = self.inputs.twin()
        return other

    def encode(self, observations: Sequence[Observation]) -> FlowContext:
        """Run the vision-language model once per observation."""
        return self.encode_batch(self.inputs.ready(observations))

    def encode_batch(self, batch: Mapping[str, Any]) -> FlowContext:
        """The same for a batch that LeRobot's pre-processor made.

        Raises:
            CheckpointError: the policy reached no denoising step.
        """
        rows = next(len(v) for v in batch.values() if isinstance(v, Tensor))
        device = next(self.core.parameters()).device
        noise = torch.zeros(rows, self.spec.horizon, self.spec.latent_dim, device=device)
        return self.encode_by(lambda: self.policy.predict_action_chunk(dict(batch), noise=noise))

    def encode_by(self, predict: Callable[[], Any]) -> FlowContext:
        """What the policy's own prediction of a chunk has encoded when it reaches its first denoising step.

        Raises:
            CheckpointError: it reaches none.
        """
        # A policy with guidance of its own leaves it to whoever samples here.
        plainly = getattr(self.policy, "plainly", nullcontext)
        with torch.no_grad(), plainly(), _until_denoising(self.core) as seen:
            try:
                predict()
            except _Reached as reached:
                given = reached.given
            else:
                raise CheckpointError(
                    f"a policy of type {self.policy.config.type!r} did not denoise; is it a flow policy?"
                )
        mask = given["prefix_pad_masks"]
        return FlowContext(given, seen[-1], mask[:, None, None, :])

    def predict(self, noisy_BNHA: Tensor, t: Tensor, context: FlowContext, heads: tuple[str, ...]) -> Tensor:
        """Velocities (E, B, N, H, A) of the named heads, in one batched pass of the experts."""
        B, N = noisy_BNHA.shape[:2]
        given = context.repeated(N)
        x = noisy_BNHA.flatten(0, 1)
        tau = self._tau(t, noisy_BNHA).expand(B, N).reshape(B * N)
        with torch.no_grad():
            u, hidden = self.heads(heads, given, x, tau)
        if context.hidden is not None:
            context.hidden.append(hidden[0].reshape(B, N, *hidden.shape[2:]))
        return -u.reshape(len(heads), *noisy_BNHA.shape).to(noisy_BNHA.dtype)

    def decode(self, actions_BHA: Tensor) -> NDArray[np.float32]:
        """The environment's units, (B, H, action dims): without the padding, through LeRobot's post-processor."""
        actions = actions_BHA[..., : self.spec.action_dim]
        if getattr(self.policy.config, "adapt_to_pi_aloha", False):
            actions = self.policy._pi_aloha_encode_actions(actions.clone())
        return self.inputs.units(actions)

    def _tau(self, t: Tensor, like: Tensor) -> Tensor:
        """LeRobot's time, float32, on the device of the actions."""
        if t.ndim == 0:
            k = float(t) * self.steps
            if abs(k - round(k)) < 1e-4:
                return torch.tensor(1.0 + round(k) * (-1.0 / self.steps), dtype=torch.float32, device=like.device)
        return (1.0 - t).to(like.device, torch.float32)


def expert_weights(core: nn.Module) -> dict[str, nn.Parameter]:
    """The action expert's weights by their names in ``policy.model``, without the word head that nothing reads.

    pi0 shows the proprioception to its expert, SmolVLA and pi05 to the vision-language model, which all experts share.
    """
    own = (*EXPERT, "state_proj.") if hasattr(core, "paligemma_with_expert") else EXPERT
    return {n: p for n, p in core.named_parameters() if n.startswith(own) and ".lm_head." not in n}


class _Step(nn.Module):
    """The policy's own denoising step as a module's forward, which also gives the expert's last hidden states."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core: Any = core

    def forward(self, given: Mapping[str, Any], x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction (M, H, A) and hidden states (M, H, D)."""
        last: list[Tensor] = []
        hook = self.core.action_out_proj.register_forward_pre_hook(lambda _, args: last.append(args[0]))
        try:
            # The step appends to the cache and cuts it again; under vmap its rows would be those of no batch.
            fresh = {k: copy_cache(v) if _is_cache(v) else v for k, v in given.items()}
            u = self.core.denoise_step(x_t=x, timestep=tau, **fresh)
        finally:
            hook.remove()
        return u, last[-1]


class _Reached(Exception):  # noqa: N818
    """Carries what the denoising step was given out of the policy's own code."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__("the first denoising step")
        self.given = given


@contextmanager
def _until_denoising(core: Any) -> Iterator[list[Tensor]]:
    """Stop the policy at its first denoising step; yields the list that the prefix's hidden states are put into."""
    joined: Any = getattr(core, "vlm_with_expert", None) or core.paligemma_with_expert
    seen: list[Tensor] = []
    forward = joined.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        seen.append(out[0][0])
        return out

    def stop(**given: Any) -> Tensor:
        raise _Reached({k: v for k, v in given.items() if k not in ("x_t", "timestep")})

    joined.forward, core.denoise_step = watched, stop
    try:
        yield seen
    finally:
        del joined.forward, core.denoise_step  # the methods of their classes show again


def _is_cache(value: Any) -> bool:
    return hasattr(value, "batch_repeat_interleave")


def copy_cache(cache: Any) -> Any:
    """A cache of keys and values that may grow without the first one knowing; the tensors are shared."""
    fresh = copy.copy(cache)
    fresh.layers = [copy.copy(layer) for layer in cache.layers]
    return fresh


def _rows(value: Any, tensor: Any, cache: Any) -> Any:
    """``value`` with its rows chosen anew: by ``tensor`` for tensors, by ``cache`` in place on a copy of a cache."""
    if isinstance(value, Tensor):
        return tensor(value)
    if _is_cache(value):
        fresh = copy_cache(value)
        cache(fresh)
        return fresh
    return value


__all__ = ["ACTING", "FlowContext", "FlowPolicy", "copy_cache", "expert_weights"]
