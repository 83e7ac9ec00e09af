"""FailSafe's three figures of a recovery actor (arXiv 2510.01642), and what they leave out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def figures(
    failing: NDArray[np.bool_], called: NDArray[np.bool_], kind_right: NDArray[np.bool_],
    stage_right: NDArray[np.bool_], advised_K7: NDArray[np.floating], verified_K7: NDArray[np.floating],
) -> dict[str, float]:  # fmt: skip
    """How well M moments are known, K of them with a verified move.

    Args:
        failing: bool (M,), whether they fail.
        called: bool (M,), whether the actor says so.
        kind_right: bool (M,), whether mode and axis are the right ones.
        stage_right: bool (M,), whether the sub-task is.
        advised_K7: moves in metres and radians, and the gripper; zeros where none is advised.
        verified_K7: those that were seen to work.

    Returns:
        ``binary``: accuracy of failing or not, both classes weighted alike. ``kind``: share of failing moments that are
        called failing with the right mode and axis. ``cosine``: mean between advised and verified move, without the
        gripper; a move that is not advised counts as 0. ``gripper``: share of moves with the right one. ``stage``:
        accuracy. And the counts. NaN where there is nothing to judge.
    """
    from sklearn.metrics import balanced_accuracy_score

    both, moves = 0 < failing.sum() < len(failing), len(verified_K7)
    lengths = np.linalg.norm(advised_K7[:, :6], axis=1) * np.linalg.norm(verified_K7[:, :6], axis=1)
    cosine = (advised_K7[:, :6] * verified_K7[:, :6]).sum(1) / np.maximum(lengths, 1e-9)
    right = called & kind_right
    return {
        "binary": float(balanced_accuracy_score(failing, called)) if both else float("nan"),
        "kind": float(right[failing].mean()) if failing.any() else float("nan"),
        "cosine": float(cosine.mean()) if moves else float("nan"),
        "gripper": float((np.sign(advised_K7[:, 6]) == verified_K7[:, 6]).mean()) if moves else float("nan"),
        "stage": float(stage_right.mean()),
        "moments": len(failing), "failing_moments": int(failing.sum()), "moves": moves,
    }  # fmt: skip
