"""Learned densities of the features of successes: random network distillation, and a flow to noise.

``rnd`` (arXiv 1810.12894, on policy features as in FIPER, arXiv 2510.09459): ``||p(e) - f(e)||^2`` with a fixed random
network f and a predictor p that was trained to equal it on successes.
``logpzo`` (FAIL-Detect, arXiv 2503.08558): a flow v from features o (time 0) to standard normal noise (time 1) is
trained on successes, ``E ||v((1 - t) o + t z, t) - (z - o)||^2``; the score is ``||o + v(o, 0)||^2``, the squared
norm of the noise that one Euler step reaches.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from failwise.detect.base import positive, successful_features, whole
from failwise.detect.network import NetworkDetector
from failwise.detect.trace import Moment, Trace


def mlp(width: int, hidden: int, out: int, layers: int = 2) -> nn.Sequential:
    """Linear and SiLU layers."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(width, hidden), nn.SiLU()]
        width = hidden
    return nn.Sequential(*parts, nn.Linear(width, out))


class _Learned(NetworkDetector[nn.ModuleDict]):
    """A network over standardised features of successes, trained by minibatches."""

    def __init__(self, hidden: int = 256, steps: int = 2000, batch: int = 256, learning_rate: float = 1e-3) -> None:
        super().__init__()
        for name, value in (("hidden", hidden), ("steps", steps), ("batch", batch)):
            whole(name, value)
        positive("learning_rate", learning_rate)
        self.hidden, self.steps, self.batch, self.learning_rate = hidden, steps, batch, learning_rate

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in ("hidden", "steps", "batch", "learning_rate")}

    @abstractmethod
    def _loss(self, network: nn.ModuleDict, x_BD: Tensor) -> Tensor:
        """The loss."""

    @abstractmethod
    def _value(self, network: nn.ModuleDict, x_BD: Tensor) -> Tensor:
        """The scores (B,)."""

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        features = successful_features(traces)
        x_MD = torch.from_numpy(self.scaler.fit(features)(features))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._build(self.features)
            trained = [p for p in network.parameters() if p.requires_grad]
            optimiser = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=1e-4)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
            for _ in range(self.steps):
                loss = self._loss(network, x_MD[torch.randint(len(x_MD), (self.batch,))])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        self.network = network.eval()

    def _score(self, moment: Moment) -> float:
        assert self.network is not None, "fit or load it first"
        assert moment.features is not None
        with torch.inference_mode():
            return float(self._value(self.network, torch.from_numpy(self.scaler(moment.features))[None])[0])

    def _sequence(self, features_CD: NDArray[np.float32], asked_C: NDArray[np.int64]) -> NDArray[np.float64]:
        assert self.network is not None, "fit or load it first"
        with torch.inference_mode():
            return self._value(self.network, torch.from_numpy(self.scaler(features_CD))).double().numpy()


class RND(_Learned):
    """``||p(e) - f(e)||^2``."""

    name = "rnd"

    def _build(self, width: int) -> nn.ModuleDict:
        target = mlp(width, self.hidden, 64).requires_grad_(False)
        return nn.ModuleDict({"target": target, "predictor": mlp(width, self.hidden, 64, layers=3)})

    def _value(self, network: nn.ModuleDict, x_BD: Tensor) -> Tensor:
        gap_BX: Tensor = network["predictor"](x_BD) - network["target"](x_BD)
        return gap_BX.square().sum(-1)

    def _loss(self, network: nn.ModuleDict, x_BD: Tensor) -> Tensor:
        return self._value(network, x_BD).mean()


class LogPZO(_Learned):
    """``||o + v(o, 0)||^2``."""

    name = "logpzo"

    def _build(self, width: int) -> nn.ModuleDict:
        return nn.ModuleDict({"flow": mlp(width + 1, self.hidden, width, layers=3)})

    def _loss(self, network: nn.ModuleDict, x_BD: Tensor) -> Tensor:
        z, t = torch.randn_like(x_BD), torch.rand(len(x_BD), 1)
        predicted: Tensor = network["flow"](torch.cat([(1 - t) * x_BD + t * z, t], 1))
        return (predicted - (z - x_BD)).square().mean()

    def _value(self, network: nn.ModuleDict, x_BD: Tensor) -> Tensor:
        velocity: Tensor = network["flow"](torch.cat([x_BD, x_BD.new_zeros(len(x_BD), 1)], 1))
        return (x_BD + velocity).square().sum(-1)
