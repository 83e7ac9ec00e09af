"""A vision-language model in this process, through transformers: questions with pictures in, sentences out.

Nothing of a question depends on who asks: training, its figures and the robot's loop come through ``VisionLanguage``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from failwise.errors import CheckpointError
from failwise.recover.pretrained import one_line
from failwise.recover.questions import FRAMES, IMAGE, thinned

IGNORED = -100  # as a label: no loss
_PER_TOKEN = ("attention_mask", "token_type_ids", "mm_token_type_ids")

Pictures = Sequence[Image.Image | NDArray[np.uint8]]


@dataclass(frozen=True)
class Asking:
    """How a model is shown a question, the same in training and afterwards.

    Attributes:
        frames: pictures of each camera. image_size: their longest side in pixels, 0 for as they are.
        answer_tokens: an answer has at most.
    """

    frames: int = FRAMES
    image_size: int = 0
    answer_tokens: int = 200


class VisionLanguage:
    """A model with its processor.

    Args:
        model: what ``AutoModelForImageTextToText`` gives, or the same in peft's wrapper. processor: its own.
        asking: how it is shown a question.
        name: for messages.

    Raises:
        CheckpointError: no chat template, or one in which an answer does not follow its question.
    """

    def __init__(self, model: Any, processor: Any, asking: Asking, name: str) -> None:
        self.model, self.processor, self.asking, self.name = model, processor, asking, name
        if hasattr(processor.image_processor, "do_image_splitting"):
            processor.image_processor.do_image_splitting = False  # dozens of pictures, one tile each
        self._before, self._after = self._around_answer()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens of an answer as the template has them, the end of the turn included."""
        text = self._before + answer + self._after
        return list(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompts(self, questions: Sequence[tuple[str, Pictures]]) -> dict[str, Tensor]:
        """Inputs of B questions up to where the answer begins, padded on the left: input_ids (B, T) and the rest.

        Raises:
            DataError: a question has not as many pictures as places for them.
        """
        texts, images = [], []
        for text, pictures in questions:
            text, chosen = thinned(text, pictures, self.asking.frames)
            texts.append(self._chat([_user(text)], open_end=True))
            images.append([self._picture(picture) for picture in chosen])
        tokenizer = self.processor.tokenizer
        # A template that writes the first token itself must not get a second one.
        begun = tokenizer.bos_token is not None and texts[0].startswith(tokenizer.bos_token)
        inputs = self.processor(
            text=texts, images=images if any(images) else None, return_tensors="pt", padding=True, padding_side="left",
            add_special_tokens=not begun,
        )  # fmt: skip
        return {name: self._placed(value) for name, value in inputs.items() if torch.is_tensor(value)}

    def lesson(
        self, questions: Sequence[tuple[str, Pictures]], answers: Sequence[Sequence[int]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of B questions with their answers, padded on the right, and labels (B, T).

        The labels are the answers' tokens, ``IGNORED`` elsewhere. A question's tokens are those that ``prompts`` gives:
        the model learns to go on exactly from where it will be asked.
        """
        inputs = self.prompts(questions)
        asked = inputs["attention_mask"].bool()
        rows = [torch.tensor(a, device=asked.device) for a in answers]

        def joined(left: Tensor, right: Sequence[Tensor], fill: int) -> Tensor:
            parts = [torch.cat([x[m], y]) for x, m, y in zip(left, asked, right, strict=True)]
            return pad_sequence(parts, batch_first=True, padding_value=fill)

        ids = inputs["input_ids"]
        labels = joined(torch.full_like(ids, IGNORED), rows, IGNORED)
        for name in _PER_TOKEN:
            if name in inputs:
                of_answers = [torch.full_like(row, int(name == "attention_mask")) for row in rows]
                inputs[name] = joined(inputs[name], of_answers, 0)
        inputs["input_ids"] = joined(ids, rows, self._pad)
        return inputs, labels

    def logits(self, inputs: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, K, V) before each of the last K tokens, and their labels (B, K); K reaches back to every answer.

        Of tens of thousands of picture tokens no score is computed where the model can be told so.
        """
        first = int((labels != IGNORED).any(0).nonzero()[0])
        keep = labels.shape[1] - first + 1
        inner = getattr(self.model, "get_base_model", lambda: self.model)()
        fewer = {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
        scores = self.model(**inputs, use_cache=False, **fewer).logits[:, -keep:-1]
        return scores, labels[:, first:]

    @torch.inference_mode()
    def say(self, questions: Sequence[tuple[str, Pictures]]) -> list[str]:
        """What it answers, each time the likeliest word.

        Raises:
            DataError: a question has not as many pictures as places for them.
        """
        from transformers import GenerationConfig

        self.model.eval()
        ends = {self.answer_ids("")[-1], self.processor.tokenizer.eos_token_id} - {None}
        how = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self.asking.answer_tokens, do_sample=False, num_beams=1, eos_token_id=sorted(ends),
            pad_token_id=self._pad,
        )  # fmt: skip
        inputs = self.prompts(questions)
        told = self.model.generate(**inputs, generation_config=how)[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.tokenizer.batch_decode(told, skip_special_tokens=True)]

    @property
    def _pad(self) -> int:
        tokenizer = self.processor.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def _chat(self, messages: list[dict[str, Any]], open_end: bool) -> str:
        try:
            return str(self.processor.apply_chat_template(messages, add_generation_prompt=open_end, tokenize=False))
        except (ValueError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{self.name} has no chat template to ask it with ({one_line(error)})") from error

    def _around_answer(self) -> tuple[str, str]:
        """What the template writes between a question and its answer's first word, and after its last."""
        ask, answer = _user(f"{IMAGE} What?"), "ANSWER"
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        prompt, whole = self._chat([ask], open_end=True), self._chat([ask, said], open_end=False)
        before, found, after = whole.removeprefix(prompt).partition(answer)
        if not whole.startswith(prompt) or not found:
            raise CheckpointError(f"the chat template of {self.name} does not put an answer after its question")
        return before, after.rstrip() or self.processor.tokenizer.eos_token or ""

    def _picture(self, picture: Image.Image | NDArray[np.uint8]) -> Image.Image:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        scale = self.asking.image_size / max(image.size)
        if not 0 < scale < 1:
            return image.convert("RGB")
        return image.convert("RGB").resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)

    def _placed(self, value: Tensor) -> Tensor:
        dtype = next(iter(self.model.parameters())).dtype
        return value.to(self.device, dtype if value.is_floating_point() else None)


def _user(text: str) -> dict[str, Any]:
    """A question as chat templates take it: words and places for pictures, in order."""
    content: list[dict[str, str]] = []
    for number, part in enumerate(text.split(IMAGE)):
        content += [{"type": "image"}] if number else []
        content += [{"type": "text", "text": part}] if part.strip() else []
    return {"role": "user", "content": content}
