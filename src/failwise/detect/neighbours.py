"""Distances to the features of successes: nearest neighbours, Mahalanobis, clusters in a principal subspace.

The baselines of SAFE (arXiv 2506.09937) that need no failure. A score is of the present inference alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from failwise.detect.base import Arrays, Detector, Scaler, successful_features, whole
from failwise.detect.trace import Moment, Trace
from failwise.errors import DataError


class _Neighbours(Detector):
    """Mean distance to the k nearest features of successes.

    Args:
        k: how many.
        limit: most features to keep, drawn at random.
        demonstrations: whether those that the policy was trained on count as successes, which the paper's do not.
    """

    metric: Literal["cosine", "euclidean"]

    def __init__(self, k: int = 5, limit: int = 20_000, demonstrations: bool = False) -> None:
        super().__init__()
        self.uses_demonstrations = demonstrations
        whole("k", k)
        whole("limit", limit)
        self.k, self.limit = k, limit
        self.scaler = Scaler()
        self.known = np.zeros((0, 0), np.float32)
        self._known_squares: NDArray[np.float32] | None = None

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"k": self.k, "limit": self.limit, "demonstrations": self.uses_demonstrations}

    def check(self, traces: Sequence[Trace], demonstrations: Sequence[Trace] = ()) -> None:
        """Demonstrations, where it was asked to use them."""
        super().check(traces, demonstrations)
        if self.uses_demonstrations and not demonstrations:
            raise DataError(f"detector {self.name!r} was asked to use demonstrations, and none are given: --demos")

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        features = successful_features([*traces, *self.demonstrations])
        self.scaler.fit(features)
        if len(features) > self.limit:
            features = features[np.random.default_rng(seed).choice(len(features), self.limit, replace=False)]
        self.known, self._known_squares = self._prepare(features), None

    def _prepare(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled = self.scaler(x)
        if self.metric == "cosine":
            scaled = scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1e-12)
        return np.asarray(scaled, np.float32)

    def _score(self, moment: Moment) -> float:
        assert moment.features is not None
        return float(self._distances(self._prepare(moment.features)[None])[0])

    def _sequence(self, features_CD: NDArray[np.float32], asked_C: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._distances(self._prepare(features_CD)).astype(np.float64)

    def _distances(self, x_CD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean distance of each to its k nearest, (C,)."""
        along_CM = x_CD @ self.known.T
        if self.metric == "cosine":
            distance_CM = 1.0 - along_CM
        else:
            squares_C1 = np.asarray((x_CD**2).sum(1, keepdims=True))
            distance_CM = np.sqrt(np.maximum(self._squares() - 2.0 * along_CM + squares_C1, 0.0))
        k = min(self.k, len(self.known))
        return np.asarray(np.partition(distance_CM, k - 1, axis=1)[:, :k].mean(1))

    def _squares(self) -> NDArray[np.float32]:
        """||known||^2, once."""
        if self._known_squares is None:
            self._known_squares = np.asarray((self.known**2).sum(1), np.float32)
        return self._known_squares

    def _arrays(self) -> Arrays:
        return {"known": self.known, **self.scaler.arrays()}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.scaler.restore(arrays)
        self.known, self._known_squares = np.asarray(arrays["known"]), None


class CosineNeighbours(_Neighbours):
    """``mean over the k nearest of 1 - cos(e, e_i)``."""

    name, metric = "knn-cosine", "cosine"


class EuclideanNeighbours(_Neighbours):
    """``mean over the k nearest of ||e - e_i||``."""

    name, metric = "knn-euclidean", "euclidean"


class Mahalanobis(Detector):
    """``sqrt((e - mu)^T S^-1 (e - mu))`` with mean and shrunk covariance of the successes' features.

    The shrinkage is Ledoit and Wolf's, by scikit-learn: with fewer inferences than features the covariance is singular.
    """

    name = "mahalanobis"

    def __init__(self) -> None:
        super().__init__()
        self.mean = np.zeros(0)
        self.root = np.zeros((0, 0))

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        from sklearn.covariance import LedoitWolf

        fitted = LedoitWolf().fit(successful_features(traces).astype(np.float64))
        self.mean = fitted.location_
        # precision = root @ root.T, so that the distance is one matrix product and a norm
        try:
            self.root = np.linalg.cholesky(fitted.precision_)
        except np.linalg.LinAlgError as error:
            raise DataError(
                f"detector {self.name!r}: the features of the successes are all alike, so there is no covariance"
            ) from error

    def _score(self, moment: Moment) -> float:
        assert moment.features is not None
        return float(np.linalg.norm((moment.features - self.mean) @ self.root))

    def _arrays(self) -> Arrays:
        return {"mean": self.mean, "root": self.root}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.mean, self.root = np.asarray(arrays["mean"]), np.asarray(arrays["root"])


class PCAKMeans(Detector):
    """Distance to the nearest of k cluster centres of the successes' features in their principal subspace."""

    name = "pca-kmeans"

    def __init__(self, components: int = 32, clusters: int = 32) -> None:
        super().__init__()
        whole("components", components)
        whole("clusters", clusters)
        self.components, self.clusters = components, clusters
        self.mean = np.zeros(0)
        self.basis, self.centres = np.zeros((0, 0)), np.zeros((0, 0))

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"components": self.components, "clusters": self.clusters}

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA

        features = successful_features(traces).astype(np.float64)
        pca = PCA(min(self.components, *features.shape), random_state=seed).fit(features)
        self.mean, self.basis = pca.mean_, pca.components_.T
        inside = (features - self.mean) @ self.basis
        found = KMeans(min(self.clusters, len(inside)), n_init=4, random_state=seed).fit(inside)
        self.centres = found.cluster_centers_

    def _score(self, moment: Moment) -> float:
        assert moment.features is not None
        inside = (moment.features - self.mean) @ self.basis
        return float(np.linalg.norm(self.centres - inside, axis=1).min())

    def _arrays(self) -> Arrays:
        return {"mean": self.mean, "basis": self.basis, "centres": self.centres}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.mean, self.basis, self.centres = (np.asarray(arrays[k]) for k in ("mean", "basis", "centres"))
