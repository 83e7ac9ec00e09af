"""How far an episode has strayed from the ways on which its task succeeds, and how late it is on them.

Ours. Known ways are those of the demonstrations that the policy was trained on, so they are known for tasks of which no
own episode was ever recorded; where there are none, those of the own successes. Each part of the features (what is
seen, what is about to be done, ...) is a view of its own. In a view, each sample x of the ways has a distance
``own(x)`` to the nearest sample of another episode, which is how widely the ways of its task lie there, and the
remaining time ``left(x)`` to success. With features e_t at inference t, step s_t, and n its nearest sample::

    excess_t = max(0, ||e_t - n|| - own(n)) / mean own        left_t = mean of left over the k nearest samples
    delay_t  = left_t + s_t - left_1                          steps later than it looked at the start
    score_t  = sum_{tau <= t} excess_tau + late * delay_t s_t / (s_t + left_t)

with excess, left and delay averaged over the views; the last factor is the share of the way that is done, as early
guesses of the time are poor. Distances alone say first of all how unlike a task is to the others; ``own`` takes that
out. A failure's features often stay near the ways but no longer move along them: there the distance is blind and
the delay sees it.

With ``failures`` above 0 the own episodes that it was fitted on speak as well: ``failures`` times the mean over time of
``sum_j w_j (y_j - share of failures) / (sum_j w_j + 2)`` over the 20 nearest own samples j, all views together, with
normal weights of their distance. Far from all of them, as on tasks that they do not hold, nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.detect.base import Arrays, Detector, Scaler, positive, whole
from failwise.detect.trace import Moment, Trace

BLOCK = 1024  # rows of a distance matrix at once
NEIGHBOURS = 20  # own samples that are asked how they ended


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

    def __init__(self, late: float = 0.1, k: int = 15, failures: float = 0.0, limit: int = 8000) -> None:
        super().__init__()
        whole("k", k)
        whole("limit", limit)
        for option, value in (("late", late), ("failures", failures)):
            if value:
                positive(option, value)
        self.late, self.k, self.failures, self.limit = late, k, failures, limit
        self.needs_failures = failures > 0
        self.scaler = Scaler()
        self.widths: list[int] = []
        self.ways: list[_Samples] = []
        self.own: list[NDArray[np.float32]] = []
        self.left = np.zeros(0, np.float32)
        self.tried, self.failed = _Samples(np.zeros((0, 0), np.float32)), np.zeros(0, np.float32)
        self.width, self.rate = 1.0, 0.0
        self._begin()

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"late": self.late, "k": self.k, "failures": self.failures, "limit": self.limit}

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        demonstrations = self.demonstrations or [t for t in traces if not t.failed]
        features = np.concatenate([t.features for t in demonstrations])
        episode = np.concatenate([np.full(len(t.features), i) for i, t in enumerate(demonstrations)])
        self.left = np.concatenate([_remaining(t) for t in demonstrations])
        if len(features) > self.limit:
            kept = np.sort(np.random.default_rng(seed).choice(len(features), self.limit, replace=False))
            features, episode, self.left = features[kept], episode[kept], self.left[kept]
        self.widths = traces[0].widths
        self.ways = [_Samples(x) for x in self._views(self.scaler.fit(features)(features))]
        self.own = [ways.nearest_of_others(episode) for ways in self.ways]
        if self.failures:
            self.tried = _Samples(self.scaler(np.concatenate([t.features for t in traces])))
            self.failed = np.concatenate([np.full(len(t.features), t.failed, np.float32) for t in traces])
            self.rate = float(self.failed.mean())
            together = _Samples(np.concatenate([ways.x for ways in self.ways], axis=1))
            some = np.random.default_rng(seed).permutation(len(self.tried.x))[:2000]
            self.width = max(
                float(np.median([distance_K.max() for distance_K, _ in together.nearest(self.tried.x[some], 5)])), 1e-6
            )
        self._measure()
        self._begin()

    def _measure(self) -> None:
        self._units = [max(float(own.mean()), 1e-6) for own in self.own]

    def _views(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Each part's columns of (..., D), contiguous: the rows of a slice lie too far apart to be read fast."""
        return [np.ascontiguousarray(part) for part in np.split(x, np.cumsum(self.widths)[:-1], axis=-1)]

    def _begin(self) -> None:
        self._excess, self._failing, self._asked = 0.0, 0.0, 0
        self._first: float | None = None

    def _score(self, moment: Moment) -> float:
        assert moment.features is not None
        return float(self._sequence_from(moment.features[None], np.array([moment.step]))[0])

    def _sequence(self, features_CD: NDArray[np.float32], asked_C: NDArray[np.int64]) -> NDArray[np.float64]:
        self._begin()
        return self._sequence_from(features_CD, asked_C)

    def _sequence_from(self, features_CD: NDArray[np.float32], asked_C: NDArray[np.int64]) -> NDArray[np.float64]:
        """The scores of further inferences, (C,)."""
        x_CD = self.scaler(features_CD)
        left_C, excess_C = np.zeros(len(x_CD)), np.zeros(len(x_CD))
        for view, ways, own, unit in zip(self._views(x_CD), self.ways, self.own, self._units, strict=True):
            for row, (distance_K, row_K) in enumerate(ways.nearest(view, self.k)):
                one = int(distance_K.argmin())
                excess_C[row] += max(0.0, float(distance_K[one] - own[row_K[one]])) / unit / len(self.ways)
                left_C[row] += float(self.left[row_K].mean()) / len(self.ways)
        tried = self.tried.nearest(x_CD, NEIGHBOURS) if self.failures else []
        out = np.zeros(len(x_CD))
        for row, (step, left) in enumerate(zip(asked_C.tolist(), left_C.tolist(), strict=True)):
            self._excess += float(excess_C[row])
            self._first = left if self._first is None else self._first
            done = step / (step + left) if step else 0.0
            out[row] = self._excess + self.late * done * (left + step - self._first)
            if self.failures:
                distance_K, row_K = tried[row]
                weight_K = np.exp(-0.5 * (distance_K / self.width) ** 2)
                self._failing += float((weight_K * (self.failed[row_K] - self.rate)).sum() / (weight_K.sum() + 2.0))
                self._asked += 1
                out[row] += self.failures * self._failing / self._asked
        return out

    def _arrays(self) -> Arrays:
        known = {"left": self.left, "tried": self.tried.x, "failed": self.failed, "widths": np.array(self.widths)}
        ways = {f"ways.{i}": ways.x for i, ways in enumerate(self.ways)}
        own = {f"own.{i}": own for i, own in enumerate(self.own)}
        return {**known, **ways, **own, "numbers": np.array([self.width, self.rate]), **self.scaler.arrays()}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.scaler.restore(arrays)
        self.widths = [int(width) for width in arrays["widths"]]
        self.ways = [_Samples(np.asarray(arrays[f"ways.{i}"])) for i in range(len(self.widths))]
        self.own = [np.asarray(arrays[f"own.{i}"]) for i in range(len(self.widths))]
        self.left, self.failed = np.asarray(arrays["left"]), np.asarray(arrays["failed"])
        self.tried = _Samples(np.asarray(arrays["tried"]))
        self.width, self.rate = map(float, arrays["numbers"])
        self._measure()


class _Samples:
    """Samples x (M, D) that are asked for those nearest to a point."""

    def __init__(self, x_MD: NDArray[np.float32]) -> None:
        self.x = x_MD
        self._squares_M = np.asarray((x_MD**2).sum(1), np.float32)

    def nearest(self, x_CD: NDArray[np.float32], k: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Of each point, distances (K,) and rows (K,) of the k nearest, in no order."""
        k = min(k, len(self._squares_M))
        out = []
        for x_D, along_M in zip(x_CD, x_CD @ self.x.T, strict=True):
            row_K = np.argpartition(self._squares_M - 2.0 * along_M, k - 1)[:k]
            # Again by differences: the product's rounding is not small beside the distance of a sample to itself.
            out.append((np.linalg.norm(self.x[row_K] - x_D, axis=1), row_K))
        return out

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
