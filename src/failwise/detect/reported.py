"""What steering already computed and wrote into the episode: free detectors.

``divergence``: ``1 - cos`` of success and failure head (AFIL), averaged. ``risk``: the risk gate's ``1 - V(o)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from failwise.detect.base import Arrays, Detector, share
from failwise.detect.trace import Moment, Trace
from failwise.errors import DataError


class _Reported(Detector):
    """An exponential average of one scalar of the chunks.

    Args:
        memory: weight of the past, in [0, 1).
    """

    scalar: ClassVar[str]

    def __init__(self, memory: float = 0.7) -> None:
        super().__init__()
        share("memory", memory)
        self.memory = memory
        self._begin()

    def options(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"memory": self.memory}

    def check(self, traces: Sequence[Trace], demonstrations: Sequence[Trace] = ()) -> None:
        """Every episode must have recorded the scalar."""
        super().check(traces, demonstrations)
        for t in traces:
            if self.scalar not in t.info:
                raise DataError(
                    f"detector {self.name!r} reads the scalar {self.scalar!r}, which {t.meta.episode_id} did not "
                    "record; collect with an agent that computes it"
                )

    def _fit(self, traces: Sequence[Trace], seed: int) -> None:
        pass

    def _begin(self) -> None:
        self._average: float | None = None

    def _score(self, moment: Moment) -> float:
        if self.scalar not in moment.info:
            raise DataError(f"detector {self.name!r}: no scalar {self.scalar!r} at step {moment.step}")
        value = float(moment.info[self.scalar])
        self._average = value if self._average is None else self.memory * self._average + (1 - self.memory) * value
        return self._average

    def _arrays(self) -> Arrays:
        return {"none": np.zeros(1)}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        pass


class Divergence(_Reported):
    """``1 - cos(p_s, p_f)`` of the two heads."""

    name, scalar = "divergence", "head_divergence"


class Risk(_Reported):
    """``1 - V(o)`` of the agent's own value model."""

    name, scalar = "risk", "risk"
