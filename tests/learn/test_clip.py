"""Clipping of stacked weights against PyTorch's own clipping of each member on its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from failwise.learn.clip import clip_members

E = 3


def parameters(scales, seed=0):
    """Stacked parameters whose members' gradients have very different norms, and two shared ones."""
    generator = torch.Generator().manual_seed(seed)
    stacked = [nn.Parameter(torch.zeros(E, *shape)) for shape in ((4, 5), (1, 5), (2, 2, 2))]
    shared = [nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(7))]
    for p in stacked:
        p.grad = torch.randn(p.shape, generator=generator) * torch.tensor(scales).view(-1, *(1,) * (p.dim() - 1))
    for p in shared:
        p.grad = torch.randn(p.shape, generator=generator) * scales[0]
    return stacked, shared


def member(stacked, e):
    """One member's slices as parameters of their own."""
    out = []
    for p in stacked:
        one = nn.Parameter(p.detach()[e].clone())
        one.grad = p.grad[e].clone()
        out.append(one)
    return out


@pytest.mark.parametrize("scales", [(1.0, 50.0, 1e-4), (1e-3, 1e-3, 1e-3), (0.0, 3.0, 9.0)])
def test_every_member_is_clipped_as_if_alone(scales):
    stacked, _ = parameters(scales)
    alone = [member(stacked, e) for e in range(E)]
    for one in alone:
        nn.utils.clip_grad_norm_(one, 1.0)
    clip_members(stacked)
    for e in range(E):
        for p, expected in zip(stacked, alone[e], strict=True):
            torch.testing.assert_close(p.grad[e], expected.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("joined", [[0], [0, 2], [1]])
def test_joined_members_and_what_they_share_have_one_norm(joined):
    stacked, shared = parameters((5.0, 20.0, 2.0))
    together = [p for e in joined for p in member(stacked, e)]
    for p in shared:
        one = nn.Parameter(p.detach().clone())
        one.grad = p.grad.clone()
        together.append(one)
    nn.utils.clip_grad_norm_(together, 0.7)
    clip_members(stacked, 0.7, shared=shared, joined=joined)
    found = [p.grad[e] for e in joined for p in stacked] + [p.grad for p in shared]
    for gradient, expected in zip(found, together, strict=True):
        torch.testing.assert_close(gradient, expected.grad, rtol=1e-5, atol=1e-7)


def test_parameters_without_a_gradient_are_left_alone():
    stacked, shared = parameters((5.0, 5.0, 5.0))
    stacked[1].grad, shared[0].grad = None, None
    clip_members(stacked, shared=shared, joined=[0])
    assert stacked[1].grad is None and shared[0].grad is None
