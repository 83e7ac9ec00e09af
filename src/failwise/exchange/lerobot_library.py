"""Where LeRobot is imported, and nowhere else."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import Any

from failwise.errors import MissingDependencyError

_REMEDY = "'make lerobot' sets up an environment with it, whose failwise is .venv-lerobot/bin/failwise"


def lerobot_module(name: str) -> Any:
    """A module of LeRobot: ``lerobot_module("datasets.lerobot_dataset")``.

    Raises:
        MissingDependencyError: LeRobot, or what its datasets need, is not installed here.
    """
    try:
        module = import_module(f"lerobot.{name}")
    except ImportError as error:
        missing = f" ({error.name} is missing)" if error.name and not error.name.startswith("lerobot") else ""
        raise MissingDependencyError(
            f"LeRobot is not installed here{missing}: it needs Python 3.12 or newer; {_REMEDY}"
        ) from error
    # Its progress bars and notes, and those of its video libraries, would hide ours.
    os.environ.setdefault("SVT_LOG", "1")
    import_module("av.logging").set_libav_level(import_module("av.logging").ERROR)
    logging.getLogger("lerobot").setLevel(logging.ERROR)
    try:
        import_module("datasets").disable_progress_bars()
    except ImportError as error:
        raise MissingDependencyError(f"LeRobot is here without what its datasets need: {_REMEDY}") from error
    return module
