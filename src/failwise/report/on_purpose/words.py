"""What was done, and the move that mends it, in words. Pure; lengths in cm, angles in degrees, times in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from failwise.generate import MODES, Correction, Perturbation
from failwise.types import HAND_AXES, EpisodeMeta

MINUS = "\N{MINUS SIGN}"
LEAST_CM, LEAST_DEGREES = 0.1, 1.0  # components of a move that are told
WAYS = {
    "expert": "to where the expert goes from there",
    "correct": "to a pose of the correct way",
    "none": "by no known way",
}
UNITS = {"m": ("cm", 100.0), "rad": ("degrees", 180 / math.pi)}


def named(name: str) -> str:
    """A mode, stage or axis as people write it."""
    return name.replace("_", " ")


def kind_of(mode: str, axis: str) -> str:
    """Mode and axis: "translation along x"; "rotation in yaw"; "wrong object: other disc"."""
    if not axis:
        return named(mode)
    between = " along " if axis in HAND_AXES[:3] else " in " if axis in HAND_AXES[3:] else ": "
    return f"{named(mode)}{between}{named(axis)}"


def amount(value: float, unit: str, *, signed: bool = True) -> str:
    """A magnitude with its unit; metres become centimetres, radians degrees."""
    shown, _ = UNITS.get(unit, (unit, 1.0))
    sign = "" if not signed else MINUS if value < 0 else "+"
    return f"{sign}{_size(value, unit)} {shown}".strip()


def span(low: float, high: float, unit: str) -> str:
    """Two magnitudes with their common unit: ``1.0 to 4.0 cm``."""
    return f"{_size(low, unit)} to {amount(high, unit, signed=False)}"


def _size(value: float, unit: str) -> str:
    """A magnitude's absolute value without its unit."""
    shown, factor = UNITS.get(unit, (unit, 1.0))
    digits = 0 if shown in ("degrees", "steps") else 1
    return f"{abs(value * factor):.{digits}f}"


def change_of(p: Perturbation, control_hz: float) -> str:
    """One sentence on a perturbation."""
    size, steps = amount(p.magnitude, MODES[p.mode].unit if p.mode in MODES else ""), round(abs(p.magnitude))
    lasting = f"{steps} steps ({steps / control_hz:.2g} s)"
    said = {
        "translation": f"The pose of this stage is {size} off along {p.axis}.",
        "rotation": f"The hand is turned by {size} in {p.axis} in this stage.",
        "misaligned_grasp": f"The hand closes {size} off along {p.axis}.",
        "wrong_goal": f"What is held is brought {size} off along {p.axis}, and left there.",
        "noop": f"Commands are lost for {lasting}.",
        "slip": f"The grip loosens for {lasting}.",
        "early_release": "The gripper opens too early and stays open.",
        "late_close": f"The gripper closes {lasting} late.",
        "no_grasp": "The gripper never closes.",
        "speed": f"The stage is run through {abs(p.magnitude):.1f} times as fast.",
        "wrong_sequence": "The stage is done after the one that should follow it.",
        "wrong_object": f"Another thing is taken: {named(p.axis)}.",
    }
    return said.get(p.mode) or f"{kind_of(p.mode, p.axis)}, {size}."


def cause_of(meta: EpisodeMeta) -> str:
    """One sentence on why an episode failed: what was done to it, or what rules found."""
    if "perturbation" in meta.extra:
        return change_of(Perturbation.model_validate(meta.extra["perturbation"]), meta.control_hz)
    found = next((e.evidence for e in meta.failure_events if e.evidence), "")
    said = found[:1].upper() + found[1:] if found else "No evidence was recorded"
    return said if said.endswith(".") else f"{said}."


def move_of(delta: Sequence[float]) -> str:
    """A corrective move dA (7,), metres, radians, gripper, as "−6.0 cm in x, turn +12° in yaw; gripper open"."""
    cm = [(axis, 100 * float(d)) for axis, d in zip(HAND_AXES[:3], delta[:3], strict=True)]
    degrees = [(axis, math.degrees(float(d))) for axis, d in zip(HAND_AXES[3:], delta[3:6], strict=True)]
    parts = [f"{_signed(x, 1)} cm in {axis}" for axis, x in cm if abs(x) >= LEAST_CM]
    turns = [f"{_signed(x, 0)}° in {axis}" for axis, x in degrees if abs(x) >= LEAST_DEGREES]
    parts += [f"turn {', '.join(turns)}"] if turns else []
    where = ", ".join(parts) or "stay"
    return f"{where}; gripper {'closed' if delta[6] > 0 else 'open' if delta[6] < 0 else 'as it is'}"


def steps_of(correction: Correction, control_hz: float) -> str:
    """What a recovery took."""
    n = correction.moved + correction.after
    return (
        f"{n} steps ({n / control_hz:.1f} s) from step {correction.at} to success: {correction.moved} for the move, "
        f"then {correction.after} of the expert"
    )


def counted(counts: Mapping[str, int], none: str) -> str:
    """Counts in a row, those of nothing left out: "3 kept, 6 harmless"; ``none`` where there are none."""
    return ", ".join(f"{n} {named(name)}" for name, n in counts.items() if n) or none


def plural(n: int, noun: str) -> str:
    """A number and its noun: "1 task", "2 tasks", "3 recoveries"."""
    if n == 1:
        return f"{n} {noun}"
    return f"{n} {noun[:-1]}ies" if noun.endswith("y") else f"{n} {noun}s"


def correction_of(about: Mapping[str, Any]) -> Correction:
    """A correction as it is recorded."""
    return Correction.model_validate(about)


def _signed(value: float, digits: int) -> str:
    return f"{MINUS if value < 0 else '+'}{abs(value):.{digits}f}"
