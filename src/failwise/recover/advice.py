"""What a recovery actor says about the last moments, and the protocol that all of them follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from failwise.types import Diagnosis, Observation


@dataclass(frozen=True)
class Advice:
    """A recovery actor's word on the last frames.

    Attributes:
        failing: probability that the episode is failing.
        stage: the sub-task that is due.
        mode, axis: of the failure, as in ``failwise.generate.MODES``; "" for none.
        delta: dA (7,): metres, radians, then the gripper, -1 open to 1 closed.
        confidence: of mode and axis, 0 to 1.
    """

    failing: float
    stage: str
    mode: str
    axis: str
    delta: tuple[float, ...]
    confidence: float

    def diagnosis(self) -> Diagnosis:
        """The same in the schema that rules, classifiers and VLMs share."""
        return Diagnosis(
            mode=self.mode, axis=self.axis, stage=self.stage, confidence=self.confidence, correction=self.delta,
            text=f"failing with probability {self.failing:.2f}",
        )  # fmt: skip


@runtime_checkable
class Advisor(Protocol):
    """Watches frames and advises. ``stride`` steps lie between the frames that it wants to see."""

    stride: int

    def begin(self) -> None:
        """Forget the episode before."""
        ...

    def see(self, observation: Observation) -> None:
        """One frame; its pictures render now."""
        ...

    def advise(self) -> Advice:
        """The word on the frames seen so far, at least one."""
        ...
