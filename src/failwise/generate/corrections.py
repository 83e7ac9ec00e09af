"""Corrective moves out of a failure, each executed and verified: FailSafe's dA, searched on branches.

FailSafe (arXiv 2510.01642) takes a pose P_d of the failed way and a pose P_c of a correct one, moves by dA = P_c - P_d,
lets the expert go on, and keeps dA only if the task now succeeds; each try replays the episode from its start. Here a
try begins from the simulation's state at P_d itself, which is exact and costs no replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from failwise.envs.leading import ArmEnvironment, closing_commands, inside, towards, with_gripper
from failwise.generate.plan import Run

Way = Literal["expert", "correct", "none"]
AHEAD = 15  # steps of the expert's own way out that one corrective move stands for
MOVE_STEPS = 25  # that a corrective move may take


class Correction(BaseModel):
    """A corrective move that was executed, and after which the task succeeded.

    Attributes:
        at: step of the failed episode at which it begins. hand: P_d (6,), the pose there.
        delta: dA (7,): metres and radians as in a hand pose, then the gripper, -1 open to 1 closed.
        way: where P_c comes from: "expert", the expert's way out from P_d; "correct", a random pose of the correct way.
        moved: steps that the move took. after: steps that the expert then needed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: int
    hand: tuple[float, ...]
    delta: tuple[float, ...]
    way: Way
    moved: int
    after: int


def move(env: ArmEnvironment, run: Run, target_6: NDArray[Any], closing: float, steps: int = MOVE_STEPS) -> Run:
    """Lead the hand to a pose, until it is there or for at most so many steps; extends and returns the run."""
    start = len(run)

    def act() -> NDArray[Any] | None:
        action = towards(env, target_6, closing)
        if action is None and len(run) == start:  # it is there already: the gripper still has to follow
            return with_gripper(env, env.nudge(np.zeros(6)), closing)
        return action

    return run.proceed(env, act, steps)


def search(
    env: ArmEnvironment,
    failed: Run,
    correct: Run | None,
    at: int,
    random: np.random.Generator,
    *,
    tries: int = 1,
    limit: int = 150,
) -> tuple[Correction, Run] | None:
    """A verified corrective move at one step of a failed run, and what happened after it; None where none was found.

    Args:
        env: of the run.
        failed: with the simulation's states.
        correct: a successful way on the same layout, if known.
        at: P_d's step.
        random: draws P_c.
        tries: poses of the correct way that are tried, after the expert's own way.
        limit: steps that the expert gets after the move.
    """
    hand = failed.hands[at]
    for way, target, closing in _candidates(env, failed, correct, at, random, tries, limit):
        if not inside(env, target):
            continue
        run = move(env, Run.begin(env, env.restore(failed.snapshots[at]), passive=True), target, closing)
        moved = len(run)
        run.proceed(env, env.expert, limit)
        if run.first_success is not None:
            delta = (*map(float, target - hand), float(closing))
            found = Correction(
                at=at, hand=tuple(map(float, hand)), delta=delta, way=way, moved=moved, after=len(run) - moved
            )
            return found, run
    return None


def _candidates(
    env: ArmEnvironment, failed: Run, correct: Run | None, at: int, random: np.random.Generator, tries: int, limit: int
) -> Iterator[tuple[Way, NDArray[np.float64], float]]:
    out = Run.begin(env, env.restore(failed.snapshots[at]), keep=False)
    commands: list[float] = []

    def until_the_gripper_changes() -> NDArray[Any] | None:
        """The expert's next action; None where its gripper turns round, as one move cannot stand for a grasp."""
        action = env.expert()
        if action is None:
            return None
        commands.append(float(np.sign(closing_commands(env, [action])[0])))
        changes = [t for t in range(1, len(commands)) if commands[t] != commands[t - 1]]
        return None if changes and changes[0] > 2 else action

    out.proceed(env, until_the_gripper_changes, min(AHEAD, limit))
    if len(out):
        yield "expert", out.hands[-1], commands[len(out) - 1]
    if correct is not None and len(correct) > 14:
        closing = closing_commands(env, correct.actions)
        for _ in range(tries):
            chosen = int(random.integers(10, len(correct) - 3))
            yield "correct", correct.hands[chosen], float(np.sign(closing[chosen]))
