"""Several detectors as one: their mean, or the weakest of them, which is high only where all of them are.

``ensemble``: mean of the members' standardised scores.
``fiper`` (FIPER, arXiv 2510.09459): random network distillation on the policy's features *and* the entropy of its
sampled chunks, each averaged over a window of inferences. The paper raises an alarm where both are above a conformal
threshold of their own; here the score is the smaller of both after each is divided by its threshold, so that it is
above 1 exactly there, and the band is calibrated on that one score: the bound holds for the pair, not for each alone.

A member's scores on the episodes that it was fitted on say nothing of its scale on others (a neighbour search finds
itself there), so a fifth of the episodes is held out to standardise by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise import registry
from failwise.detect.base import Arrays, Detector, score_trace, whole
from failwise.detect.conformal import conformal_quantile
from failwise.detect.trace import Moment, Trace
from failwise.errors import DataError, SetupError

HELD_OUT = 0.2


class _Combined(Detector):
    """Members, each with a centre and a scale of its own, and a window over inferences."""

    def __init__(self, members: Mapping[str, Mapping[str, Any]], window: int) -> None:
        super().__init__()
        whole("window", window)
        if not isinstance(members, Mapping) or not members:
            raise SetupError(f"detector {self.name!r} needs at least one member: name -> options, not {members!r}")
        self.window = window
        self.members: dict[str, Detector] = {}
        for name, options in sorted(members.items()):  # a folder's JSON is sorted, and centre and scale go by number
            try:
                self.members[name] = registry.load("detector", name)(**options)
            except TypeError as error:
                raise SetupError(f"member {name!r} of {self.name!r}: {error}") from error
        self.needs_failures = any(m.needs_failures for m in self.members.values())
        self.needs_samples = any(m.needs_samples for m in self.members.values())
        self.centre = np.zeros(len(self.members))
        self.scale = np.ones(len(self.members))

    def check(self, traces: Sequence[Trace], demonstrations: Sequence[Trace] = ()) -> None:
        """As every member asks."""
        super().check(traces, demonstrations)
        for member in self.members.values():
            member.check(traces)

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        held, rest = _hold_out(traces, seed)
        if not held:
            raise DataError(
                f"detector {self.name!r}: {len(traces)} episodes are too few to hold some out; collect more"
            )
        for number, member in enumerate(self.members.values()):
            member.fit(rest, seed=seed)
            smooth = [_smoothed(score_trace(member, t), t.asked, self.window) for t in held]
            self.centre[number], self.scale[number] = self._standard(smooth, [t.failed for t in held])
        self._begin()

    def _standard(self, scores: Sequence[NDArray[np.float64]], failed: Sequence[bool]) -> tuple[float, float]:
        """Centre and scale of a member, from its scores on held-out episodes."""
        every = np.concatenate(scores)
        return float(every.mean()), max(float(every.std()), 1e-9)

    def _together(self, standard_M: NDArray[np.float64]) -> float:
        """One score of the members' standardised ones."""
        return float(standard_M.mean())

    def _begin(self) -> None:
        for member in self.members.values():
            member.reset()
        self._recent: deque[NDArray[np.float64]] = deque(maxlen=self.window)

    def _advance(self, moment: Moment) -> float:
        # Some members move at every step.
        scores_M = np.array([member.update(moment) for member in self.members.values()])
        if moment.features is not None or not self._recent:
            self._recent.append(scores_M)
        else:
            self._recent[-1] = scores_M
        return self._together((np.mean(self._recent, axis=0) - self.centre) / self.scale)

    def _score(self, moment: Moment) -> float:
        return self._advance(moment)

    def _arrays(self) -> Arrays:
        out: Arrays = {"centre": self.centre, "scale": self.scale}
        for name, member in self.members.items():
            out |= {f"{name}/{key}": array for key, array in member._arrays().items()}
        return out

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.centre, self.scale = np.asarray(arrays["centre"]), np.asarray(arrays["scale"])
        for name, member in self.members.items():
            start = f"{name}/"
            member._restore({k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)})

    def adopt(self, features: int, samples: int) -> None:
        """Take over the widths that it was fitted on; the members read the same."""
        for member in self.members.values():
            member.adopt(features, samples)
        super().adopt(features, samples)


class Ensemble(_Combined):
    """The mean of the members' standardised scores.

    Args:
        members: detector name -> its options.
        window: inferences to average over.
    """

    name = "ensemble"
    MEMBERS: Mapping[str, Mapping[str, Any]] = {"safe-mlp": {}, "safe-lstm": {}, "mahalanobis": {}}

    def __init__(self, members: Mapping[str, Mapping[str, Any]] | None = None, window: int = 1) -> None:
        super().__init__(self.MEMBERS if members is None else members, window)

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"members": {n: m.options() for n, m in self.members.items()}, "window": self.window}


class Fiper(_Combined):
    """``min`` of RND on features and entropy of chunks, each in units of its own conformal threshold.

    Args:
        window: inferences to average over.
        alpha: level of the two thresholds.
        rnd: options of the network.
    """

    name = "fiper"
    needs_samples = True

    def __init__(self, window: int = 3, alpha: float = 0.1, rnd: Mapping[str, Any] | None = None) -> None:
        self.alpha = alpha
        super().__init__({"rnd": rnd or {}, "entropy": {}}, window)

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"window": self.window, "alpha": self.alpha, "rnd": self.members["rnd"].options()}

    def _standard(self, scores: Sequence[NDArray[np.float64]], failed: Sequence[bool]) -> tuple[float, float]:
        wins = [s for s, lost in zip(scores, failed, strict=True) if not lost]
        if not wins:
            raise DataError(f"detector {self.name!r}: no success among the episodes held out; collect more")
        centre = float(np.median(np.concatenate(wins)))
        largest = np.array([s.max() for s in wins])
        threshold = conformal_quantile(largest, self.alpha)
        # With few successes the quantile is infinite; the largest of them is the nearest finite threshold.
        threshold = threshold if np.isfinite(threshold) else float(largest.max())
        return centre, max(threshold - centre, 1e-9)

    def _together(self, standard_M: NDArray[np.float64]) -> float:
        return float(standard_M.min())


def _hold_out(traces: Sequence[Trace], seed: int) -> tuple[list[Trace], list[Trace]]:
    """A fifth of the failures and of the successes, at least one success, and the others."""
    held: list[Trace] = []
    rest: list[Trace] = []
    for failed in (False, True):
        rows = [t for t in traces if t.failed == failed]
        order = np.random.default_rng((seed, failed)).permutation(len(rows))
        n = round(HELD_OUT * len(rows)) or int(not failed and len(rows) > 1)
        held += [rows[i] for i in order[:n]]
        rest += [rows[i] for i in order[n:]]
    return held, rest


def _smoothed(scores_T: NDArray[np.float64], asked_C: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    """Scores at the inferences, each averaged with those of the inferences before it."""
    at_C = scores_T[asked_C]
    return np.array([at_C[max(0, i + 1 - window) : i + 1].mean() for i in range(len(at_C))])
