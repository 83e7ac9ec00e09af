"""The one loop that every steered or unsteered chunk comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from failwise.errors import EpisodeError, SetupError, UnknownNameError
from failwise.steer.process import process_for

if TYPE_CHECKING:
    from failwise.protocols import Context, GenerativePolicy, Steering


@dataclass(frozen=True)
class Sampled:
    """What one inference gave, in normalised units.

    Attributes:
        actions_BHA: the chunk to act on, one per observation.
        index_B: which of the N samples it is.
        info: named scalars per observation, from the steering.
        samples_BNHA: every sample that was drawn.
    """

    actions_BHA: torch.Tensor
    index_B: torch.Tensor
    info: list[dict[str, float]]
    samples_BNHA: torch.Tensor


def sample(
    policy: GenerativePolicy,
    context: Context,
    steering: Steering,
    generator: torch.Generator | Sequence[torch.Generator],
    steps: int | None = None,
    *,
    temperature: float = 1.0,
    noise: torch.Tensor | None = None,
) -> Sampled:
    """Draw ``steering.samples`` chunks per observation and choose one of them.

    Every denoising step is one call of ``policy.predict`` for all heads that the steering wants then and all
    samples.

    Args:
        policy: a flow or diffusion policy.
        context: what ``policy.encode`` gave for B observations.
        steering: the hooks. ``Unsteered()`` for none.
        generator: one for the batch, or one per observation; with the latter a batch draws the same noise as
            B runs of one observation each. Sample 0 starts from the same noise whatever the number of
            samples is.
        steps: K denoising steps; the policy's own number when None.
        temperature: factor on the initial noise; below 1 draws closer to the mode.
        noise: initial noise (B, N, H, A) to use in place of drawn one.

    Raises:
        SetupError: the policy cannot be steered, lacks a head, or ``steps``, ``temperature`` or the
            generators do not fit.
        EpisodeError: the sampled actions are not finite.
    """
    process = process_for(policy)
    _check_heads(policy, steering)
    K = policy.spec.denoising_steps if steps is None else steps
    if K < 1:
        raise SetupError(f"at least one denoising step is needed, got {K}")
    if temperature < 0:
        raise SetupError(f"temperature must not be negative, got {temperature}")
    # no_grad and not inference_mode: gradient guidance differentiates a reward of the tensors made here
    with torch.no_grad():
        steering.prepare(policy, context)
        noise_BNHA = draw_noise(policy, context, steering.samples, generator) if noise is None else noise
        process.begin(_rows(generator, context.batch, steering.samples))
        if temperature != 1.0:
            noise_BNHA = temperature * noise_BNHA
        noisy_BNHA = steering.noise(noise_BNHA, context)
        for k in range(K):
            t, t_next = k / K, (k + 1) / K
            heads = steering.heads_at(k) or policy.spec.heads[:1]
            predictions_EBNHA = policy.predict(noisy_BNHA, noisy_BNHA.new_tensor(t), context, heads)
            prediction_BNHA = steering.adjust(predictions_EBNHA, noisy_BNHA, t, context)
            noisy_BNHA = process.step(prediction_BNHA, noisy_BNHA, t, t_next)
        index_B = steering.select(noisy_BNHA, context)
        actions_BHA = noisy_BNHA[torch.arange(context.batch, device=index_B.device), index_B]
    if not bool(torch.isfinite(actions_BHA).all()):
        raise EpisodeError(
            f"{type(steering).__name__} sampled actions that are not finite; lower the guidance strength or clamp it"
        )
    return Sampled(actions_BHA, index_B, steering.info(), noisy_BNHA)


def draw_noise(
    policy: GenerativePolicy,
    context: Context,
    samples: int,
    generator: torch.Generator | Sequence[torch.Generator],
) -> torch.Tensor:
    """Standard normal (B, N, H, A) in the dtype and on the device of the context.

    Drawn chunk by chunk, because one large draw of a generator does not begin with the numbers of a small
    one.

    Raises:
        SetupError: a sequence of generators of another length than B, or fewer than one sample.
    """
    B, H, A = context.batch, policy.spec.horizon, policy.spec.latent_dim or policy.spec.action_dim
    if samples < 1:
        raise SetupError(f"at least one sample per observation is needed, got {samples}")
    generators = [generator] * B if isinstance(generator, torch.Generator) else list(generator)
    if len(generators) != B:
        raise SetupError(f"{len(generators)} generators for {B} observations; give one, or one per observation")
    like = context.features_BD
    chunks = [
        torch.randn((H, A), generator=g, dtype=like.dtype, device=g.device) for g in generators for _ in range(samples)
    ]
    return torch.stack(chunks).reshape(B, samples, H, A).to(like.device)


def _rows(generator: torch.Generator | Sequence[torch.Generator], batch: int, samples: int) -> list[torch.Generator]:
    """One generator for each of the B * N rows."""
    each = [generator] * batch if isinstance(generator, torch.Generator) else list(generator)
    return [g for g in each for _ in range(samples)]


def _check_heads(policy: GenerativePolicy, steering: Steering) -> None:
    for head in steering.heads:
        if head not in policy.spec.heads:
            raise UnknownNameError("action head", head, policy.spec.heads)
