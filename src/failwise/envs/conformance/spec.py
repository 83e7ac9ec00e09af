"""Does an environment's spec agree with itself? The part of the conformance check that makes no step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from failwise.types import EnvSpec

# Proprioception is the robot's own body. A name with one of these words is about something else.
PRIVILEGED = frozenset(
    {"object", "objects", "obj", "goal", "target", "puck", "peg", "cube", "distractor", "obstacle", "reward", "success"}
)


def check_spec(spec: Any) -> Iterator[str]:
    """Yield one line for each way in which a spec is incomplete or contradicts itself."""
    if not isinstance(spec, EnvSpec):
        yield f"spec is {type(spec).__name__}; expected failwise.types.EnvSpec. Fix: self.spec = EnvSpec(...)"
        return
    if not re.fullmatch(r"[a-z0-9_-]+/[A-Za-z0-9_.-]+(:[0-9]+)?(@[a-z0-9_-]+)?", spec.env_id):
        forms = "'suite/task', 'suite/tasks:3' or 'suite/task@variant', the suite in lower case"
        yield f"spec.env_id is {spec.env_id!r}; expected {forms}. Fix spec.env_id"
    yield from _bounds(spec)
    yield from _names(spec)
    yield from _words(spec)
    for camera, size in spec.cameras.items():
        if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
            yield f"spec.cameras[{camera!r}] is {size!r}; expected (height, width) in pixels. Fix spec.cameras"
    if not spec.cameras:
        yield "spec.cameras is empty; expected at least one camera. Fix spec.cameras"
    if spec.step_limit < 1:
        yield f"spec.step_limit is {spec.step_limit}; expected at least 1 step. Fix spec.step_limit"
    if not (np.isfinite(spec.control_hz) and spec.control_hz > 0):
        yield f"spec.control_hz is {spec.control_hz}; expected steps per simulated second, above 0. Fix spec.control_hz"


def _bounds(spec: EnvSpec) -> Iterator[str]:
    low, high = spec.action_low, spec.action_high
    for name, bound in (("action_low", low), ("action_high", high)):
        if not isinstance(bound, np.ndarray) or bound.dtype != np.float32 or bound.ndim != 1 or not len(bound):
            yield f"spec.{name} is not a float32 vector (A,). Fix: np.array([...], np.float32)"
            return
        if not np.isfinite(bound).all():
            yield f"spec.{name} is {bound.tolist()}; expected finite bounds. Fix: give the range that the robot takes"
            return
    if low.shape != high.shape or not (low < high).all():
        yield f"spec.action_low {low.tolist()} is not below spec.action_high {high.tolist()} throughout. Fix the bounds"


def _names(spec: EnvSpec) -> Iterator[str]:
    for field, names in (("state_names", spec.state_names), ("conditions", spec.conditions)):
        if not names or len(set(names)) != len(names):
            yield f"spec.{field} is {names}; expected at least one name, each once. Fix spec.{field}"
    for name in spec.state_names:
        found = [word for word in re.split(r"[^a-z]+", name.lower()) if word in PRIVILEGED]
        if found:
            yield (
                f"spec.state_names has {name!r}: {found[0]!r} is not a part of the robot, so it is privileged "
                "simulator state. Fix: keep it out of observation.state; a policy finds objects in the pictures"
            )


def _words(spec: EnvSpec) -> Iterator[str]:
    groups = {
        "instruction": (spec.instruction,), "paraphrases": tuple(spec.paraphrases), "held_out": tuple(spec.held_out),
    }  # fmt: skip
    for field, wordings in groups.items():
        for wording in wordings:
            if not isinstance(wording, str) or len(wording.split()) < 2 or not re.fullmatch(r"[^{}_<>]+", wording):
                yield (
                    f"spec.{field} holds {wording!r}; expected an English sentence of at least two words, without "
                    f"placeholders or identifiers. Fix spec.{field}"
                )
                return
    trained = {_plain(w) for w in (spec.instruction, *spec.paraphrases)}
    if len(trained) != 1 + len(spec.paraphrases):
        yield "spec.paraphrases repeats itself or spec.instruction. Fix: each wording once"
    shared = [w for w in spec.held_out if _plain(w) in trained]
    if shared:
        yield (
            f"spec.held_out holds {shared[0]!r}, which is also a wording for training; expected wordings never trained "
            "on. Fix: take it out of one of the two"
        )


def _plain(wording: str) -> str:
    return " ".join(re.findall(r"\w+", wording.lower()))
