"""Diffusion Policy with a failure network on the same encoded observations (AFIL, arXiv 2605.08434)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
from torch import Tensor

from failwise.policies.lerobot.batch import Inputs
from failwise.policies.lerobot.diffusion import DiffusionContext
from failwise.policies.lerobot.diffusion import DiffusionPolicy as Opened
from lerobot_policy_failwise.configuration_failwise_diffusion import FailwiseDiffusionConfig
from lerobot_policy_failwise.heads import FAILURE, DualPolicy


class FailwiseDiffusionPolicy(DualPolicy, DiffusionPolicy):
    """LeRobot's Diffusion Policy; see ``DualPolicy`` for what is added."""

    config_class = FailwiseDiffusionConfig
    name = "failwise_diffusion"

    def __init__(self, config: FailwiseDiffusionConfig, dataset_stats: Any = None, **kwargs: Any) -> None:
        DiffusionPolicy.__init__(self, config, **kwargs)
        self.add_expert(self.acting_weights(), dataset_stats)
        self._opened: Opened | None = None
        self._plain_sample = self.diffusion.conditional_sample
        self.diffusion.conditional_sample = self._sample

    def acting_weights(self) -> dict[str, Tensor]:
        """The acting network's weights by name."""
        return dict(self.diffusion.unet.named_parameters())

    def get_optim_params(self) -> Any:
        """Both networks' weights."""
        return self.parameters()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """The acting network's loss, plus the failure network's one on a batch of its own while training."""
        loss, about = DiffusionPolicy.forward(self, batch)
        failed = self.failure_batch(make_diffusion_pre_post_processors) if self.training else None
        if failed is None:
            return loss, about
        wrong = self.failure_loss(failed)
        return loss + self.config.eta * wrong, {**(about or {}), "failure_loss": float(wrong.detach())}

    def failure_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Denoising loss of the failure network on failed chunks; no gradient reaches the encoders."""
        opened, scheduler = self.opened(), self.diffusion.noise_scheduler
        condition = opened.encode_batch(batch).features_BD
        actions = batch["action"]
        noise = torch.randn(actions.shape, device=actions.device)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(actions),), device=actions.device)
        noisy = scheduler.add_noise(actions, noise, timesteps)
        predicted, _ = opened.heads.one(FAILURE, noisy, timesteps, condition)
        error = F.mse_loss(predicted, noise if self.config.prediction_type == "epsilon" else actions, reduction="none")
        if not self.config.do_mask_loss_for_padding:
            return error.mean()
        weight = (~batch["action_is_pad"]).unsqueeze(-1).to(error.dtype)
        return (error * weight).sum() / (weight.sum() * error.shape[-1]).clamp_min(1)

    def _sample(
        self, batch_size: int, global_cond: Tensor | None = None, generator: Any = None, noise: Tensor | None = None
    ) -> Tensor:
        """Chunks (B, H, A), normalised: steered where ``config.alpha`` is above 0."""
        if not self.guided or global_cond is None:
            done: Tensor = self._plain_sample(batch_size, global_cond=global_cond, generator=generator, noise=noise)
            return done
        opened = self.opened()
        opened.heads.forget()
        return self.steered(opened, DiffusionContext(global_cond), noise)

    def opened(self) -> Opened:
        """This policy with its sampling open."""
        if self._opened is None:
            self._opened = Opened(self, Inputs(self.config, None, None, {}))
        return self._opened
