"""Policies of LeRobot without a denoising to steer (ACT, VQ-BeT, and any other): they act, and detectors read them."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from failwise.types import ActionChunk, Observation, PolicySpec

if TYPE_CHECKING:
    from failwise.policies.lerobot.batch import Inputs

# Where the features for detectors are read: what comes out of the backbone before the actions are made of it.
BACKBONES = {"act": "model.encoder", "vqbet": "vqbet.policy"}


class _Acting:
    """What both share: the specification, the seed, the features."""

    def __init__(self, policy: Any, inputs: Inputs, horizon: int, history: int) -> None:
        self.policy, self.inputs = policy, inputs
        kind = str(policy.config.type)
        self.spec = PolicySpec(
            kind=f"lerobot:{kind}",
            horizon=horizon,
            execute=horizon,
            action_dim=inputs.action_dim,
            state_dim=inputs.state_dim,
            cameras=inputs.sizes,
            resizes_images=inputs.resizes,
            history=history,
        )
        name = BACKBONES.get(kind)
        self._backbone: nn.Module | None = policy.get_submodule(name) if name else None

    def reset(self, seed: int) -> None:
        """Begin an episode: forget the past, seed what it draws."""
        self.policy.reset()
        self.inputs.forget()
        torch.manual_seed(seed)

    @contextmanager
    def _watching(self) -> Iterator[list[Tensor]]:
        """Yields the list that the backbone's output is put into."""
        seen: list[Tensor] = []
        if self._backbone is None:
            yield seen
            return
        hook = self._backbone.register_forward_hook(
            lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            yield seen
        finally:
            hook.remove()

    def _features(self, seen: list[Tensor], rows: int, row: int) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        """Mean over the tokens of one row (D,), whichever of the first two axes holds the rows."""
        if not seen:
            return None
        out = seen[-1].float()
        if out.shape[0] != rows and out.ndim == 3:  # ACT has tokens first
            out = out.transpose(0, 1)
        return np.asarray(out[row].reshape(-1, out.shape[-1]).mean(0).cpu().numpy(), np.float32)


class ChunkPolicy(_Acting):
    """A policy that gives a chunk for one observation; ``n_action_steps`` of it are executed."""

    def __init__(self, policy: Any, inputs: Inputs) -> None:
        super().__init__(policy, inputs, horizon=inputs.execute, history=1)

    def twin(self) -> ChunkPolicy:
        """Another policy with the same weights, in the same memory: a chunk depends on one observation alone."""
        other = copy.copy(self)
        other.inputs = self.inputs.twin()
        return other

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation."""
        start = time.perf_counter()
        with torch.inference_mode(), self._watching() as seen:
            chunks = self.policy.predict_action_chunk(self.inputs.ready(observations))
        actions = self.inputs.units(chunks[:, : self.inputs.execute])
        took = time.perf_counter() - start
        rows = len(observations)
        return [ActionChunk(a, took, self._features(seen, rows, i)) for i, a in enumerate(actions)]


class StepPolicy(_Acting):
    """A policy that keeps its own queues: it is shown every step, and gives one action each."""

    def __init__(self, policy: Any, inputs: Inputs) -> None:
        super().__init__(policy, inputs, horizon=1, history=1)
        self._last: Any = None

    def reset(self, seed: int) -> None:
        """Begin an episode: forget the past, seed what it draws."""
        super().reset(seed)
        self._last = None

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One action per observation; several observations are one step of as many episodes at once."""
        start = time.perf_counter()
        rows = len(observations)
        with torch.inference_mode(), self._watching() as seen:
            action_BA = self.policy.select_action(self.inputs.ready(observations))
        actions = self.inputs.units(action_BA[:, None])
        took = time.perf_counter() - start
        if seen:  # between two of its chunks nothing is encoded: the last features still stand
            self._last = [self._features(seen, rows, i) for i in range(rows)]
        features = self._last or [None] * rows
        return [ActionChunk(a, took, f) for a, f in zip(actions, features, strict=True)]
