"""One training loop for every way of fitting the compact VLA: who is imitated by which head is all that differs.

A ``Source`` gives samples to one head. Behaviour cloning has one source; self-imitation adds the policy's own
successes to it; AFIL adds a failure head with a source of failed chunks, whose gradient stops at the backbone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from failwise.errors import DataError, SetupError
from failwise.learn.clip import clip_members
from failwise.learn.data import ChunkData, balanced_weights, masked_mean, shifted
from failwise.learn.objective import noised
from failwise.learn.options import FitOptions
from failwise.learn.precision import computing_in
from failwise.learn.progress import TrainingProgress
from failwise.learn.resume import resume_training, save_training
from failwise.policies.compact import CompactVLA
from failwise.policies.compact.policy import pixels_to_float


@dataclass(frozen=True)
class Source:
    """Samples for one head.

    Attributes:
        data: the samples. head: which head imitates them.
        share: of each batch, relative to the other sources.
        weights: sampling weights (M,); default: every task the same.
        stop_gradient: keep this source's gradient out of the backbone.
        loss_weight: factor of its loss.
    """

    data: ChunkData
    head: str = "success"
    share: float = 1.0
    weights: NDArray[np.float64] | None = None
    stop_gradient: bool = False
    loss_weight: float = 1.0


@dataclass
class _Sampler:
    """A source made ready: cumulative weights and normalised targets."""

    source: Source
    size: int
    cumulative: NDArray[np.float64]
    states: Tensor
    actions: Tensor
    text: Tensor
    text_mask: Tensor
    weight: float  # of this source's mean loss: its share among the sources of its head


def fit(
    policy: CompactVLA, sources: Sequence[Source], options: FitOptions, *, title: str = "train",
    scratch: Path | None = None, quiet: bool = False,
) -> CompactVLA:  # fmt: skip
    """Train a copy of ``policy`` and return it with the averaged weights.

    Args:
        policy: where to start; its normaliser is kept.
        sources: who is imitated by which head.
        options: how long and how fast.
        title: of the progress bar.
        scratch: folder for resumable checkpoints; a run found there goes on where it stopped.
        quiet: show no progress.

    Raises:
        DataError: a source is empty or does not fit the policy, or the loss is not finite.
        CheckpointError: the checkpoint in ``scratch`` is damaged or of another training.
    """
    device = training_device(options.device)
    network = copy.deepcopy(policy.network).train().to(device)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.95), fused=True
    )
    weights: list[Tensor] = [p.detach() for p in parameters]
    average = [w.clone() for w in weights]
    samplers = _prepare(policy, sources, options, device)
    open_heads = sorted({policy.config.heads.index(s.head) for s in sources if not s.stop_gradient})
    about = {k: v for k, v in vars(options).items() if k not in ("save_every", "device")}
    changing = {f"network.{k}": v for k, v in network.state_dict().items()}
    changing |= {f"average.{i:04d}": v for i, v in enumerate(average)}
    start, smooth = resume_training(scratch, changing, optimiser, about) if scratch else (0, float("nan"))
    with TrainingProgress(options.steps, start, title, quiet) as progress:
        for step in range(start, options.steps):
            for group in optimiser.param_groups:
                group["lr"] = options.learning_rate * _schedule(step, options)
            loss = _loss(policy, network, samplers, options, step)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            clip_members(network.experts.parameters(), shared=network.backbone.parameters(), joined=open_heads)
            optimiser.step()
            # A young average would remember the random start; let its memory grow with the run.
            torch._foreach_lerp_(average, weights, 1 - min(options.ema, (step + 1) / (step + 10)))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DataError(f"{title}: the loss is {value} at step {step}; lower the learning rate")
            smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
            progress.update(step + 1, smooth, raw=value, learning_rate=optimiser.param_groups[0]["lr"])
            if scratch and options.save_every and (step + 1) % options.save_every == 0:
                save_training(scratch, changing, optimiser, about, step + 1, smooth)
    with torch.no_grad():
        for p, mean in zip(parameters, average, strict=True):
            p.copy_(mean)
    network.cpu()
    notes = {**policy.notes, "final_loss": smooth, "steps": options.steps, "precision": options.precision}
    return CompactVLA(policy.config, policy.normaliser, network, policy.text, notes)


def _loss(policy: CompactVLA, network: Any, samplers: Sequence[_Sampler], options: FitOptions, step: int) -> Tensor:
    """One minibatch over all sources: the backbone runs over all observations, each head on its own ones."""
    random = np.random.default_rng((options.seed, step))
    generator = torch.Generator().manual_seed(int(random.integers(2**62)))
    picks = [np.searchsorted(s.cumulative, random.random(s.size)) for s in samplers]
    device = samplers[0].states.device
    images = {}
    for camera in policy.config.cameras:
        seen = np.concatenate([s.source.data.images[camera][i] for s, i in zip(samplers, picks, strict=True)])
        images[camera] = pixels_to_float(torch.from_numpy(shifted(seen, options.shift, random)).to(device))
    states = torch.cat([s.states[i] for s, i in zip(samplers, picks, strict=True)])
    sentences = [torch.from_numpy(s.source.data.sentence[i]).to(device) for s, i in zip(samplers, picks, strict=True)]
    text = torch.cat([s.text[i] for s, i in zip(samplers, sentences, strict=True)])
    text_mask = torch.cat([s.text_mask[i] for s, i in zip(samplers, sentences, strict=True)])
    total = torch.zeros((), device=device)
    opened = sum(s.size for s in samplers if not s.source.stop_gradient)  # _prepare puts these first

    def encode(rows: slice) -> tuple[Tensor, Tensor]:
        pictures = {camera: x[rows] for camera, x in images.items()}
        prefix, mask = network.backbone(pictures, states[rows], text[rows], text_mask[rows])
        return prefix, mask

    with computing_in(options.precision, device.type):
        parts = [encode(slice(opened))] if opened else []
        if opened < len(states):
            with torch.no_grad():  # nothing flows back from here, so nothing is kept for it
                parts.append(encode(slice(opened, None)))
        prefix, mask = (torch.cat(both) for both in zip(*parts, strict=True))
        at = 0
        for s, pick in zip(samplers, picks, strict=True):
            rows = slice(at, at + s.size)
            at += s.size
            x, t, target = noised(policy.config, s.actions[pick], options.copies, generator)
            head = policy.config.heads.index(s.source.head)
            predicted = network.predict_shared(x, t, prefix[rows], mask[rows], head)
            error = (predicted.float() - target) ** 2
            valid = torch.from_numpy(s.source.data.valid[pick]).to(device)
            total = total + masked_mean(error, valid) * s.weight
    return total


def _prepare(
    policy: CompactVLA, sources: Sequence[Source], options: FitOptions, device: torch.device
) -> list[_Sampler]:
    if not sources:
        raise DataError("nothing to train on: no sources")
    if len(sources) > options.batch:
        raise DataError(f"a batch of {options.batch} cannot hold {len(sources)} sources; ask for a larger batch")
    shares = np.array([s.share for s in sources]) / sum(s.share for s in sources)
    sizes = np.maximum(1, np.round(shares * options.batch)).astype(int)
    sizes[0] += options.batch - sizes.sum()
    out = []
    for source, size in zip(sources, sizes, strict=True):
        data = source.data
        if len(data) == 0:
            raise DataError(f"nothing to train the {source.head} head on: no samples")
        if data.states.shape[1] != policy.config.state_dim or data.actions.shape[1:] != (
            policy.config.horizon,
            policy.config.action_dim,
        ):
            raise DataError(
                f"the data has {data.states.shape[1]} state and {data.actions.shape[2]} action dims, "
                f"the policy takes {policy.config.state_dim} and {policy.config.action_dim}"
            )
        for camera, (h, w) in policy.config.cameras.items():
            if camera not in data.images or data.images[camera].shape[1:3] != (h, w):
                raise DataError(f"the data has no camera {camera!r} of {h}x{w} pixels, which the policy sees")
        weights = balanced_weights(data) if source.weights is None else source.weights
        text, text_mask = policy.text.batch(data.sentences)
        same_head = sum(s.share for s in sources if s.head == source.head)
        out.append(
            _Sampler(
                source=source,
                size=int(size),
                weight=source.loss_weight * source.share / same_head,
                cumulative=np.cumsum(weights / weights.sum()).clip(max=1.0),
                states=policy.normaliser.state(torch.from_numpy(data.states)).to(device),
                actions=policy.normaliser.action(torch.from_numpy(data.actions)).to(device),
                text=text.to(device),
                text_mask=text_mask.to(device),
            )
        )
        out[-1].cumulative[-1] = 1.0
    return sorted(out, key=lambda s: s.source.stop_gradient)


def _schedule(step: int, options: FitOptions) -> float:
    """Linear warm-up, then cosine from 1 to 0.05."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return 0.05 + 0.475 * (1 + math.cos(math.pi * done))


def training_device(name: str) -> torch.device:
    """The device that ``FitOptions.device`` names.

    Raises:
        SetupError: a GPU was asked for, and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SetupError(
            "no CUDA device here, or a build of torch without CUDA: use --fit.device cpu, or install torch with CUDA"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
