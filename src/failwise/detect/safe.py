"""SAFE: multitask failure detection on the policy's own features (arXiv 2506.09937).

``safe-mlp``: ``s_t = sum_{tau <= t} sigmoid(g(e_tau))``, trained with
``sum_i [y_i sum_t (t - s_t) + (1 - y_i) sum_t s_t]`` over inferences t = 1, 2, ..., y = 1 for a failure: as high as can
be for failures, as low as can be for successes.
``safe-lstm``: ``s_t = sigmoid(LSTM(e_1 .. e_t))``, trained with cross-entropy at every inference.

Both weigh the classes by their inverse frequency. Features are standardised on the training episodes, which the paper
does not say; each episode's loss is divided by its number of inferences, so that long failures do not outweigh short
successes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from failwise.detect.base import positive, share, whole
from failwise.detect.network import NetworkDetector
from failwise.detect.trace import Moment, Trace


class _Safe(NetworkDetector[nn.Module]):
    """What both share: padded batches, class weights, AdamW."""

    needs_failures = True

    def __init__(
        self, hidden: int = 256, layers: int = 1, epochs: int = 300, learning_rate: float = 3e-4, decay: float = 1e-2,
        batch: int = 64, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in (("hidden", hidden), ("layers", layers), ("epochs", epochs), ("batch", batch)):
            whole(name, value)
        positive("learning_rate", learning_rate)
        share("dropout", dropout)
        if decay:
            positive("decay", decay)
        self.hidden, self.layers, self.epochs = hidden, layers, epochs
        self.learning_rate, self.decay, self.batch, self.dropout = learning_rate, decay, batch, dropout

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("hidden", "layers", "epochs", "learning_rate", "decay", "batch", "dropout")
        return {name: getattr(self, name) for name in names}

    @abstractmethod
    def _losses(self, network: nn.Module, x_BCD: Tensor, real_BC: Tensor, y_B: Tensor) -> Tensor:
        """One loss an episode, (B,)."""

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        self.scaler.fit(np.concatenate([t.features for t in traces]))
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._build(self.features)
            x_MCD, real_MC = padded([self.scaler(t.features) for t in traces])
            y_M = torch.tensor([float(t.failed) for t in traces])
            share = y_M.mean()
            weight_M = torch.where(y_M > 0, 0.5 / share, 0.5 / (1 - share))
            optimiser = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.decay)
            steps = self.epochs * -(-len(traces) // self.batch)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            network.train()
            for _ in range(self.epochs):
                for rows in torch.split(torch.randperm(len(traces), generator=generator), self.batch):
                    loss = (self._losses(network, x_MCD[rows], real_MC[rows], y_M[rows]) * weight_M[rows]).mean()
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                    optimiser.step()
                    schedule.step()
        self.network = network.eval()


class SafeMLP(_Safe):
    """``s_t = sum_{tau <= t} sigmoid(g(e_tau))``: it never falls, and its scale grows with time."""

    name = "safe-mlp"

    def _build(self, width: int) -> nn.Module:
        parts: list[nn.Module] = []
        for _ in range(self.layers):
            parts += [nn.Linear(width, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)]
            width = self.hidden
        return nn.Sequential(*parts, nn.Linear(width, 1))

    def _losses(self, network: nn.Module, x_BCD: Tensor, real_BC: Tensor, y_B: Tensor) -> Tensor:
        score_BC = (torch.sigmoid(network(x_BCD)[..., 0]) * real_BC).cumsum(1)
        time_C = torch.arange(1, x_BCD.shape[1] + 1, dtype=score_BC.dtype)
        wrong_BC = torch.where(y_B[:, None] > 0, time_C - score_BC, score_BC)
        return (wrong_BC * real_BC).sum(1) / real_BC.sum(1)

    def _begin(self) -> None:
        self._sum = 0.0

    def _score(self, moment: Moment) -> float:
        assert self.network is not None, "fit or load it first"
        assert moment.features is not None
        with torch.inference_mode():
            one = self.network(torch.from_numpy(self.scaler(moment.features)))
        self._sum += float(torch.sigmoid(one))
        return self._sum

    def _sequence(self, features_CD: NDArray[np.float32], asked_C: NDArray[np.int64]) -> NDArray[np.float64]:
        assert self.network is not None, "fit or load it first"
        with torch.inference_mode():
            each_C = torch.sigmoid(self.network(torch.from_numpy(self.scaler(features_CD)))[:, 0])
        return each_C.double().cumsum(0).numpy()


Cells = list[tuple[Tensor, Tensor]]  # hidden and cell state (1, hidden) of each layer


class _Recurrent(nn.Module):
    def __init__(self, width: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.inp = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x_BCD: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Any]:
        """Logits (B, C) and the state after the last inference."""
        hidden, state = self.lstm(self.dropout(self.inp(x_BCD)), state)
        return self.out(hidden)[..., 0], state

    def step(self, x_1D: Tensor, state: Cells | None) -> tuple[Tensor, Cells]:
        """Logit (1,) of one further inference, and the state: the cells alone are faster than the module."""
        hidden = self.inp(x_1D)
        size = (1, self.lstm.hidden_size)
        state = state or [(hidden.new_zeros(size), hidden.new_zeros(size)) for _ in range(self.lstm.num_layers)]
        after = []
        for before, weights in zip(state, self.lstm.all_weights, strict=True):
            hidden, cell = torch.lstm_cell(hidden, before, *weights)
            after.append((hidden, cell))
        return self.out(hidden)[:, 0], after


class SafeLSTM(_Safe):
    """``s_t = sigmoid(LSTM(e_1 .. e_t))``, in [0, 1]."""

    name = "safe-lstm"

    def _build(self, width: int) -> nn.Module:
        return _Recurrent(width, self.hidden, self.layers, self.dropout)

    def _losses(self, network: nn.Module, x_BCD: Tensor, real_BC: Tensor, y_B: Tensor) -> Tensor:
        logits_BC, _ = network(x_BCD)
        wrong_BC = F.binary_cross_entropy_with_logits(logits_BC, y_B[:, None].expand_as(logits_BC), reduction="none")
        return (wrong_BC * real_BC).sum(1) / real_BC.sum(1)

    def _begin(self) -> None:
        self._state: Any = None

    def _score(self, moment: Moment) -> float:
        assert self.network is not None, "fit or load it first"
        assert moment.features is not None
        with torch.inference_mode():
            x = torch.from_numpy(self.scaler(moment.features))[None]
            logit, self._state = cast(_Recurrent, self.network).step(x, self._state)
        return float(torch.sigmoid(logit))

    def _sequence(self, features_CD: NDArray[np.float32], asked_C: NDArray[np.int64]) -> NDArray[np.float64]:
        assert self.network is not None, "fit or load it first"
        with torch.inference_mode():
            logits_BC, _ = self.network(torch.from_numpy(self.scaler(features_CD))[None])
        return torch.sigmoid(logits_BC[0]).double().numpy()


def padded(sequences: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    """Sequences (C_i, D) as one tensor (M, C, D), zeros beyond each end, and (M, C), 1 where it is real."""
    longest = max(map(len, sequences))
    out = torch.zeros(len(sequences), longest, sequences[0].shape[1])
    real = torch.zeros(len(sequences), longest)
    for i, s in enumerate(sequences):
        out[i, : len(s)] = torch.from_numpy(s)
        real[i, : len(s)] = 1.0
    return out, real
