"""What several sampled chunks of one inference tell: their spread, their entropy, and whether they agree with the last.

``samples`` are normalised chunks (N, H, A) drawn from one encoding of the observation.

``variance``: mean variance over the samples. ``entropy``: differential entropy a dim, as the entropy of FIPER's ACE
(arXiv 2510.09459) with a normal fit a dim. ``stac`` (Sentinel, arXiv 2410.04640): the distance between what the last
inference and this one predict for the same steps, as squared maximum mean discrepancy; summed over the episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from failwise.detect.base import Arrays, Detector
from failwise.detect.trace import Moment, Trace
from failwise.errors import DataError, SetupError


class _Sampled(Detector):
    """Reads samples, learns nothing."""

    needs_samples = True
    fewest = 2  # samples that it compares

    def check(self, traces: Sequence[Trace], demonstrations: Sequence[Trace] = ()) -> None:
        """Several samples an inference, where it compares them."""
        super().check(traces, demonstrations)
        for t in traces:
            if t.samples is not None and t.samples.shape[1] < self.fewest:
                raise DataError(
                    f"detector {self.name!r} compares at least {self.fewest} sampled chunks, {t.meta.episode_id} has "
                    f"{t.samples.shape[1]}; record more with: failwise collect --samples 8"
                )

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        pass

    def _arrays(self) -> Arrays:
        return {"none": np.zeros(1)}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        pass


class Variance(_Sampled):
    """``mean over H and A of var over N``."""

    name = "variance"

    def _score(self, moment: Moment) -> float:
        assert moment.samples is not None
        return float(moment.samples.var(0).mean())


class Entropy(_Sampled):
    """``mean over H and A of 0.5 log(2 pi e var over N)``; the variance is floored at 1e-8."""

    name = "entropy"

    def _score(self, moment: Moment) -> float:
        assert moment.samples is not None
        variance = np.maximum(moment.samples.astype(np.float64).var(0, ddof=1), 1e-8)
        return float((0.5 * np.log(2 * np.pi * np.e * variance)).mean())


class STAC(_Sampled):
    """Sum over inferences of the distance between two samples of the overlapping steps.

    Args:
        distance: ``mmd``, squared maximum mean discrepancy with a Gaussian kernel of the median distance; ``kl``,
            forward divergence of kernel density estimates, at the last inference's samples.
        single: compare the first sample only, by its squared distance (STAC-single).
    """

    name = "stac"

    def __init__(self, distance: Literal["mmd", "kl"] = "mmd", single: bool = False) -> None:
        super().__init__()
        if distance not in ("mmd", "kl"):
            raise SetupError(f"distance must be mmd or kl, not {distance!r}")
        self.distance, self.single = distance, single
        self.fewest = 1 if single else 2
        self._begin()

    def check(self, traces: Sequence[Trace], demonstrations: Sequence[Trace] = ()) -> None:
        """Chunks that overlap somewhere: without a step that two inferences predict there is nothing to compare."""
        super().check(traces, demonstrations)
        gaps = [int(np.diff(t.asked).min()) for t in traces if len(t.asked) > 1]
        horizon = max((t.samples.shape[2] for t in traces if t.samples is not None), default=0)
        if not gaps or min(gaps) >= horizon:
            raise DataError(
                f"detector {self.name!r} compares chunks of {horizon} actions where they overlap, and these episodes "
                f"executed all of each chunk; collect with an agent that executes fewer actions than it predicts"
            )

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"distance": self.distance, "single": self.single}

    def _begin(self) -> None:
        self._last: tuple[int, NDArray[np.float32]] | None = None
        self._sum = 0.0

    def _score(self, moment: Moment) -> float:
        assert moment.samples is not None
        if self._last is not None:
            step, before_NHA = self._last
            ahead = moment.step - step
            overlap = before_NHA.shape[1] - ahead
            if overlap > 0:
                old = before_NHA[:, ahead:].reshape(len(before_NHA), -1).astype(np.float64)
                new = moment.samples[:, :overlap].reshape(len(moment.samples), -1).astype(np.float64)
                self._sum += self._between(old, new)
        self._last = moment.step, moment.samples
        return self._sum

    def _between(self, old_NX: NDArray[np.float64], new_NX: NDArray[np.float64]) -> float:
        if self.single:
            return float(((old_NX[0] - new_NX[0]) ** 2).sum())
        return mmd(old_NX, new_NX) if self.distance == "mmd" else kde_divergence(old_NX, new_NX)


class STACDivergence(STAC):
    """STAC with the divergence of kernel density estimates."""

    name = "stac-kl"

    def __init__(self) -> None:
        super().__init__("kl")

    def options(self) -> dict[str, Any]:
        """None: the name says it."""
        return {}


class STACSingle(STAC):
    """STAC between the first chunk of each inference alone."""

    name = "stac-single"

    def __init__(self) -> None:
        super().__init__(single=True)

    def options(self) -> dict[str, Any]:
        """None: the name says it."""
        return {}


def squared_distances(a_NX: NDArray[np.float64], b_MX: NDArray[np.float64]) -> NDArray[np.float64]:
    """``||a_i - b_j||^2``, (N, M)."""
    out: NDArray[np.float64] = ((a_NX[:, None] - b_MX[None]) ** 2).sum(-1)
    return out


def bandwidth(a_NX: NDArray[np.float64], b_MX: NDArray[np.float64]) -> float:
    """The median squared distance among all points, floored at 1e-8."""
    both = np.concatenate([a_NX, b_MX])
    return max(float(np.median(squared_distances(both, both)[np.triu_indices(len(both), 1)])), 1e-8)


def mmd(a_NX: NDArray[np.float64], b_MX: NDArray[np.float64]) -> float:
    """Squared maximum mean discrepancy, ``k(x, y) = exp(-||x - y||^2 / h)`` (biased, so never negative)."""
    h = bandwidth(a_NX, b_MX)

    def mean(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        return float(np.exp(-squared_distances(x, y) / h).mean())

    return max(0.0, mean(a_NX, a_NX) + mean(b_MX, b_MX) - 2 * mean(a_NX, b_MX))


def kde_divergence(a_NX: NDArray[np.float64], b_MX: NDArray[np.float64]) -> float:
    """``mean over a of log p_a(a_i) - log p_b(a_i)`` with Gaussian kernels of one bandwidth; at least 0."""
    from scipy.special import logsumexp

    h = bandwidth(a_NX, b_MX)
    own = logsumexp(-squared_distances(a_NX, a_NX) / h, axis=1) - np.log(len(a_NX))
    other = logsumexp(-squared_distances(a_NX, b_MX) / h, axis=1) - np.log(len(b_MX))
    return max(0.0, float((own - other).mean()))
