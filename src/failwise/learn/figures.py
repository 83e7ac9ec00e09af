"""FailSafe's three figures of a recovery actor (arXiv 2510.01642), and what they leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Kind = tuple[str, str]
FEW = 10  # layouts below which a bootstrap says little
SAME = 1e-9  # between percentiles of samples that all agree, but for rounding
TYPES = {  # FailSafe's, of modes that it does not tell apart: a pose is displaced, or a command is not executed
    "misaligned_grasp": "translation",
    "wrong_goal": "translation",
    "late_close": "noop",
    "no_grasp": "noop",
}


def figures(
    failing: NDArray[np.bool_], called: NDArray[np.bool_], kinds: Sequence[Kind], named: Sequence[Kind],
    stage_right: NDArray[np.bool_], advised_K7: NDArray[np.floating], verified_K7: NDArray[np.floating],
) -> dict[str, float]:  # fmt: skip
    """How well M moments are known, K of them with a verified move.

    Args:
        failing: bool (M,), whether they fail.
        called: bool (M,), whether the actor says so.
        kinds: M times mode and axis.
        named: M times those that the actor names.
        stage_right: whether the sub-task is, at the moments of which it is known.
        advised_K7: moves in metres and radians, and the gripper; zeros where none is advised.
        verified_K7: those that were seen to work.

    Returns:
        ``binary``: accuracy of failing or not, both classes weighted alike. ``kind``: share of failing moments that are
        called failing with the right mode and axis. ``type``: the same with modes as one that FailSafe does not tell
        apart, see ``TYPES``. ``cosine``: mean between advised and verified move, without the gripper; a move that is
        not advised counts as 0. ``gripper``: share of moves with the right one. ``stage``: accuracy. And the counts.
        NaN where there is nothing to judge.
    """
    from sklearn.metrics import balanced_accuracy_score

    both, moves = 0 < failing.sum() < len(failing), len(verified_K7)
    right, alike = _named_right(called, kinds, named)
    return {
        "binary": float(balanced_accuracy_score(failing, called)) if both else float("nan"),
        "kind": float(right[failing].mean()) if failing.any() else float("nan"),
        "type": float(alike[failing].mean()) if failing.any() else float("nan"),
        "cosine": float(_cosines(advised_K7, verified_K7).mean()) if moves else float("nan"),
        "gripper": float((np.sign(advised_K7[:, 6]) == verified_K7[:, 6]).mean()) if moves else float("nan"),
        "stage": float(stage_right.mean()) if len(stage_right) else float("nan"),
        "moments": len(failing), "failing_moments": int(failing.sum()), "moves": moves,
    }  # fmt: skip


def intervals(
    layouts: NDArray[np.integer], of_moves: NDArray[np.integer], failing: NDArray[np.bool_], called: NDArray[np.bool_],
    kinds: Sequence[Kind], named: Sequence[Kind], advised_K7: NDArray[np.floating], verified_K7: NDArray[np.floating],
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """95% intervals of ``binary``, ``kind``, ``type`` and ``cosine``: the moments of a layout are drawn together.

    Percentiles of 2,000 bootstrap samples of layouts. A figure has none where fewer than ``FEW`` layouts have a say in
    it, where some sample leaves it undefined, or where all samples agree: the bootstrap knows nothing there.

    Args:
        layouts: int (M,), the layout of each moment, from 0 on.
        of_moves: int (K,), that of each verified move.
        failing: bool (M,), whether they fail.
        called: bool (M,), whether the actor says so.
        kinds: M times mode and axis.
        named: M times those that the actor names.
        advised_K7: moves, as for ``figures``.
        verified_K7: those that were seen to work.
    """
    n = int(layouts.max()) + 1 if len(layouts) else 0
    if n < FEW:
        return {}
    right, alike = _named_right(called, kinds, named)

    def per_layout(which: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(which, np.asarray(values, np.float64), n), np.float64)

    bad, good = per_layout(layouts, failing), per_layout(layouts, ~failing)
    found, passed = per_layout(layouts, failing & called), per_layout(layouts, ~failing & ~called)
    cosines = _cosines(advised_K7, verified_K7)
    shares = {  # figure -> pairs of what is counted and of how many, whose shares are averaged
        "binary": (found, bad, passed, good),
        "kind": (per_layout(layouts, failing & right), bad),
        "type": (per_layout(layouts, failing & alike), bad),
        "cosine": (per_layout(of_moves, cosines), per_layout(of_moves, np.ones(len(cosines)))),
    }
    times_Bn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 2000)  # how often each layout is drawn
    out = {}
    for name, sums in shares.items():
        if min(int((of > 0).sum()) for of in sums[1::2]) < FEW:
            continue
        drawn = [times_Bn @ each for each in sums]
        with np.errstate(invalid="ignore", divide="ignore"):
            sample_B = np.mean([count / of for count, of in zip(drawn[::2], drawn[1::2], strict=True)], axis=0)
        if np.isfinite(sample_B).all():
            low, high = map(float, np.percentile(sample_B, [2.5, 97.5]))
            if high - low > SAME:
                out[name] = (low, high)
    return out


def _named_right(
    called: NDArray[np.bool_], kinds: Sequence[Kind], named: Sequence[Kind]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Moments that are called failing with the right mode and axis, and with the right type and axis."""
    right = called & np.array([a == b for a, b in zip(kinds, named, strict=True)], bool)
    alike = called & np.array([_type(a) == _type(b) for a, b in zip(kinds, named, strict=True)], bool)
    return right, alike


def _cosines(advised_K7: NDArray[np.floating], verified_K7: NDArray[np.floating]) -> NDArray[np.floating]:
    """Of each advised move with the verified one, without the gripper; 0 where none is advised."""
    lengths = np.linalg.norm(advised_K7[:, :6], axis=1) * np.linalg.norm(verified_K7[:, :6], axis=1)
    return np.asarray((advised_K7[:, :6] * verified_K7[:, :6]).sum(1) / np.maximum(lengths, 1e-9))


def _type(kind: Kind) -> Kind:
    return (TYPES.get(kind[0], kind[0]), kind[1])
