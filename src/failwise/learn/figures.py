"""FailSafe's three figures of a recovery actor (arXiv 2510.01642), and what they leave out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Kind = tuple[str, str]
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
    lengths = np.linalg.norm(advised_K7[:, :6], axis=1) * np.linalg.norm(verified_K7[:, :6], axis=1)
    cosine = (advised_K7[:, :6] * verified_K7[:, :6]).sum(1) / np.maximum(lengths, 1e-9)
    right = called & np.array([a == b for a, b in zip(kinds, named, strict=True)], bool)
    alike = called & np.array([_type(a) == _type(b) for a, b in zip(kinds, named, strict=True)], bool)
    return {
        "binary": float(balanced_accuracy_score(failing, called)) if both else float("nan"),
        "kind": float(right[failing].mean()) if failing.any() else float("nan"),
        "type": float(alike[failing].mean()) if failing.any() else float("nan"),
        "cosine": float(cosine.mean()) if moves else float("nan"),
        "gripper": float((np.sign(advised_K7[:, 6]) == verified_K7[:, 6]).mean()) if moves else float("nan"),
        "stage": float(stage_right.mean()) if len(stage_right) else float("nan"),
        "moments": len(failing), "failing_moments": int(failing.sum()), "moves": moves,
    }  # fmt: skip


def _type(kind: Kind) -> Kind:
    return (TYPES.get(kind[0], kind[0]), kind[1])
