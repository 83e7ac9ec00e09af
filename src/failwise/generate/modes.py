"""What can be done to a plan so that it fails: one small function a mode, each changing exactly one thing.

The modes of FailSafe (arXiv 2510.01642): translation, rotation, no-op. Of AHA and FailGen: slip, a dropped gripper
command, a wrong sequence. Of RoboFAC: speed, closing late. And early release, a misaligned grasp, another goal than the
instruction's, another object than the instruction's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from failwise.envs.leading import ArmEnvironment
from failwise.errors import SetupError, UnknownNameError
from failwise.generate.plan import Plan, Script, others_of
from failwise.types import HAND_AXES

LINEAR, ANGULAR, LEVEL = HAND_AXES[:3], HAND_AXES[3:], HAND_AXES[:2]
RAMP = 10  # steps in which a displacement comes and goes: a pose a stage away is not reached at once
SLIP_STEPS = 6  # that the gripper stays open when something slips


class Perturbation(BaseModel):
    """One change of one plan.

    Attributes:
        mode: see ``MODES``. axis: of the hand, for displacements; which other thing is taken; else "". stage: of the
            plan.
        magnitude: signed, in the mode's unit. at: where in the stage it begins, 0 to 1, for what has a moment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    mode: str
    axis: str = ""
    stage: str
    magnitude: float
    at: float = Field(default=0.0, ge=0.0, le=1.0)


Build = Callable[[Plan, Script, int, int, Perturbation], Script | None]


@dataclass(frozen=True)
class Mode:
    """A way to fail.

    Attributes:
        build: (plan, its script, first step of the stage, step after its last, perturbation) -> the changed script,
            or None where the mode does not apply to that stage of that plan.
        low, high: magnitudes by default, in ``unit``. signed: both directions are drawn.
        axes: along which it can act; () for a mode without direction.
    """

    build: Build
    low: float
    high: float
    unit: str
    axes: tuple[str, ...] = ()

    @property
    def signed(self) -> bool:
        """Whether both directions are drawn."""
        return bool(self.axes)


def perturb(plan: Plan, p: Perturbation) -> Script | None:
    """The plan with one change, or None where the mode does not apply to it."""
    if p.stage not in plan.spans:
        return None
    start, stop = plan.spans[p.stage]
    return MODES[p.mode].build(plan, Script.of(plan), start, stop, p)


def _displaced(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script:
    """The stage's pose is another one: the way there and the way on lead over it."""
    return _shift(script, start, stop, p, back=True)


def _elsewhere(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script | None:
    """What is held or pushed is brought to another place than the goal, and left there."""
    if not (_held(plan, start, stop) or _pushed(plan, start, stop)):
        return None
    return _shift(script, start, len(script.actions), p, back=False)


def _wrong_object(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script | None:
    """Another thing is taken than the task is about: from the beginning, the way is that to the other one."""
    closes = _closes(plan)
    if closes is None or not start <= closes < stop or p.axis not in plan.others:
        return None
    # First to where the way to the other one begins: a hand that set off at once would come too late everywhere.
    n = len(script.actions)
    at = np.maximum(np.arange(n + RAMP) - RAMP, 0)
    hands = script.hands[at].copy()
    hands[:, :3] += np.clip((np.arange(n + RAMP) + 1) / RAMP, 0.0, 1.0)[:, None] * plan.others[p.axis]
    actions = script.actions[at].copy()
    actions[:RAMP] = 0.0
    return replace(
        script,
        actions=actions,
        hands=hands,
        closing=script.closing[at],
        frozen=script.frozen[at],
        onset=0,
        end=n + RAMP,
    )


def _misaligned(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script | None:
    """The hand closes, or pushes, beside where it should: displaced from before that until the end of the stage."""
    meets = _touches(plan) if _pushes(plan) else _closes(plan)
    if meets is None or not start <= meets < stop:
        return None
    # A push off the middle stays one: back on course, the fingers would push straight again.
    return _shift(script, max(0, meets - 2 * RAMP), len(script.actions) if _pushes(plan) else stop, p, back=True)


def _shift(script: Script, start: int, stop: int, p: Perturbation, *, back: bool) -> Script:
    t = np.arange(len(script.actions))
    weight = np.clip((t - start + 1) / RAMP, 0.0, 1.0)
    if back:
        weight = weight * np.clip((stop + RAMP - t) / RAMP, 0.0, 1.0)
    hands = script.hands.copy()
    hands[:, HAND_AXES.index(p.axis)] += p.magnitude * weight
    return replace(script, hands=hands, onset=start, end=min(stop + RAMP, len(t)) if back else len(t))


def _frozen(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script | None:
    """The arm misses its commands for a while: they are lost, and the plan goes on as if they had been carried out."""
    first, steps = _moment(start, stop, p), round(p.magnitude)
    frozen = script.frozen.copy()
    frozen[first : first + steps] = True
    end = min(first + steps, len(frozen))
    closing = script.closing.copy()
    closing[first:end] = closing[max(first - 1, 0)]  # the gripper misses its commands too
    return replace(script, frozen=frozen, closing=closing, onset=first, end=end)


def _slip(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script | None:
    """The grip loosens for a moment."""
    held = _held(plan, start, stop)
    if not held:
        return None
    first = held[min(int(p.at * len(held)), len(held) - 1)]
    return _release(script, first, first + round(p.magnitude))


def _early_release(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script | None:
    """The gripper opens long before it should, and stays open."""
    held = _held(plan, start, stop)
    if not held:
        return None
    return _release(script, held[min(int(p.at * len(held)), len(held) - 1)], len(script.closing))


def _late_close(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script | None:
    """The gripper closes later than it should, while the arm goes on."""
    closes = _closes(plan)
    if closes is None or not start <= closes < stop:
        return None
    return _release(script, closes, closes + round(p.magnitude))


def _no_grasp(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script | None:
    """The command to close is dropped."""
    closes = _closes(plan)
    if closes is None or not start <= closes < stop:
        return None
    return _release(script, closes, len(script.closing))


def _release(script: Script, first: int, end: int) -> Script:
    closing = script.closing.copy()
    end = min(end, len(closing))
    closing[first:end] = -1.0
    return replace(script, closing=closing, onset=first, end=end)


def _hurried(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script:
    """A stage is run through several times as fast as planned; the arm cannot keep up."""
    kept = np.arange(start, stop, max(p.magnitude, 1.0)).astype(int)
    return _order(script, np.concatenate([np.arange(start), kept, np.arange(stop, len(script.actions))]), start, kept)


def _wrong_sequence(plan: Plan, script: Script, start: int, stop: int, p: Perturbation) -> Script | None:
    """A stage is done after the one that should follow it."""
    following = next((span for span in plan.spans.values() if span[0] == stop), None)
    if following is None:
        return None
    swapped = np.concatenate([np.arange(*following), np.arange(start, stop)])
    rest = np.arange(following[1], len(script.actions))
    return _order(script, np.concatenate([np.arange(start), swapped, rest]), start, swapped)


def _order(script: Script, order: NDArray[np.int64], start: int, changed: NDArray[np.int64]) -> Script:
    return replace(
        script,
        actions=script.actions[order],
        hands=script.hands[order],
        closing=script.closing[order],
        frozen=script.frozen[order],
        onset=start,
        end=start + len(changed),
    )


def _moment(start: int, stop: int, p: Perturbation) -> int:
    return start + min(int(p.at * (stop - start)), stop - start - 1)


def _closes(plan: Plan) -> int | None:
    """The step at which the plan first closes its gripper after it was open, or None."""
    closing = plan.closing > 0
    begins = np.flatnonzero(closing[1:] & ~closing[:-1]) + 1
    return int(begins[0]) if len(begins) else None


def _held(plan: Plan, start: int, stop: int) -> list[int]:
    """The steps of a stage at which the gripper has been closed for long enough to hold something."""
    closes = _closes(plan)
    if closes is None:
        return []
    return [t for t in range(max(start, closes + SLIP_STEPS), stop) if plan.closing[t] > 0]


def _pushes(plan: Plan) -> bool:
    """Whether the plan moves things with closed fingers: it never opens them."""
    return bool((plan.closing > 0).all())


def _touches(plan: Plan) -> int | None:
    """The step at which a push begins, or None: in such tasks the condition "grasped" tells of contact."""
    span = plan.spans.get("grasped")
    return None if span is None else span[1] - 1


def _pushed(plan: Plan, start: int, stop: int) -> list[int]:
    """The steps of a stage at which something is being pushed."""
    touches = _touches(plan)
    if touches is None or not _pushes(plan):
        return []
    return list(range(max(start, touches), stop))


MODES: dict[str, Mode] = {
    "translation": Mode(_displaced, 0.03, 0.1, "m", LINEAR),
    "rotation": Mode(_displaced, 0.3, 1.0, "rad", ANGULAR),
    "misaligned_grasp": Mode(_misaligned, 0.015, 0.05, "m", LEVEL),
    "wrong_goal": Mode(_elsewhere, 0.08, 0.2, "m", LEVEL),
    "noop": Mode(_frozen, 10, 40, "steps"),
    "slip": Mode(_slip, SLIP_STEPS, 2 * SLIP_STEPS, "steps"),
    "early_release": Mode(_early_release, 1, 1, ""),
    "late_close": Mode(_late_close, 8, 25, "steps"),
    "no_grasp": Mode(_no_grasp, 1, 1, ""),
    "speed": Mode(_hurried, 2, 5, "times"),
    "wrong_sequence": Mode(_wrong_sequence, 1, 1, ""),
    "wrong_object": Mode(_wrong_object, 1, 1, ""),
}


def check_mode(mode: str, env: ArmEnvironment, magnitude: tuple[float, float] | None = None) -> tuple[str, ...]:
    """The axes along which a mode can act in an environment, or the things that it can mistake; ("",) without either.

    Raises:
        UnknownNameError: no such mode.
        SetupError: the environment has not what the mode needs, or the magnitude leaves its workspace.
    """
    if mode not in MODES:
        raise UnknownNameError("failure mode", mode, MODES)
    kind, name = MODES[mode], env.spec.env_id
    low, high = magnitude or (kind.low, kind.high)
    if not 0 < low <= high:
        raise SetupError(f"magnitudes of {mode} must be LOW:HIGH with 0 < LOW <= HIGH, not {low:g}:{high:g}")
    if mode == "wrong_object":
        if not (others := others_of(env)):
            raise SetupError(f"{name} has nothing else that could be taken, which {mode} needs; leave it out there")
        return others
    if not kind.axes:
        if mode in _GRIPPER and env.gripper is None:
            raise SetupError(f"{name} has no gripper, which {mode} needs")
        return ("",)
    axes = tuple(axis for axis in kind.axes if axis in env.axes)
    if not axes:
        raise SetupError(f"{name} cannot move along {', '.join(kind.axes)}, which {mode} needs; leave it out there")
    if kind.unit == "m":
        room = np.asarray(env.workspace[1]) - np.asarray(env.workspace[0])
        for axis in axes:
            if low > (size := float(room[HAND_AXES.index(axis)])):
                raise SetupError(
                    f"{mode} by {low:g} m or more along {axis} leaves the workspace of {name}, {size:.2f} m wide"
                )
    return axes


_GRIPPER = ("slip", "early_release", "late_close", "no_grasp")
