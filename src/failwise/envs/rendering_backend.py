"""Which of MuJoCo's ways to render is used: chosen before MuJoCo is imported, because it never looks again."""

from __future__ import annotations

import os
import sys

ORDER_REMEDY = (
    "start Python with MUJOCO_GL=egl in its environment (or osmesa), or import failwise.envs.metaworld or "
    "failwise.envs.libero before mujoco"
)


def prepare_rendering() -> None:
    """Choose off-screen rendering on Linux, where the user has chosen nothing.

    Call it before the first ``import mujoco``: MuJoCo reads ``MUJOCO_GL`` at import, and only then.
    """
    if sys.platform == "linux":
        if "mujoco" not in sys.modules:  # too late otherwise: a name that MuJoCo never read would hide the fault
            os.environ.setdefault("MUJOCO_GL", "egl")
        # Software rendering in the calling thread: the same pixels, and workers do not fight over the cores.
        os.environ.setdefault("LP_NUM_THREADS", "0")
