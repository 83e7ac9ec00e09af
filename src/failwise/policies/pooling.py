"""Which of a policy's features a detector reads: tokens of the prefix, hidden states of the action expert, or both.

SAFE (arXiv 2506.09937) compares such choices for each policy: which tokens or horizon steps, which denoising steps,
and how they are pooled. Here a choice is a text, stored with the episode and with the detector, so that a detector
never reads features of another kind::

    prefix-mean                  mean of the real prefix tokens: what was seen, told and felt
    prefix-max                   the largest value of each channel over them: whether something is anywhere
    prefix-first, prefix-last    the first (proprioception) or the last real token (the end of the instruction)
    expert-mean                  the acting expert's hidden states at the last denoising step, mean over the horizon
    expert-first, expert-last    at the first or last action of the chunk: what is about to be done
    expert-mean@mean             mean over the denoising steps as well; @first and @last take one of them
    prefix-mean+expert-mean      several, one after another
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from failwise.errors import SetupError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DEFAULT = "prefix-mean"
SOURCES, POOLS, STEPS = ("prefix", "expert"), ("mean", "max", "first", "last"), ("mean", "first", "last")


@dataclass(frozen=True)
class _Part:
    source: str
    pool: str
    denoising: str


@dataclass(frozen=True)
class Pooling:
    """A choice of features.

    Attributes:
        text: as it is written in episodes and detectors.
        parts: what it says.
    """

    text: str
    parts: tuple[_Part, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a choice.

        Raises:
            SetupError: it is none.
        """
        parts = []
        for one in text.split("+"):
            what, at, denoising = one.strip().partition("@")
            source, _, pool = what.partition("-")
            known = source in SOURCES and pool in POOLS and (not at or (source == "expert" and denoising in STEPS))
            if not known:
                raise SetupError(
                    f"unknown features {one.strip()!r}: write prefix-POOL or expert-POOL, POOL mean, max, first or "
                    "last, for the expert also @mean, @first or @last over denoising steps, and + between several"
                )
            parts.append(_Part(source, pool, denoising or "last"))
        return cls(text, tuple(parts))

    @property
    def needs_hidden(self) -> bool:
        """Whether the expert's hidden states have to be kept while sampling."""
        return any(part.source == "expert" for part in self.parts)

    def __call__(self, context: Any, index_B: Tensor) -> list[Tensor]:
        """The features (B, D) of each part, float32.

        Args:
            context: of the inference, with the hidden states of its sampling where they are needed.
            index_B: which of the N samples was chosen.

        Raises:
            SetupError: the policy offers only its own default features.
        """
        if self.text == DEFAULT:
            return [context.features_BD.float()]
        if not hasattr(context, "prefix_BLD") or (self.needs_hidden and not getattr(context, "hidden", None)):
            raise SetupError(f"this kind of policy has no features {self.text!r}; use {DEFAULT}")
        import torch

        out = []
        for part in self.parts:
            if part.source == "expert":
                stacked_KBNHD = torch.stack(context.hidden)
                chosen_BNHD = _pool(stacked_KBNHD, part.denoising, 0)
                rows = torch.arange(len(index_B), device=index_B.device)
                out.append(_pool(chosen_BNHD[rows, index_B], part.pool, 1))
            elif part.pool == "mean":
                out.append(context.features_BD)
            elif part.pool == "max":
                hidden_BL1 = ~context.mask_B11L[:, 0, 0, :, None].bool()
                out.append(context.prefix_BLD.float().masked_fill(hidden_BL1, float("-inf")).amax(1))
            elif part.pool == "first":
                out.append(context.prefix_BLD[:, 0])
            else:  # padding comes last, so the last real token is at the number of real ones
                last_B = context.mask_B11L[:, 0, 0].sum(1) - 1
                out.append(context.prefix_BLD[torch.arange(len(last_B), device=last_B.device), last_B])
        return [x.float() for x in out]


def _pool(x: torch.Tensor, how: str, axis: int) -> torch.Tensor:
    if how == "mean":
        return x.mean(axis)
    if how == "max":
        return x.amax(axis)
    return x.select(axis, 0 if how == "first" else -1)
