"""A small recovery actor: recurrent networks over an episode's frames, as features of a policy's own backbone.

It answers what FailSafe's model answers (arXiv 2510.01642): the sub-task, whether it is failing, how, and the
corrective move. The backbone is a compact VLA's, frozen: it has seen these pictures, this robot and this language.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from failwise.detect.base import Scaler
from failwise.errors import CheckpointError, EpisodeError
from failwise.policies.pooling import Pooling
from failwise.policies.sharing import shared_policy
from failwise.recover.advice import Advice
from failwise.types import Observation

FORMAT = "failwise-recovery-3"
FEATURES = "prefix-mean+prefix-max+prefix-first"
NONE = ("", "")  # mode and axis of what does not fail
DELTA = 7


class Answers(NamedTuple):
    """Logits of failing (...,), of sub-tasks (..., S) and of mode and axis (..., M), and the scaled move (..., 7)."""

    failing: Tensor
    stage: Tensor
    kind: Tensor
    delta: Tensor


class Recurrent(nn.Module):
    """Frames of an episode so far to the answers about each of them.

    Args:
        features: D. stages: S. kinds: M, pairs of mode and axis.
        width: of the recurrent state.
    """

    def __init__(self, features: int, stages: int, kinds: int, width: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Dropout(dropout))
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.failing, self.stage = nn.Linear(width, 1), nn.Linear(width, stages)
        self.kind, self.delta = (
            nn.Linear(width, kinds),
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, DELTA)),
        )

    def forward(self, frames_BTD: Tensor, state: Tensor | None = None) -> tuple[Answers, Tensor]:
        """Answers (B, T, ...), and the state (1, B, width) with which the next frames go on."""
        states_BTC, state = self.recurrent(self.reduce(frames_BTD), state)
        at_BTC = self.drop(states_BTC)
        answers = Answers(self.failing(at_BTC)[..., 0], self.stage(at_BTC), self.kind(at_BTC), self.delta(at_BTC))
        return answers, state


class Ensemble(nn.Module):
    """Networks that learned the same apart, each from its own first weights and batches, and answer together.

    They know the failures that they learned from by heart and differ on others; there their mean is nearer to the
    truth than each (arXiv 1612.01474). It has the mean logit of failing, the mean probabilities of sub-tasks and of
    kinds (their logarithm), and the mean move.

    Args:
        members: at least one.
    """

    def __init__(self, members: Sequence[Recurrent]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, frames_BTD: Tensor, states: Sequence[Tensor] | None = None) -> tuple[Answers, list[Tensor]]:
        """Answers (B, T, ...), and a state of each member with which the next frames go on."""
        told = [member(frames_BTD, states[i] if states else None) for i, member in enumerate(self.members)]
        each = zip(*(answers for answers, _ in told), strict=True)
        failing, stage, kind, delta = (torch.stack(of_members) for of_members in each)
        answers = Answers(failing.mean(0), _mean_of(stage), _mean_of(kind), delta.mean(0))
        return answers, [state for _, state in told]


def _mean_of(logits_E: Tensor) -> Tensor:
    """The logarithm of the mean of the probabilities that several logits (E, ..., C) stand for."""
    return torch.logsumexp(torch.log_softmax(logits_E, -1), 0) - math.log(len(logits_E))


class CompactAdvisor:
    """Watches an episode's frames and advises.

    Args:
        policy: a compact VLA, whose backbone gives the features.
        stages: names of the sub-tasks. kinds: pairs of mode and axis, first ``NONE``.
        stride: steps between frames.
        scaler: of a frame's features (D,), with the proprioception at their end.
        delta_scale: (7,), by which moves were divided for training; 0 for what never moved.
        network: without it, one that has learned nothing. notes: figures of its training.
    """

    def __init__(
        self, policy: Any, stages: Sequence[str], kinds: Sequence[tuple[str, str]], stride: int, scaler: Scaler,
        delta_scale: NDArray[np.float32], network: Ensemble | None = None, notes: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.policy, self.stages, self.kinds = policy, tuple(stages), tuple((str(m), str(a)) for m, a in kinds)
        self.stride, self.scaler, self.delta_scale = stride, scaler, delta_scale
        self.network = network or Ensemble([Recurrent(len(scaler.mean), len(self.stages), len(self.kinds))])
        self.network.eval()
        self.notes = notes or {}
        self.begin()

    def begin(self) -> None:
        """Forget the episode before."""
        self._states: list[Tensor] | None = None
        self._last: Answers | None = None

    @torch.inference_mode()
    def see(self, observation: Observation) -> None:
        """One frame; its pictures render now."""
        frame_1D = self.scaler(frame_features(self.policy, [observation])).astype(np.float32)
        told, self._states = self.network(torch.from_numpy(frame_1D)[None], self._states)
        self._last = Answers(*(answer[0, -1] for answer in told))

    @torch.inference_mode()
    def answers(self, frames_TD: NDArray[np.float32]) -> Answers:
        """What it would say at each of an episode's frames, of which ``frame_features`` are given."""
        told, _ = self.network(torch.from_numpy(self.scaler(frames_TD).astype(np.float32))[None])
        return Answers(*(answer[0] for answer in told))

    def advise(self) -> Advice:
        """The word on the frames seen so far.

        Raises:
            EpisodeError: none was seen.
        """
        if self._last is None:
            raise EpisodeError("a recovery actor was asked before it saw a frame")
        failing, stage, kind, delta = self._last
        kinds = torch.softmax(kind, 0).clone()
        if len(self.kinds) > 1:
            kinds[0] = -1.0  # how it fails, if it does: whether is another question
        best = int(kinds.argmax())
        mode, axis = self.kinds[best]
        return Advice(
            failing=float(torch.sigmoid(failing)),
            stage=self.stages[int(stage.argmax())],
            mode=mode,
            axis=axis,
            delta=tuple(float(x) for x in delta.numpy() * self.delta_scale),
            confidence=min(max(float(kinds[best]), 0.0), 1.0),
        )

    def save(self, folder: Path) -> None:
        """Write a folder: the policy, the networks as safetensors, the rest as JSON."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        self.policy.save(folder / "policy")
        arrays = {f"network.{k}": v.numpy() for k, v in self.network.state_dict().items()}
        save_file({**arrays, **self.scaler.arrays(), "delta_scale": self.delta_scale}, folder / "recovery.safetensors")
        about = {
            "format": FORMAT, "stages": self.stages, "kinds": self.kinds, "stride": self.stride,
            "members": len(self.network.members), "notes": self.notes,
        }  # fmt: skip
        (folder / "recovery.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder.

        Raises:
            CheckpointError: it is none of a recovery actor's.
        """
        from safetensors.numpy import load_file

        try:
            about = json.loads((folder / "recovery.json").read_text(encoding="utf-8"))
            if str(about["format"]).startswith(FORMAT[:-1]) and about["format"] != FORMAT:
                raise CheckpointError(
                    f"{folder} is a recovery actor of another version ({about['format']}, not {FORMAT}); train it anew"
                )
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']!r}, expected {FORMAT!r}")
            arrays = load_file(folder / "recovery.safetensors")
            scaler = Scaler()
            scaler.restore(arrays)
            kinds = [(mode, axis) for mode, axis in about["kinds"]]
            sizes = len(scaler.mean), len(about["stages"]), len(kinds)
            network = Ensemble([Recurrent(*sizes) for _ in range(int(about["members"]))])
            network.load_state_dict({k[8:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("network.")})
            delta_scale = arrays["delta_scale"]
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise CheckpointError(
                f"{folder} is not a recovery actor that 'failwise train recovery' wrote ({why})"
            ) from error
        policy = shared_policy(folder / "policy")
        return cls(
            policy,
            about["stages"],
            kinds,
            about["stride"],
            scaler,
            delta_scale,
            network,
            about["notes"],
        )


def frame_features(policy: Any, observations: Sequence[Observation]) -> NDArray[np.float32]:
    """Features (B, D) of some frames: the policy's prefix, pooled in three ways, and the proprioception."""
    context = policy.encode(observations)
    parts = Pooling.parse(FEATURES)(context, torch.zeros(len(observations), dtype=torch.long))
    states = np.stack([np.asarray(o.state, np.float32) for o in observations])
    return np.concatenate([*(part.numpy() for part in parts), states], 1)
