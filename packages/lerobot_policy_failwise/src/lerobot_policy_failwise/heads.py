"""The second expert as a part of the policy: its weights, its training, and the guided sampling."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from failwise.steer import sample
from failwise.steer.afil import AFIL
from lerobot_policy_failwise.failures import FailureBatches

FAILURE = "failure"


class Expert(nn.Module):
    """A copy of some of a module's weights, trained on their own. A name's dots are written as slashes."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(weight.detach().clone()))

    def weights(self) -> dict[str, Tensor]:
        """Name in the module -> weight."""
        return {name.replace("/", "."): p for name, p in self.named_parameters()}

    def copy_from(self, weights: Mapping[str, Tensor]) -> None:
        """Become a copy of these weights."""
        with torch.no_grad():
            for name, mine in self.weights().items():
                mine.copy_(weights[name])


class DualPolicy:
    """What both policies share. A subclass has the acting policy as its other base, and calls ``add_expert``."""

    config: Any
    training: bool
    failure: Expert
    _batches: FailureBatches | None = None
    _stats: Any = None
    guiding = True

    def add_expert(self, weights: Mapping[str, Tensor], dataset_stats: Any) -> None:
        """Put a failure expert beside the acting one, beginning as its copy; or both as those of ``config.base``."""
        self._stats = dataset_stats
        self.failure = Expert(weights)
        if self.config.base:
            this: Any = self
            this.load_state_dict(this.from_pretrained(self.config.base, config=self._without_base()).state_dict())
            self.config.base = ""  # it is in the weights now; a checkpoint does not need it again

    def extra_heads(self) -> dict[str, dict[str, Tensor]]:
        """The failure expert's weights, by the names that they have in the acting policy."""
        return {FAILURE: self.failure.weights()}

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """Sampling inside is that of the acting policy alone."""
        before, self.guiding = self.guiding, False
        try:
            yield
        finally:
            self.guiding = before

    @property
    def guided(self) -> bool:
        """Whether sampling is steered."""
        return bool(self.guiding and self.config.alpha > 0 and not self.training)

    def failure_batch(self, make_processors: Any) -> dict[str, Any] | None:
        """The next batch of failed frames; None where no failures are given."""
        if not self.config.failures:
            return None
        if self._batches is None:
            if self._stats is None:
                raise ValueError("the failure expert needs the dataset's statistics; train it with lerobot-train")
            before, _ = make_processors(self.config, dataset_stats=self._stats)
            self._batches = FailureBatches(self.config, before)
        return self._batches.next()

    def steered(self, policy: Any, context: Any, noise_BHA: Tensor | None) -> Tensor:
        """Chunks (B, H, A), normalised, steered away from the failure expert."""
        o = self.config
        steering = AFIL(alpha=o.alpha, scale=o.scale, clamp=o.clamp or None)
        noise = None if noise_BHA is None else noise_BHA[:, None]
        return sample(policy, context, steering, torch.default_generator, noise=noise).actions_BHA

    def _without_base(self) -> Any:
        config = copy.deepcopy(self.config)
        config.base = ""
        return config

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        """Load, and where the file has no failure expert, begin it as a copy of the loaded acting one."""
        with safe_open(model_file, framework="pt") as file:
            had = any(name.startswith(f"{FAILURE}.") for name in file.keys())  # noqa: SIM118
        parent: Any = super()
        model = parent._load_as_safetensor(model, model_file, map_location, strict)
        if not had:
            model.failure.copy_from(model.acting_weights())
        return model

    def acting_weights(self) -> dict[str, Tensor]:
        """The acting expert's weights by name."""
        raise NotImplementedError
