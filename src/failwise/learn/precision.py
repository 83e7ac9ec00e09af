"""In what precision a training computes: what its options say, never what the processor happens to be good at."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from failwise.learn.options import Precision

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def computing_in(precision: Precision, device_type: str) -> AbstractContextManager[None]:
    """A context in which matrix products and convolutions compute in ``precision``; weights stay as they are.

    Args:
        precision: float32 changes nothing; bfloat16 is PyTorch's automatic mixed precision.
        device_type: "cpu" or "cuda".
    """
    return torch.autocast(device_type, torch.bfloat16, enabled=precision == "bfloat16")
