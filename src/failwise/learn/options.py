"""How the trainings are set: what a command line reads before anything is loaded that trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from failwise.errors import SetupError
from failwise.policies.critic_config import CriticConfig

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class FitOptions:
    """How long and how fast to train."""

    steps: int = 9000
    """Optimiser steps."""
    batch: int = 32
    """Observations a step, over all sources together."""
    copies: int = 8
    """Noised action chunks for each encoded observation (level-2 minibatch)."""
    learning_rate: float = 6e-4
    """Peak rate of AdamW; linear warm-up, cosine decay to a twentieth."""
    warmup: int = 300
    """Warm-up steps."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    ema: float = 0.999
    """Decay of the weights' moving average, which is what is saved."""
    shift: int = 4
    """Random image shift in pixels."""
    seed: int = 0
    """Seed of everything random in training."""
    save_every: int = 500
    """Steps between resumable checkpoints; 0 makes none."""
    precision: Precision = "float32"
    """Precision of matrix products and convolutions. bfloat16 is faster on a GPU or a processor with AMX, and
    trains another policy: compare the two in success before you rely on it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train: auto takes a GPU where there is one. The same seed gives the same bits on the CPU only."""


@dataclass(frozen=True)
class AFILTraining:
    """How the heads are trained."""

    fit: FitOptions = field(default_factory=lambda: FitOptions(steps=1500, copies=4, learning_rate=2e-4, warmup=100))
    """Length and rate of training; ``batch`` counts the observations of the success head."""
    failure_set: Literal["low_advantage", "whole_trajectory"] = "low_advantage"
    """Which chunks of failed episodes the failure head learns."""
    quantile: float = 0.3
    """low_advantage: the share of each task's failed chunks, those of the lowest advantage."""
    truncate: float = 1.5
    """Ignore failed episodes beyond so many median successful lengths of their task: there they are only stuck."""
    eta: float = 1.0
    """Weight of the failure head's loss."""
    negative_batch: int = 8
    """Observations a step for each of the two negative heads."""
    demos_share: float = 0.5
    """Demonstrations among demonstrations and own successes in the success head's batch, where there are any."""
    shared_layers: int = 0
    """Expert layers that the other heads read from the success head: cheaper guidance by less different heads."""
    recoveries_share: float = 0.35
    """Share of verified recoveries in the success head's batch, where there are any; the others share the rest."""

    def __post_init__(self) -> None:
        for name in ("demos_share", "recoveries_share"):
            if not 0 < getattr(self, name) < 1:
                raise SetupError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class CriticOptions:
    """How to train value model and critic."""

    config: CriticConfig = field(default_factory=CriticConfig)
    """Shapes; prefix width, horizon and action dims are taken from the policy."""
    steps: int = 900
    """Optimiser steps of each of the two stages."""
    batch: int = 96
    """Observations a step."""
    learning_rate: float = 3e-4
    """Peak rate of AdamW, cosine decay."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    bootstrap: float = 0.5
    """b, share of V(o_{t+H}) in the critic's target."""
    seed: int = 0
    """Seed of folds and minibatches."""
    precision: Precision = "float32"
    """Precision of matrix products, and of the features that are kept in memory: bfloat16 halves that memory."""


@dataclass(frozen=True)
class RecoveryTraining:
    """How to train a recovery actor."""

    members: int = 3
    """Networks that learn the same apart and answer together."""
    steps: int = 1500
    """Optimiser steps of each."""
    batch: int = 32
    """Episodes a step."""
    own_share: float = 0.35
    """Share of them that are the policy's own, where there are any."""
    learning_rate: float = 1e-3
    """Peak rate of AdamW, cosine decay."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    plans: float = 0.5
    """Plans without a perturbation that are learned from, for each failure on purpose of a task."""
    mended: float = 0.5
    """Failures that somebody led out of, for each failure of a task: they teach when it is over."""
    grace: int = 6
    """Steps after an onset that are not judged: nothing can be seen yet."""
    held_out: float = 0.2
    """Share of the layouts that is not learned from, for the figures."""
    seed: int = 0
    """Seed of the split, the weights and the batches."""
    acting: FitOptions = field(default_factory=lambda: FitOptions(steps=3000, copies=4, learning_rate=3e-4, warmup=50))
    """Training on of the policy with the verified ways out of failures, to one that acts during takeovers; 0 steps
    make none."""

    def __post_init__(self) -> None:
        if min(self.members, self.steps, self.batch) < 1 or not (self.plans >= 0 and self.mended >= 0):
            raise SetupError("members, steps and batch must be at least 1, plans and mended at least 0")
        if not (0 < self.held_out < 1 and 0 < self.own_share < 1):
            raise SetupError("held-out and own-share must lie between 0 and 1")


@dataclass(frozen=True)
class VLMTraining:
    """How to fine-tune a vision-language model on questions about failures."""

    epochs: float = 3.0
    """How often every question is asked."""
    batch: int = 8
    """Questions an optimiser step."""
    at_once: int = 1
    """Questions of a batch that are in memory together; the gradient is the same for any number."""
    full: bool = False
    """Train all weights, in float32; else LoRA on the linear layers of the language model."""
    rank: int = 16
    """Of LoRA; its scale is 2."""
    learning_rate: float | None = None
    """Peak rate of AdamW, cosine decay to 0; none is 1e-4 for LoRA and 1e-5 for all weights."""
    vision_rate: float = 2e-6
    """The same for the vision tower, where all weights are trained; 0 leaves it as it is."""
    warmup: float = 0.03
    """Share of the steps with a linear warm-up."""
    frames: int = 10
    """Pictures of each camera in a question, evenly spaced in its window; fewer cost less."""
    image_size: int = 0
    """Longest side of a picture in pixels, before the model's own processor has it; 0 leaves it as it is."""
    precision: Precision = "float32"
    """Precision of the frozen weights under LoRA and of matrix products. bfloat16 halves the memory of the weights;
    an adapter is asked in the precision in which it was trained."""
    checkpointing: bool = False
    """Compute activations twice, for less memory."""
    held_out: float = 0.1
    """Share of the layouts that is not learned from, for the figures."""
    judged: int = 500
    """Held-out questions that are asked at the end, at most."""
    save_every: int = 50
    """Steps between resumable checkpoints; 0 makes none."""
    seed: int = 0
    """Seed of the split, the adapter and the order."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.at_once, self.rank, self.frames, self.judged) <= 0:
            raise SetupError("epochs, batch, at-once, rank, frames and judged must be more than 0")
        if min(self.image_size, self.save_every, self.vision_rate) < 0 or not 0 <= self.warmup < 1:
            raise SetupError("image-size, save-every and vision-rate must be at least 0, warmup from 0 to below 1")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise SetupError(f"learning-rate must be more than 0, not {self.learning_rate}")
        if not 0 < self.held_out < 1:
            raise SetupError(f"held-out must lie between 0 and 1, not {self.held_out}")

    @property
    def rate(self) -> float:
        """The peak rate."""
        return self.learning_rate or (1e-5 if self.full else 1e-4)
