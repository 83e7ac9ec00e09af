"""The mode of a failure from the policy's own features: a linear classifier that learned from labelled episodes.

It reads an episode up to a step, at a detector's alarm for example, as the mean, the last and the largest of the
features so far, standardised; scikit-learn's multinomial logistic regression, stored as arrays.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.detect import Trace
from failwise.detect.base import Scaler
from failwise.errors import CheckpointError, DataError
from failwise.types import Diagnosis

FORMAT = "failwise-diagnoser-1"
FEWEST = 5  # episodes of a mode that is to be learned


class Classifier:
    """Features to mode.

    Args:
        strength: inverse of the weights' penalty (scikit-learn's C).
    """

    def __init__(self, strength: float = 0.05) -> None:
        self.strength = strength
        self.modes: tuple[str, ...] = ()
        self.scaler = Scaler()
        self.weights = np.zeros((0, 0))
        self.bias = np.zeros(0)

    def fit(self, traces: Sequence[Trace], modes: Sequence[str]) -> Classifier:
        """Learn.

        Raises:
            DataError: fewer than two modes with at least five episodes each; rarer ones are left out.
        """
        from sklearn.linear_model import LogisticRegression

        counts = Counter(modes)
        kept = {mode for mode, n in counts.items() if n >= FEWEST}
        if len(kept) < 2:
            raise DataError(
                f"at least two modes with {FEWEST} failures each are needed, got {dict(counts)}; collect more episodes"
            )
        rows = [(summary(t), mode) for t, mode in zip(traces, modes, strict=True) if mode in kept]
        x = self.scaler.fit(np.stack([v for v, _ in rows]))(np.stack([v for v, _ in rows]))
        model = LogisticRegression(C=self.strength, class_weight="balanced", max_iter=2000)
        model.fit(x, [mode for _, mode in rows])
        self.modes = tuple(str(mode) for mode in model.classes_)
        binary = len(self.modes) == 2  # scikit-learn keeps one row then, for the second class
        self.weights = np.concatenate([-model.coef_, model.coef_]) / 2 if binary else model.coef_
        self.bias = np.concatenate([-model.intercept_, model.intercept_]) / 2 if binary else model.intercept_
        return self

    def probabilities(self, trace: Trace) -> NDArray[np.float64]:
        """P(mode) in the order of ``modes``.

        Raises:
            DataError: features of another width than it was fitted on.
        """
        return self._shares(summary(trace))

    def _shares(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        from scipy.special import softmax

        if x.shape != self.scaler.mean.shape:
            raise DataError(f"features of width {x.shape[0] // 3}, fitted on {len(self.scaler.mean) // 3}")
        logits = self.weights @ self.scaler(x).astype(np.float64) + self.bias
        return np.asarray(softmax(logits), np.float64)

    def diagnose(self, trace: Trace) -> Diagnosis:
        """The likeliest mode, with its probability."""
        return self.diagnose_summary(summary(trace))

    def diagnose_summary(self, x: NDArray[np.float32]) -> Diagnosis:
        """The same from what ``summary`` gives, (3 D,).

        Raises:
            DataError: of another width than it was fitted on.
        """
        shares = self._shares(x)
        best = int(shares.argmax())
        return Diagnosis(mode=self.modes[best], confidence=float(shares[best]), text="from the policy's features")

    def save(self, folder: Path) -> None:
        """Write diagnoser.json and diagnoser.safetensors."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"weights": self.weights, "bias": self.bias, **self.scaler.arrays()}
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "diagnoser.safetensors")
        about = {"format": FORMAT, "modes": list(self.modes), "strength": self.strength}
        (folder / "diagnoser.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_classifier(folder: Path) -> Classifier:
    """What ``Classifier.save`` wrote.

    Raises:
        CheckpointError: missing, damaged, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        about: dict[str, Any] = json.loads((folder / "diagnoser.json").read_text(encoding="utf-8"))
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{folder} is of format {about.get('format')!r}, this version reads {FORMAT!r}")
        arrays = load_file(folder / "diagnoser.safetensors")
        made = Classifier(float(about["strength"]))
        made.modes = tuple(about["modes"])
        made.weights, made.bias = arrays["weights"], arrays["bias"]
        made.scaler.restore(arrays)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no usable diagnoser ({str(error).splitlines()[0]})") from error
    return made


def summary(trace: Trace) -> NDArray[np.float32]:
    """Mean, last and largest of the features so far, (3 D,).

    Raises:
        DataError: the policy was not asked yet.
    """
    if not len(trace.features):
        raise DataError(f"{trace.meta.episode_id}: no features to diagnose from")
    f = trace.features
    return np.concatenate([f.mean(0), f[-1], f.max(0)]).astype(np.float32)


def confusion(truth: Sequence[str], said: Sequence[str]) -> dict[str, Any]:
    """Accuracy, balanced accuracy, the share of the commonest mode, and counts by truth and answer."""
    if not truth:
        raise DataError("nothing to score: no labelled failures")
    from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

    names = sorted({*truth, *said})
    counts = confusion_matrix(truth, said, labels=names).tolist()
    table = {t: dict(zip(names, row, strict=True)) for t, row in zip(names, counts, strict=True)}
    return {
        "n": len(truth),
        "accuracy": float(accuracy_score(truth, said)),
        "balanced_accuracy": float(recall_score(truth, said, labels=sorted(set(truth)), average="macro")),
        "commonest": max(Counter(truth).values()) / len(truth),
        "table": table,
    }
