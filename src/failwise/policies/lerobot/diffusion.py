"""LeRobot's Diffusion Policy opened up: the observations are encoded once, its own noise scheduler gives the steps.

Source of the method: Diffusion Policy (arXiv 2303.04137). The number of denoising steps is the checkpoint's; step k of
K stands for the scheduler's k-th timestep.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from failwise.errors import SetupError
from failwise.policies.lerobot.heads import Heads
from failwise.types import Observation, PolicySpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from failwise.policies.lerobot.batch import Inputs

IMAGES = "observation.images"


@dataclass
class DiffusionContext:
    """What the network conditions on, for B observations: features (B, D) of pictures and proprioception."""

    features_BD: Tensor

    @property
    def batch(self) -> int:
        """B."""
        return len(self.features_BD)

    def select(self, indices: Tensor) -> DiffusionContext:
        """The contexts of some observations."""
        return DiffusionContext(self.features_BD[indices])


class SchedulerProcess:
    """A noise scheduler of diffusers as a path from noise (t = 0) to action (t = 1); see ``failwise.steer.process``.

    Args:
        scheduler: DDPM or DDIM. steps: K, the number of denoising steps.
    """

    def __init__(self, scheduler: Any, steps: int) -> None:
        self.scheduler, self.steps = scheduler, steps
        self._generators: list[torch.Generator] | None = None

    def begin(self, generators: list[torch.Generator] | None) -> None:
        """Before a sampling: the noise of stochastic steps comes from one generator a row, or from torch's own."""
        self._generators = generators

    def timestep(self, t: float) -> int:
        """The scheduler's timestep at t.

        Raises:
            SetupError: t lies between the checkpoint's denoising steps.
        """
        k = t * self.steps
        if abs(k - round(k)) > 1e-4:
            raise SetupError(
                f"this diffusion policy has {self.steps} denoising steps and no time between them; ask for as many"
            )
        self.scheduler.set_timesteps(self.steps)
        return int(self.scheduler.timesteps[min(round(k), self.steps - 1)])

    def alpha(self, t: float) -> float:
        """Share of the action."""
        return 1.0 if t >= 1 else float(self.scheduler.alphas_cumprod[self.timestep(t)] ** 0.5)

    def sigma(self, t: float) -> float:
        """Standard deviation of the noise."""
        return 0.0 if t >= 1 else float((1 - self.scheduler.alphas_cumprod[self.timestep(t)]) ** 0.5)

    def clean(self, prediction: Tensor, noisy: Tensor, t: float) -> Tensor:
        """The action that the prediction points at, clipped where the scheduler clips."""
        clean = prediction if self._predicts_action else (noisy - self.sigma(t) * prediction) / self.alpha(t)
        about = self.scheduler.config
        return clean.clamp(-about.clip_sample_range, about.clip_sample_range) if about.clip_sample else clean

    def from_clean(self, clean: Tensor, noisy: Tensor, t: float) -> Tensor:
        """The prediction that points at an action."""
        return clean if self._predicts_action else (noisy - self.alpha(t) * clean) / self.sigma(t)

    def step(self, prediction: Tensor, noisy: Tensor, t: float, t_next: float) -> Tensor:
        """The scheduler's own step."""
        timestep = self.timestep(t)
        shape = noisy.shape
        done = self.scheduler.step(
            prediction.flatten(0, 1), timestep, noisy.flatten(0, 1), generator=self._generators
        ).prev_sample
        out: Tensor = done.reshape(shape)
        return out

    @property
    def _predicts_action(self) -> bool:
        return bool(self.scheduler.config.prediction_type == "sample")


class DiffusionPolicy:
    """LeRobot's Diffusion Policy as a ``GenerativePolicy``.

    Args:
        policy: the policy, in evaluation mode. inputs: its names and processors.

    A chunk begins ``history - 1`` steps before the present one; ``decode`` leaves those actions out.
    """

    def __init__(self, policy: Any, inputs: Inputs) -> None:
        self.policy, self.inputs, self.core = policy, inputs, policy.diffusion
        self.steps = int(self.core.num_inference_steps)
        self.process = SchedulerProcess(self.core.noise_scheduler, self.steps)
        more = policy.extra_heads() if hasattr(policy, "extra_heads") else {}
        step = _Step(self.core.unet)
        self.heads = Heads(step, "unet.", dict(self.core.unet.named_parameters()), more)
        self.spec = PolicySpec(
            kind="lerobot",
            horizon=int(policy.config.horizon),
            execute=inputs.execute,
            action_dim=inputs.action_dim,
            state_dim=inputs.state_dim,
            cameras=inputs.sizes,
            resizes_images=inputs.resizes,
            prediction="epsilon",
            denoising_steps=self.steps,
            heads=self.heads.names,
            history=inputs.history,
        )

    def twin(self) -> DiffusionPolicy:
        """Another policy with the same weights, in the same memory, and with a past of its own."""
        other = copy.copy(self)
        other.inputs = self.inputs.twin()
        other.process = SchedulerProcess(self.core.noise_scheduler, self.steps)
        return other

    def reset(self, seed: int) -> None:
        """Begin an episode; the noise is the sampler's."""
        self.inputs.forget()

    def notice(self, observation: Observation) -> None:
        """Remember an observation at which no chunk is asked for."""
        self.inputs.notice(observation)

    def encode(self, observations: Sequence[Observation]) -> DiffusionContext:
        """Encode pictures and proprioception of the last steps."""
        return self.encode_batch(self.inputs.stacked(observations))

    def encode_batch(self, batch: Mapping[str, Any]) -> DiffusionContext:
        """The same for stacked observations (B, history, ...) in LeRobot's names."""
        batch = dict(batch)
        if self.policy.config.image_features:
            batch[IMAGES] = torch.stack([batch[key] for key in self.policy.config.image_features], dim=-4)
        with torch.no_grad():
            return DiffusionContext(self.core._prepare_global_conditioning(batch))

    def predict(self, noisy_BNHA: Tensor, t: Tensor, context: DiffusionContext, heads: tuple[str, ...]) -> Tensor:
        """The network's predictions (E, B, N, H, A), as the checkpoint was trained to give them: noise, or actions."""
        B, N = noisy_BNHA.shape[:2]
        timesteps = torch.tensor([self.process.timestep(float(x)) for x in t.expand(B, N).flatten()])
        timesteps = timesteps.to(noisy_BNHA.device)
        condition = context.features_BD.repeat_interleave(N, 0)
        with torch.no_grad():
            out, _ = self.heads(heads, noisy_BNHA.flatten(0, 1), timesteps, condition)
        return out.reshape(len(heads), *noisy_BNHA.shape)

    def decode(self, actions_BHA: Tensor) -> NDArray[np.float32]:
        """The environment's units (B, H - history + 1, A), from the present step on."""
        return self.inputs.units(actions_BHA[:, self.inputs.history - 1 :])


class _Step(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction (M, H, A), twice: this network shows no hidden states."""
        out = self.unet(x, timesteps, global_cond=condition)
        return out, out
