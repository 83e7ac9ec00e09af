"""What a detector may see of an episode, step by step, and recorded episodes in that form.

Axis letters: T environment steps, C inferences of the policy, D features, A action, H horizon, N sampled chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from failwise.errors import DataError
from failwise.policies.pooling import DEFAULT
from failwise.store import EpisodeStore
from failwise.types import Actor, EpisodeMeta, Outcome

KNOWN = ("injected", "labelled")  # where an onset comes from that was not guessed


@dataclass(frozen=True)
class Moment:
    """One environment step as a detector sees it: nothing of it lies in the future.

    Attributes:
        step: 0-based.
        action: float32 (A,), about to be executed, in the environment's units.
        features: float32 (D,) of the policy's backbone where it was asked at this step, else None.
        samples: float32 (N, H, A) chunks that the policy drew at this step, normalised, or None.
        info: the named scalars of that inference (guidance, head divergence, risk, ...).
    """

    step: int
    action: NDArray[np.float32]
    features: NDArray[np.float32] | None = None
    samples: NDArray[np.float32] | None = None
    info: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """An episode's arrays for detectors.

    Attributes:
        meta: what the episode was and how it ended.
        actions: float32 (T, A).
        asked: int64 (C,), the steps at which the policy was asked, ascending, the first one 0.
        features: float32 (C, D).
        samples: float32 (C, N, H, A), or None where none were recorded.
        info: scalar name -> float32 (C,), NaN where an inference did not report it.
        pooling: which features these are, as ``failwise.policies.pooling`` names them.
    """

    meta: EpisodeMeta
    actions: NDArray[np.float32]
    asked: NDArray[np.int64]
    features: NDArray[np.float32]
    samples: NDArray[np.float32] | None = None
    info: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    pooling: str = DEFAULT

    @property
    def failed(self) -> bool:
        """Whether the episode did not succeed."""
        return self.meta.outcome != Outcome.SUCCESS

    @property
    def widths(self) -> list[int]:
        """How many of the D features belong to each part of the pooling; one number where that was not recorded."""
        recorded, widths = (
            str(self.meta.extra.get("features", "")).split("+"),
            self.meta.extra.get("feature_widths", []),
        )
        mine = self.pooling.split("+")
        if len(widths) != len(recorded) or not set(mine) <= set(recorded):
            return [self.features.shape[1]]
        return [int(widths[recorded.index(part)]) for part in mine]

    def __len__(self) -> int:
        return len(self.actions)

    def moments(self) -> Iterator[Moment]:
        """The steps, in order."""
        row = 0
        for step, action in enumerate(self.actions):
            if row < len(self.asked) and self.asked[row] == step:
                scalars = {k: float(v[row]) for k, v in self.info.items() if not np.isnan(v[row])}
                drawn = None if self.samples is None else self.samples[row]
                yield Moment(step, action, self.features[row], drawn, scalars)
                row += 1
            else:
                yield Moment(step, action)

    def until(self, n_steps: int) -> Trace:
        """The first steps only; what the episode was and how it ended stays."""
        keep = self.asked < n_steps
        return Trace(
            self.meta,
            self.actions[:n_steps],
            self.asked[keep],
            self.features[keep],
            None if self.samples is None else self.samples[keep],
            {k: v[keep] for k, v in self.info.items()},
            self.pooling,
        )

    def only(self, pooling: str) -> Trace:
        """With some of the recorded features.

        Args:
            pooling: one or several of the parts that were recorded, joined by "+".

        Raises:
            DataError: a part was not recorded.
        """
        recorded, widths = self.pooling.split("+"), self.meta.extra.get("feature_widths", [])
        if pooling == self.pooling:
            return self
        ends = np.cumsum(widths).tolist()
        columns: list[int] = []
        for part in pooling.split("+"):
            if part not in recorded or len(widths) != len(recorded):
                raise DataError(f"{self.meta.episode_id} has features {self.pooling!r}, not {part!r}; collect again")
            end = ends[recorded.index(part)]
            columns += range(end - widths[recorded.index(part)], end)
        return replace(self, features=self.features[:, columns], pooling=pooling)


def load_traces(
    stores: Path | Sequence[Path], keep: Callable[[EpisodeMeta], bool] | None = None, features: str = ""
) -> list[Trace]:
    """Recorded episodes with a verdict of their own (success, failure or timeout). Opens no picture.

    Args:
        stores: folders of episodes.
        keep: which of them; default all.
        features: use only these of the recorded features, for example "expert-mean"; default all.

    Raises:
        DataError: no episode is left, one has no features, or their widths or checkpoints differ.
    """
    traces = []
    for path in [stores] if isinstance(stores, Path) else list(stores):
        if not path.is_dir():
            raise DataError(f"no episode store at {path}; make one with: failwise collect")
        store = EpisodeStore(path, create=False)
        for meta in store.metas():
            if meta.has_verdict and meta.n_steps and (keep is None or keep(meta)):
                one = _read(store, meta)
                if one is not None:
                    traces.append(one.only(features) if features else one)
    if not traces:
        raise DataError(f"no finished episode in {stores}; a detector needs recorded successes and failures")
    first = traces[0]
    for t in traces:
        if t.pooling != first.pooling:
            raise DataError(
                f"{t.meta.episode_id} has features {t.pooling!r}, {first.meta.episode_id} has {first.pooling!r}; "
                "use one kind"
            )
        if t.features.shape[1] != first.features.shape[1]:
            raise DataError(
                f"{t.meta.episode_id} has features of width {t.features.shape[1]}, {first.meta.episode_id} of "
                f"{first.features.shape[1]}: they come from different policies; use episodes of one"
            )
        if (mine := checkpoint(t.meta)) != (theirs := checkpoint(first.meta)):
            raise DataError(
                f"{t.meta.episode_id} is of checkpoint {mine[:12] or '?'}, {first.meta.episode_id} of "
                f"{theirs[:12] or '?'}: a detector reads one policy's features; use episodes of one"
            )
    return traces


def checkpoint(meta: EpisodeMeta) -> str:
    """SHA-256 of the weights that acted, "" where it was not recorded."""
    return meta.provenance.checkpoint_sha256


def _read(store: EpisodeStore, meta: EpisodeMeta) -> Trace | None:
    """The episode, or None where somebody else than the policy acted too: its end tells nothing of the policy's."""
    episode = store.read(meta.episode_id)
    if (episode.actors() != Actor.POLICY).any():
        return None
    asked, features = episode.features()
    if len(asked) == 0 or asked[0] != 0:
        raise DataError(f"{meta.episode_id} has no policy features from step 0 on; record it with: failwise collect")
    starts, info = episode.chunk_starts(), episode.info()
    rows = np.searchsorted(starts, asked)
    scalars = {k: v[rows] for k, v in info.items()}
    pooling = str(meta.extra.get("features", DEFAULT))
    return Trace(meta, episode.actions(), asked, features, episode.samples(), scalars, pooling)


def known_onset(meta: EpisodeMeta) -> int | None:
    """The first step of an injected or labelled failure."""
    return min((e.onset_step for e in meta.failure_events if e.source in KNOWN), default=None)
