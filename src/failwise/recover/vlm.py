"""A vision-language model as recovery actor, behind any server that speaks OpenAI's chat completions.

It is asked what it was fine-tuned on: the questions that ``failwise export questions`` writes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.errors import EpisodeError, MissingDependencyError, SetupError
from failwise.recover.questions import FRAMES, IMAGE
from failwise.recover.window import WindowAdvisor

PREFIX = "vlm:"


class VLMAdvisor(WindowAdvisor):
    """Asks a server.

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
        super().__init__(window, stride)
        self.model, self.url = model, url
        self._client = OpenAI(base_url=url, api_key=key, timeout=timeout_s, max_retries=1)

    @classmethod
    def parse(cls, spec: str) -> VLMAdvisor:
        """From "vlm:URL#MODEL".

        Raises:
            SetupError: not in that form.
        """
        url, _, model = spec.removeprefix(PREFIX).partition("#")
        if not url.startswith(("http://", "https://")) or not model:
            raise SetupError(
                f"write vlm:URL#MODEL, for example vlm:http://localhost:8000/v1#qwen-vl, or vlm:transformers#FOLDER, "
                f"not {spec!r}"
            )
        return cls(url, model)

    def say(self, text: str, pictures: Sequence[NDArray[np.uint8]]) -> str:
        """The server's answer.

        Raises:
            EpisodeError: the server does not answer.
        """
        from openai import OpenAIError

        content: list[Any] = []
        left = iter(pictures)
        for number, part in enumerate(text.split(IMAGE)):
            if number:
                content.append({"type": "image_url", "image_url": {"url": _data_url(next(left))}})
            if part.strip():
                content.append({"type": "text", "text": part})
        try:
            said = self._client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": content}], temperature=0.0, max_tokens=200
            )
        except OpenAIError as error:
            raise EpisodeError(f"the model at {self.url} does not answer: {' '.join(str(error).split())}") from error
        return (said.choices[0].message.content or "") if said.choices else ""


def _data_url(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
