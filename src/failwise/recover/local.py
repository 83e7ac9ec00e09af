"""A vision-language model in this process as recovery actor: what ``failwise train vlm`` wrote, or any such model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from failwise.errors import CheckpointError, EpisodeError, SetupError
from failwise.recover.questions import FRAMES
from failwise.recover.window import WindowAdvisor

if TYPE_CHECKING:
    from failwise.recover.vision_language import VisionLanguage

PREFIX = "vlm:transformers#"
FILE = "vlm.json"


class TunedVLM(BaseModel):
    """What ``vlm.json`` says.

    Attributes:
        base: name or folder of the model that was tuned. weights: the folder beside the JSON that holds what was
            learned: an adapter of the base, or a model with its processor.
        window: frames of each camera to choose from. stride: steps between them.
        frames, image_size, answer_tokens: how it is shown a question, as in ``Asking``.
        precision: of the weights that it was trained with, and is asked with.
        notes: figures, and how it was trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal["failwise-vlm-1"] = "failwise-vlm-1"
    base: str
    weights: Literal["adapter", "model"]
    window: int = Field(default=FRAMES, ge=1)
    stride: int = Field(default=2, ge=1)
    frames: int = Field(default=FRAMES, ge=1)
    image_size: int = Field(default=0, ge=0)
    answer_tokens: int = Field(default=200, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    notes: dict[str, Any] = Field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Into ``folder``, last of all that is written there: what has it is complete."""
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> TunedVLM:
        """From ``folder``.

        Raises:
            CheckpointError: it is none that ``failwise train vlm`` finished.
        """
        try:
            return cls.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
        except (OSError, ValidationError, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{folder} is no model that 'failwise train vlm' wrote ({why})") from error


class LocalVLM(WindowAdvisor):
    """Asks a model in this process; its weights are read at the first question.

    Args:
        folder: what ``failwise train vlm`` wrote, or another model's folder or name on a hub: that one is asked as it
            is.

    Raises:
        CheckpointError: no such model, or none that takes pictures and text.
        MissingDependencyError: transformers, peft, or a library that its processor needs, is not installed.
    """

    def __init__(self, folder: str) -> None:
        from failwise.recover.pretrained import check_model, load_processor, peft
        from failwise.recover.vision_language import Asking, VisionLanguage

        path = Path(folder)
        self._tuned = tuned = (path / FILE).is_file()
        self.about = TunedVLM.read(path) if tuned else TunedVLM(base=folder, weights="model")
        self._adapter = path / "adapter" if self.about.weights == "adapter" else None
        self._name = str(path / "model") if tuned and self._adapter is None else self.about.base
        super().__init__(self.about.window, self.about.stride)
        if self._adapter is not None:
            peft()
        check_model(self._name)
        about = self.about
        asking = Asking(about.frames, about.image_size, about.answer_tokens)
        self._asked = VisionLanguage(None, load_processor(self._name), asking, self._name)

    @classmethod
    def parse(cls, spec: str) -> LocalVLM:
        """From "vlm:transformers#FOLDER".

        Raises:
            SetupError: no folder is named. CheckpointError, MissingDependencyError: as above.
        """
        folder = spec.removeprefix(PREFIX)
        if not folder:
            raise SetupError(f"write {PREFIX}FOLDER, with what 'failwise train vlm' wrote, not {spec!r}")
        return cls(folder)

    def model(self) -> VisionLanguage:
        """The model with its weights.

        Raises:
            CheckpointError: they cannot be read.
        """
        import torch

        from failwise.recover.pretrained import load_model

        if self._asked.model is None:
            trained_in = torch.bfloat16 if self.about.precision == "bfloat16" else torch.float32
            dtype = trained_in if self._tuned else None
            self._asked.model = load_model(self._name, self._adapter, dtype).eval()
        return self._asked

    def say(self, text: str, pictures: Sequence[NDArray[np.uint8]]) -> str:
        """The model's answer.

        Raises:
            EpisodeError: it ran out of memory, or another error of the accelerator.
        """
        from failwise.recover.pretrained import one_line

        try:
            (said,) = self.model().say([(text, pictures)])
        except RuntimeError as error:
            raise EpisodeError(f"{self._name} does not answer: {one_line(error)}") from error
        return said
