"""What all detectors share: held scores between inferences, refusal of unfit episodes, and one way onto disk."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from failwise.detect.trace import Moment, Trace, checkpoint
from failwise.errors import CheckpointError, DataError, SetupError

FORMAT = "failwise-detector-1"
Arrays = dict[str, NDArray[Any]]


class Detector(ABC):
    """A causal score of failure: higher means likelier to fail.

    ``fit`` once, then for every episode ``reset`` and ``update`` at each step. ``update`` scores anew at the steps at
    which the policy was asked and holds the score in between, unless a detector says otherwise.

    Attributes:
        name: as in the registry. needs_failures: whether ``fit`` learns from failures too.
        needs_samples: whether it reads several sampled chunks an inference.
        uses_demonstrations: whether it learns from what the policy was trained on, too.
        features, pooling: width and kind of the features that it was fitted on. samples: chunks an inference, 0 where
            it reads none. checkpoint: SHA-256 of the policy's weights.
    """

    name: ClassVar[str]
    needs_failures: bool = False
    needs_samples: bool = False
    uses_demonstrations: bool = False

    def __init__(self) -> None:
        self.features = 0
        self.pooling = ""
        self.samples = 0
        self.checkpoint = ""
        self.demonstrations: Sequence[Trace] = ()
        self._held = 0.0

    def fit(self, traces: Sequence[Trace], *, seed: int = 0, demonstrations: Sequence[Trace] = ()) -> Self:
        """Learn from recorded episodes.

        Args:
            traces: the policy's own episodes.
            seed: of everything random.
            demonstrations: what the policy was trained on, with the same kind of features; only for detectors that use
                them (``failwise.learn.demonstrations``).

        Raises:
            DataError: no successes; no failures, for a detector that learns from them; no sampled chunks, for one that
                reads them; or features that are not finite.
        """
        self.check(traces, demonstrations)
        self.features = traces[0].features.shape[1]
        self.pooling = traces[0].pooling
        drawn = traces[0].samples
        self.samples = drawn.shape[1] if self.needs_samples and drawn is not None else 0
        self.checkpoint = checkpoint(traces[0].meta)
        self.demonstrations = demonstrations if self.uses_demonstrations else ()
        self._fit(traces, seed)
        self.demonstrations = ()
        return self

    def check(self, traces: Sequence[Trace], demonstrations: Sequence[Trace] = ()) -> None:
        """Refuse episodes that it cannot be fitted on; ``fit`` asks first, and so can who has long work before that.

        Raises:
            DataError: as ``fit``.
        """
        failed = sum(t.failed for t in traces)
        if failed == len(traces):
            raise DataError(f"detector {self.name!r}: no successes among {len(traces)} episodes to fit on")
        if self.needs_failures and not failed:
            raise DataError(
                f"detector {self.name!r} learns from failures, and there are none among {len(traces)} episodes; "
                "collect more, or use one that learns from successes only (knn-cosine, mahalanobis, logpzo, ...)"
            )
        for t in traces:
            if self.needs_samples and t.samples is None:
                raise DataError(
                    f"detector {self.name!r} compares several sampled chunks, and {t.meta.episode_id} has none; "
                    "record them with: failwise collect --samples 8"
                )
            if not (np.isfinite(t.features).all() and np.isfinite(t.actions).all()):
                raise DataError(f"{t.meta.episode_id}: features or actions that are not finite")
            if self.needs_samples and not np.isfinite(np.asarray(t.samples)).all():
                raise DataError(f"{t.meta.episode_id}: sampled chunks that are not finite")
        if self.uses_demonstrations:
            self._check_demonstrations(traces, demonstrations)

    def _check_demonstrations(self, traces: Sequence[Trace], demonstrations: Sequence[Trace]) -> None:
        pooling, width = traces[0].pooling, traces[0].features.shape[1]
        for t in demonstrations:
            if t.pooling != pooling or t.features.shape[1] != width:
                raise DataError(
                    f"detector {self.name!r} reads {pooling} of width {width}, the demonstration "
                    f"{t.meta.episode_id} has {t.pooling} of width {t.features.shape[1]}"
                )
            if t.failed or not np.isfinite(t.features).all():
                raise DataError(f"demonstration {t.meta.episode_id} failed, or has features that are not finite")

    def reset(self) -> None:
        """Start an episode."""
        self._held = 0.0
        self._begin()

    def update(self, moment: Moment) -> float:
        """The score after this step's observation.

        Raises:
            DataError: features of another width than it was fitted on, or anything that is not finite: the action,
                features, sampled chunks, or the score.
        """
        # Before any arithmetic: comparisons with NaN are false, so that it would pass for a harmless number.
        for name, value in (("action", moment.action), ("features", moment.features), ("samples", moment.samples)):
            if value is not None and not np.isfinite(value).all():
                raise DataError(f"detector {self.name!r}: {name} that are not finite at step {moment.step}")
        score = self._advance(moment)
        if not np.isfinite(score):
            raise DataError(f"detector {self.name!r} gave {score} at step {moment.step}")
        return score

    def _advance(self, moment: Moment) -> float:
        """The score after this step: a new one where the policy was asked, else the last one."""
        if moment.features is not None:
            if moment.features.shape != (self.features,):
                raise DataError(
                    f"detector {self.name!r} was fitted on features of width {self.features}, got "
                    f"{moment.features.shape}: it belongs to another policy"
                )
            if self.needs_samples and moment.samples is None:
                raise DataError(f"detector {self.name!r} needs several sampled chunks, step {moment.step} has none")
            self._held = self._score(moment)
        return self._held

    @abstractmethod
    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        """Learn."""

    @abstractmethod
    def _score(self, moment: Moment) -> float:
        """The score at an inference."""

    def _begin(self) -> None:  # noqa: B027 - a detector without memory has nothing to forget
        """Forget the last episode."""

    def _sequence(self, features_CD: NDArray[np.float32], asked_C: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """The scores (C,) of a whole episode's inferences at once, None where a detector can only go step by step."""
        return None

    @abstractmethod
    def _arrays(self) -> Arrays:
        """Everything learned, by name."""

    @abstractmethod
    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Inverse of ``_arrays``."""

    def options(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return {}

    def save(self, folder: Path) -> None:
        """Write detector.json and detector.safetensors."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: np.ascontiguousarray(v) for k, v in self._arrays().items()}, folder / "detector.safetensors")
        about = {
            "format": FORMAT,
            "detector": self.name,
            "options": self.options(),
            "features": self.features,
            "pooling": self.pooling,
            "samples": self.samples,
            "checkpoint_sha256": self.checkpoint,
        }
        (folder / "detector.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def load_from(self, folder: Path, about: Mapping[str, Any]) -> Self:
        """Take over what ``save`` wrote.

        Raises:
            CheckpointError: damaged or incomplete.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            self._restore(load_file(folder / "detector.safetensors"))
            self.checkpoint, self.pooling = str(about["checkpoint_sha256"]), str(about["pooling"])
            self.adopt(int(about["features"]), int(about["samples"]))
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder} holds no usable detector ({str(error).splitlines()[0]})") from error
        return self

    def adopt(self, features: int, samples: int) -> None:
        """Take over the widths that it was fitted on, and begin anew; those that stand on others pass them on."""
        self.features, self.samples = features, samples
        self._begin()


def score_trace(detector: Detector, trace: Trace) -> NDArray[np.float64]:
    """The detector's score after each step, float64 (T,)."""
    detector.reset()
    return np.array([detector.update(moment) for moment in trace.moments()])


def score_recorded(detector: Detector, trace: Trace) -> NDArray[np.float64]:
    """As ``score_trace`` up to rounding, and faster where the detector can score a whole episode at once."""
    at_C = detector._sequence(trace.features, trace.asked)
    if at_C is None:
        return score_trace(detector, trace)
    if not np.isfinite(at_C).all():
        raise DataError(f"detector {detector.name!r} gave a score that is not finite on {trace.meta.episode_id}")
    return np.repeat(at_C, np.diff([*trace.asked, len(trace)]))


def successful_features(traces: Sequence[Trace]) -> NDArray[np.float32]:
    """All features of the successes, (M, D)."""
    return np.concatenate([t.features for t in traces if not t.failed])


class Scaler:
    """Zero mean and unit variance a dimension, fitted on what it is given; constant dimensions stay at zero."""

    def __init__(self) -> None:
        self.mean = np.zeros(0, np.float32)
        self.std = np.ones(0, np.float32)

    def fit(self, x_MD: NDArray[np.float32]) -> Scaler:
        """Fit."""
        self.mean = x_MD.mean(0).astype(np.float32)
        std = x_MD.std(0)
        self.std = np.where(std > 1e-6, std, 1.0).astype(np.float32)
        return self

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale (..., D)."""
        out: NDArray[np.float32] = ((x - self.mean) / self.std).astype(np.float32)
        return out

    def arrays(self) -> Arrays:
        """For ``_arrays``."""
        return {"scaler.mean": self.mean, "scaler.std": self.std}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Inverse of ``arrays``."""
        self.mean, self.std = np.asarray(arrays["scaler.mean"]), np.asarray(arrays["scaler.std"])


def positive(name: str, value: float) -> None:
    """Refuse an option that must be a positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise SetupError(f"{name} must be a positive number, not {value!r}")


def whole(name: str, value: float) -> None:
    """Refuse an option that must be a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SetupError(f"{name} must be a positive whole number, not {value!r}")


def share(name: str, value: float) -> None:
    """Refuse an option that must lie in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise SetupError(f"{name} must lie in [0, 1), not {value!r}")
