"""A detector that also sees how the features moved: since the episode began, and since the last inference.

What a policy's features say first of all is which task and which layout it is; that is what a detector learns by heart
on the tasks that it saw, and what misleads it on others. The differences ``e_t - e_1`` and ``e_t - e_{t-1}`` hold
little of that. They are given to another detector beside ``e_t`` itself. Ours; the idea of differences is common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise import registry
from failwise.detect.base import Arrays, Detector
from failwise.detect.trace import Moment, Trace
from failwise.errors import SetupError


class Changes(Detector):
    """Another detector on ``[e_t, e_t - e_1, e_t - e_{t-1}]``.

    Args:
        detector: name of the other one, which must read features.
        absolute: whether it also sees ``e_t`` itself.
        options: of the other one.
    """

    name = "changes"

    def __init__(
        self, detector: str = "safe-lstm", absolute: bool = True, options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        if detector == self.name:
            raise SetupError(f"detector {self.name!r} cannot stand on itself; name another")
        self.detector, self.absolute = detector, absolute
        try:
            self.member: Detector = registry.load("detector", detector)(**(options or {}))
        except TypeError as error:
            raise SetupError(f"options of {detector!r} in {self.name!r}: {error}") from error
        self.needs_failures, self.needs_samples = self.member.needs_failures, self.member.needs_samples

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"detector": self.detector, "absolute": self.absolute, "options": self.member.options()}

    def changed(self, features_CD: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the other detector reads, (C, 3 D), or (C, 2 D) without the features themselves."""
        since_first = features_CD - features_CD[:1]
        since_last = np.diff(features_CD, axis=0, prepend=features_CD[:1])
        parts = [features_CD, since_first, since_last] if self.absolute else [since_first, since_last]
        return np.concatenate(parts, axis=1)

    def check(self, traces: Sequence[Trace], demonstrations: Sequence[Trace] = ()) -> None:
        """As the other one asks."""
        super().check(traces, demonstrations)
        self.member.check(traces)

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        self.member.fit([replace(t, features=self.changed(t.features)) for t in traces], seed=seed)
        self._begin()

    def _begin(self) -> None:
        self.member.reset()
        self._first: NDArray[np.float32] | None = None
        self._last: NDArray[np.float32] | None = None

    def _score(self, moment: Moment) -> float:
        assert moment.features is not None
        now = moment.features
        first = now if self._first is None else self._first
        last = now if self._last is None else self._last
        self._first, self._last = first, now
        parts = [now, now - first, now - last] if self.absolute else [now - first, now - last]
        return self.member.update(replace(moment, features=np.concatenate(parts)))

    def _sequence(self, features_CD: NDArray[np.float32], asked_C: NDArray[np.int64]) -> NDArray[np.float64] | None:
        return self.member._sequence(self.changed(features_CD), asked_C)

    def _arrays(self) -> Arrays:
        return self.member._arrays()

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.member._restore(arrays)

    def adopt(self, features: int, samples: int) -> None:
        """Take over the widths that it was fitted on; the other one reads more."""
        self.member.adopt((3 if self.absolute else 2) * features, samples)
        super().adopt(features, samples)
