"""Detectors by name, and from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from failwise import registry
from failwise.detect.base import FORMAT, Detector
from failwise.detect.monitor import Monitor
from failwise.errors import CheckpointError, SetupError


def make_detector(name: str, **options: Any) -> Detector:
    """A detector that is not fitted yet.

    Raises:
        UnknownNameError: no detector of that name. SetupError: an option is unknown or out of range.
    """
    kind = registry.load("detector", name)
    try:
        made: Detector = kind(**options)
    except TypeError as error:
        raise SetupError(f"detector {name!r}: {error}") from error
    return made


def load_detector(folder: Path, checkpoint_sha256: str = "") -> Detector:
    """The detector in a folder.

    Args:
        folder: what ``Detector.save`` wrote.
        checkpoint_sha256: of the policy that it is to watch; "" does not compare.

    Raises:
        CheckpointError: missing, damaged, of another format, or fitted on another policy.
    """
    path = folder / "detector.json"
    if not path.is_file():
        raise CheckpointError(f"no detector at {folder}; fit one with: failwise detect fit")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        name, options, known = str(about["detector"]), dict(about["options"]), str(about["checkpoint_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path} is of format {about.get('format')!r}, this version reads {FORMAT!r}")
    if checkpoint_sha256 and known and checkpoint_sha256 != known:
        raise CheckpointError(
            f"the detector in {folder} was fitted on checkpoint {known[:12]}, the policy is {checkpoint_sha256[:12]}: "
            "its scores and bands mean nothing there; fit one on episodes of this policy"
        )
    return make_detector(name, **options).load_from(folder, about)


def load_monitor(folder: Path, checkpoint_sha256: str = "") -> Monitor:
    """The detector and its bands in a folder; raises as ``load_detector`` does."""
    return Monitor.load(folder, load_detector(folder, checkpoint_sha256))
