"""Cheap and strong: what the executed actions alone tell, at every step. And the baseline that every score must beat.

None of these reads features or learns weights; ``fit`` only learns which dims move and their scale on successes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.detect.base import Arrays, Detector, whole
from failwise.detect.trace import Moment, Trace


class _Motion(Detector):
    """Scores a sliding window of actions, divided by their standard deviation on successes.

    Args:
        window: steps that count.
    """

    def __init__(self, window: int = 40) -> None:
        super().__init__()
        whole("window", window)
        self.window = window
        self.scale = np.ones(0)
        self._begin()

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"window": self.window}

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        std = np.concatenate([t.actions for t in traces if not t.failed]).std(0)
        self.scale = np.where(std > 1e-6, std, 1.0).astype(np.float64)

    def _begin(self) -> None:
        self._recent: deque[NDArray[np.float64]] = deque(maxlen=self.window)

    def _advance(self, moment: Moment) -> float:
        self._recent.append(np.asarray(moment.action, np.float64) / self.scale)
        return self._score(moment)

    def _score(self, moment: Moment) -> float:
        return self._of(np.stack(self._recent))

    @abstractmethod
    def _of(self, actions_WA: NDArray[np.float64]) -> float:
        """The score of a window of scaled actions (W, A), oldest first."""

    def _arrays(self) -> Arrays:
        return {"scale": self.scale}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.scale = np.asarray(arrays["scale"])


class Reversals(_Motion):
    """Share of successive action pairs in the window that point against each other: ``a_t . a_{t-1} < 0``."""

    name = "reversals"

    def _of(self, actions_WA: NDArray[np.float64]) -> float:
        if len(actions_WA) < 2:
            return 0.0
        return float(((actions_WA[1:] * actions_WA[:-1]).sum(1) < 0).mean())


class Jerk(_Motion):
    """Mean of ``||a_t - 2 a_{t-1} + a_{t-2}||`` over the window: with velocity actions, the jerk."""

    name = "jerk"

    def _of(self, actions_WA: NDArray[np.float64]) -> float:
        if len(actions_WA) < 3:
            return 0.0
        return float(np.linalg.norm(actions_WA[2:] - 2 * actions_WA[1:-1] + actions_WA[:-2], axis=1).mean())


class Speed(_Motion):
    """Mean of ``||a_t||`` over the window."""

    name = "speed"

    def _of(self, actions_WA: NDArray[np.float64]) -> float:
        return float(np.linalg.norm(actions_WA, axis=1).mean())


class Stillness(_Motion):
    """``-mean ||a_t||`` over the window: a policy that is stuck hardly moves."""

    name = "stillness"

    def _of(self, actions_WA: NDArray[np.float64]) -> float:
        return -float(np.linalg.norm(actions_WA, axis=1).mean())


class Length(Detector):
    """The number of steps so far, nothing else: the baseline. Failures last longer, so it knows a lot by final end."""

    name = "length"

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        pass

    def _advance(self, moment: Moment) -> float:
        return self._score(moment)

    def _score(self, moment: Moment) -> float:
        return float(moment.step + 1)

    def _arrays(self) -> Arrays:
        return {"none": np.zeros(1)}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        pass
