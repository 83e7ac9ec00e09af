"""Gradient clipping for stacked weights: heads and ensemble members are separate networks that share tensors.

One norm over all of them would let a large gradient of one member, say of the failure head, shorten the others' steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn


def clip_members(
    stacked: Iterable[nn.Parameter], limit: float = 1.0, *,
    shared: Iterable[nn.Parameter] = (), joined: Sequence[int] = (),
) -> None:  # fmt: skip
    """Scale gradients in place to norms of at most ``limit``, each member's on its own.

    Args:
        stacked: parameters (E, ...) of E members.
        limit: largest norm.
        shared: parameters that the ``joined`` members' gradients also reach; all of those count as one.
        joined: indices of these members.
    """
    rows = [p.grad for p in stacked if p.grad is not None]
    common = [p.grad for p in shared if p.grad is not None]
    squares_E = torch.stack([g.flatten(1).square().sum(1) for g in rows]).sum(0)
    if joined:
        total = squares_E[list(joined)].sum()
        for g in common:
            total = total + g.square().sum()
        squares_E[list(joined)] = total
        for g in common:
            g.mul_(_factor(total, limit))
    factor_E = _factor(squares_E, limit)
    for g in rows:
        g.mul_(factor_E.view(-1, *(1,) * (g.dim() - 1)))


def _factor(squares: torch.Tensor, limit: float) -> torch.Tensor:
    return (limit / squares.sqrt().clamp_min(1e-12)).clamp(max=1.0)
