"""A vision-language model as recovery actor, behind any server that speaks OpenAI's chat completions.

It is asked what it was fine-tuned on: the questions that ``failwise export questions`` writes.
"""

from __future__ import annotations

import base64
import io
from collections import deque
from typing import Any

from failwise.errors import DataError, EpisodeError, MissingDependencyError, SetupError
from failwise.recover.advice import Advice
from failwise.recover.questions import FRAMES, Answer, question
from failwise.types import Observation

PREFIX = "vlm:"


class VLMAdvisor:
    """Shows the last frames of every camera to a model and reads its answer.

    An answer that is not in the form that was asked for counts as "not failing": a robot is not moved by what nobody
    can read. ``unread`` counts them.

    Args:
        url: of the server, e.g. http://localhost:8000/v1. model: its name there.
        window: frames of each camera. stride: steps between them.
        timeout_s: after so long without an answer, the episode cannot go on.
        key: of the server; local ones take any.

    Raises:
        MissingDependencyError: the client is not installed.
    """

    def __init__(
        self, url: str, model: str, window: int = FRAMES, stride: int = 2, timeout_s: float = 60.0, key: str = "none"
    ) -> None:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise MissingDependencyError(
                "a VLM as recovery actor needs the client: pip install 'failwise[vlm]'"
            ) from error
        self.stride, self.model, self.url = stride, model, url
        self.unread = 0
        self._client = OpenAI(base_url=url, api_key=key, timeout=timeout_s, max_retries=1)
        self._frames: deque[Observation] = deque(maxlen=window)
        self._shown: deque[dict[str, str]] = deque(maxlen=window)

    @classmethod
    def parse(cls, spec: str) -> VLMAdvisor:
        """From "vlm:URL#MODEL".

        Raises:
            SetupError: not in that form.
        """
        url, _, model = spec.removeprefix(PREFIX).partition("#")
        if not url.startswith(("http://", "https://")) or not model:
            raise SetupError(f"write vlm:URL#MODEL, for example vlm:http://localhost:8000/v1#qwen-vl, not {spec!r}")
        return cls(url, model)

    def begin(self) -> None:
        """Forget the episode before."""
        self._shown.clear()
        self._instruction = ""

    def see(self, observation: Observation) -> None:
        """One frame; its pictures render now."""
        self._instruction = observation.instruction
        self._shown.append({camera: _data_url(observation.images[camera]) for camera in observation.images})

    def advise(self) -> Advice:
        """The model's word on the frames seen so far.

        Raises:
            EpisodeError: none was seen, or the server does not answer.
        """
        from openai import OpenAIError

        if not self._shown:
            raise EpisodeError("a recovery actor was asked before it saw a frame")
        frames = [self._shown[0]] * ((self._shown.maxlen or 1) - len(self._shown)) + list(self._shown)
        content: list[Any] = []
        text = question(self._instruction, list(frames[0]), len(frames))
        pictures = iter([frame[camera] for camera in frames[0] for frame in frames])
        for number, part in enumerate(text.split("<image>")):
            if number:
                content.append({"type": "image_url", "image_url": {"url": next(pictures)}})
            if part.strip():
                content.append({"type": "text", "text": part})
        try:
            said = self._client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": content}], temperature=0.0, max_tokens=200
            )
        except OpenAIError as error:
            raise EpisodeError(f"the model at {self.url} does not answer: {' '.join(str(error).split())}") from error
        try:
            answer = Answer.parse(said.choices[0].message.content or "")
        except (DataError, IndexError):
            self.unread += 1
            return Advice(0.0, "", "", "", (0.0,) * 7, 0.0)
        delta = answer.delta or (0.0,) * 7
        return Advice(float(answer.failing), answer.stage, answer.mode, answer.axis, delta, 1.0)


def _data_url(picture: Any) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
