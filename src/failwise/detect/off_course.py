"""How far an episode has strayed from the ways on which its task succeeds, and how late it is on them.

Ours. Known ways are those of the demonstrations that the policy was trained on, so they are known for tasks of which no
own episode was ever recorded; where there are none, those of the own successes. Each of their samples x has a distance
``own(x)`` to the nearest sample of another episode, which is how widely the ways of its task lie there, and the
remaining time ``left(x)`` to success. With features e_t at inference t, step s_t, and n its nearest sample::

    excess_t = max(0, ||e_t - n|| - own(n)) / mean own        left_t = mean of left over the k nearest samples
    delay_t  = left_t + s_t - left_1                          steps later than it looked at the start
    score_t  = sum_{tau <= t} excess_tau + late * delay_t

Distances alone say first of all how unlike a task is to the others; ``own`` takes that out. A failure's features
often stay near the ways but no longer move along them: there the distance is blind and the delay sees it.

With ``failures`` above 0 the own episodes that it was fitted on speak as well: ``failures`` times the mean over time of
``sum_j w_j (y_j - share of failures) / (sum_j w_j + 2)`` over the 20 nearest own samples j, with normal weights of
their distance. Far from all of them, as on tasks that they do not hold, nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.detect.base import Arrays, Detector, Scaler, positive
from failwise.detect.trace import Moment, Trace
from failwise.errors import SetupError

BLOCK = 1024  # rows of a distance matrix at once


class OffCourse(Detector):
    """Strays from the ways of demonstrations, and comes late on them.

    Args:
        late: weight of a step of delay, in units of the mean distance between neighbouring demonstrations.
        k: nearest samples that tell the remaining time.
        failures: weight of what own episodes of the same kind came to; 0 reads no failure.
        limit: most samples to keep of the ways, drawn at random.
    """

    name = "off-course"
    uses_demonstrations = True

    def __init__(self, late: float = 0.05, k: int = 15, failures: float = 0.0, limit: int = 8000) -> None:
        super().__init__()
        positive("k", k)
        positive("limit", limit)
        if late < 0 or failures < 0:
            raise SetupError(f"late and failures are weights and cannot be negative, not {late} and {failures}")
        self.late, self.k, self.failures, self.limit = late, k, failures, limit
        self.needs_failures = failures > 0
        self.scaler = Scaler()
        self.ways = _Samples(np.zeros((0, 0), np.float32))
        self.tried = _Samples(np.zeros((0, 0), np.float32))
        self.own, self.left, self.unit = np.zeros(0, np.float32), np.zeros(0, np.float32), 1.0
        self.failed, self.width, self.rate = np.zeros(0, np.float32), 1.0, 0.0
        self._begin()

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"late": self.late, "k": self.k, "failures": self.failures, "limit": self.limit}

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        demonstrations = self.demonstrations or [t for t in traces if not t.failed]
        features = np.concatenate([t.features for t in demonstrations])
        episode = np.concatenate([np.full(len(t.features), i) for i, t in enumerate(demonstrations)])
        left = np.concatenate([_remaining(t) for t in demonstrations])
        if len(features) > self.limit:
            kept = np.sort(np.random.default_rng(seed).choice(len(features), self.limit, replace=False))
            features, episode, left = features[kept], episode[kept], left[kept]
        self.ways, self.left = _Samples(self.scaler.fit(features)(features)), left
        self.own = self.ways.nearest_of_others(episode)
        self.unit = max(float(self.own.mean()), 1e-6)
        if self.failures:
            self.tried = _Samples(self.scaler(np.concatenate([t.features for t in traces])))
            self.failed = np.concatenate([np.full(len(t.features), t.failed, np.float32) for t in traces])
            self.rate = float(self.failed.mean())
            some = np.random.default_rng(seed).permutation(len(self.tried.x))[:2000]
            self.width = max(float(np.median([self.ways.nearest(self.tried.x[i], 5)[0].max() for i in some])), 1e-6)
        self._begin()

    def _begin(self) -> None:
        self._excess, self._failing, self._asked = 0.0, 0.0, 0
        self._first: float | None = None

    def _score(self, moment: Moment) -> float:
        assert moment.features is not None
        x = self.scaler(moment.features)
        distance_K, row_K = self.ways.nearest(x, self.k)
        one = int(distance_K.argmin())
        self._excess += max(0.0, float(distance_K[one] - self.own[row_K[one]])) / self.unit
        left = float(self.left[row_K].mean())
        self._first = left if self._first is None else self._first
        score = self._excess + self.late * (left + moment.step - self._first)
        if self.failures:
            distance_K, row_K = self.tried.nearest(x, 20)
            weight_K = np.exp(-0.5 * (distance_K / self.width) ** 2)
            self._failing += float((weight_K * (self.failed[row_K] - self.rate)).sum() / (weight_K.sum() + 2.0))
            self._asked += 1
            score += self.failures * self._failing / self._asked
        return score

    def _arrays(self) -> Arrays:
        numbers = np.array([self.unit, self.width, self.rate])
        known = {"ways": self.ways.x, "own": self.own, "left": self.left, "tried": self.tried.x, "failed": self.failed}
        return {**known, "numbers": numbers, **self.scaler.arrays()}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.scaler.restore(arrays)
        self.ways, self.tried = _Samples(np.asarray(arrays["ways"])), _Samples(np.asarray(arrays["tried"]))
        self.own, self.left, self.failed = (np.asarray(arrays[name]) for name in ("own", "left", "failed"))
        self.unit, self.width, self.rate = map(float, arrays["numbers"])


class _Samples:
    """Samples x (M, D) that are asked for those nearest to a point."""

    def __init__(self, x_MD: NDArray[np.float32]) -> None:
        self.x = x_MD
        self._squares_M = np.asarray((x_MD**2).sum(1), np.float32)

    def nearest(self, x_D: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Distances (K,) and rows (K,) of the k nearest, in no order."""
        squared_M = self._squares_M - 2.0 * (self.x @ x_D)
        k = min(k, len(squared_M))
        row_K = np.argpartition(squared_M, k - 1)[:k]
        # Again by differences: the product's rounding is not small beside the distance of a sample to itself.
        return np.linalg.norm(self.x[row_K] - x_D, axis=1), row_K

    def nearest_of_others(self, episode_M: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of every sample, the distance to the nearest one of another episode, (M,); of a lone episode, zeros."""
        out = np.zeros(len(self.x), np.float32)
        for start in range(0, len(self.x), BLOCK):
            rows = slice(start, start + BLOCK)
            squared = self._squares_M[None] - 2.0 * (self.x[rows] @ self.x.T) + self._squares_M[rows, None]
            squared[episode_M[rows, None] == episode_M[None]] = np.inf
            out[rows] = np.sqrt(np.maximum(squared.min(1), 0.0))
        out[~np.isfinite(out)] = 0.0
        return out


def _remaining(trace: Trace) -> NDArray[np.float32]:
    """Steps from each inference to the first success, float32 (C,)."""
    end = trace.meta.first_success_step
    return np.maximum((len(trace) - 1 if end is None else end) - trace.asked, 0).astype(np.float32)
