"""Why an episode is failing, said while it goes on: a classifier on a summary of the features so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from failwise.diagnose import Classifier


class Explaining:
    """Mean, last and largest of an episode's features, kept as running values: an episode may be endless.

    Args:
        classifier: what reads them, or None.
    """

    def __init__(self, classifier: Classifier | None) -> None:
        self.classifier = classifier
        self.begin()

    def begin(self) -> None:
        """Forget the last episode."""
        self._n = 0
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._largest: NDArray[np.float32] = np.zeros(0, np.float32)
        self._last: NDArray[np.float32] = np.zeros(0, np.float32)

    def see(self, features: NDArray[np.float32] | None) -> None:
        """The features (D,) of one inference."""
        if self.classifier is None or features is None:
            return
        self._sum = features.astype(np.float64) if self._n == 0 else self._sum + features
        self._largest = features if self._n == 0 else np.maximum(self._largest, features)
        self._last, self._n = features, self._n + 1

    def diagnosis(self) -> dict[str, Any] | None:
        """The likeliest mode and its probability, or None without a classifier or anything seen."""
        if self.classifier is None or not self._n:
            return None
        mean = (self._sum / self._n).astype(np.float32)
        found = self.classifier.diagnose_summary(np.concatenate([mean, self._last, self._largest]))
        return {"mode": found.mode, "confidence": found.confidence, "text": found.text}
