"""What every vision-language recovery actor does, wherever its model runs: keep the last frames, ask, and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from failwise.errors import DataError, EpisodeError
from failwise.recover.advice import Advice
from failwise.recover.questions import Answer, question
from failwise.types import Observation


class WindowAdvisor(ABC):
    """Shows the last frames of every camera to a model and reads its answer.

    An answer that is not in the form that was asked for counts as "not failing": a robot is not moved by what nobody
    can read. ``unread`` counts them.

    Args:
        window: frames of each camera. stride: steps between them.
    """

    def __init__(self, window: int, stride: int) -> None:
        self.window, self.stride = window, stride
        self.unread = 0
        self.begin()

    @abstractmethod
    def say(self, text: str, pictures: Sequence[NDArray[np.uint8]]) -> str:
        """What the model says to a question with one <image> for each picture (H, W, 3).

        Raises:
            EpisodeError: it does not answer.
        """

    def begin(self) -> None:
        """Forget the episode before."""
        self._shown: deque[dict[str, NDArray[np.uint8]]] = deque(maxlen=self.window)
        self._instruction = ""

    def see(self, observation: Observation) -> None:
        """One frame; its pictures render now."""
        self._instruction = observation.instruction
        # Copied, as an environment may draw its next picture into the same memory.
        self._shown.append({camera: np.array(observation.images[camera]) for camera in observation.images})

    def advise(self) -> Advice:
        """The model's word on the frames seen so far.

        Raises:
            EpisodeError: none was seen, or the model does not answer.
        """
        if not self._shown:
            raise EpisodeError("a recovery actor was asked before it saw a frame")
        frames = [self._shown[0]] * (self.window - len(self._shown)) + list(self._shown)
        text = question(self._instruction, list(frames[0]), len(frames))
        said = self.say(text, [frame[camera] for camera in frames[0] for frame in frames])
        try:
            answer = Answer.parse(said)
        except DataError:
            self.unread += 1
            return Advice(0.0, "", "", "", (0.0,) * 7, 0.0)
        delta = answer.delta or (0.0,) * 7
        return Advice(float(answer.failing), answer.stage, answer.mode, answer.axis, delta, 1.0)
