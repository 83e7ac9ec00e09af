"""A failed run becomes an episode with verified ways out of it, whoever made it fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from failwise.envs.leading import ArmEnvironment
from failwise.generate.corrections import Correction, search
from failwise.generate.plan import PLAN, Plan, Run
from failwise.generate.recording import Told, record
from failwise.store import EpisodeStore
from failwise.types import Actor, FailureEvent, Outcome

EPISODES, RECOVERIES = "episodes", "recoveries"
LATER, LEAST = 2, 60  # times a plan's length, and steps: an expert that needs longer hardly ever gets there


@dataclass(frozen=True)
class GenerateOptions:
    """How failures are made and mended.

    Attributes:
        corrections: steps of a failed episode from which ways out are searched, at most.
        tries: poses of the correct way that are tried where the expert's own way out does not lead out. On Meta-World
            1 in 23 did on pick-place, and each that does not costs ``limit`` steps.
        spacing: steps between them, the first so many after the onset. An expert's plan has 13 to 80.
        limit: steps that the expert gets to mend it, at most; where there is a plan, at most twice its length or 60.
        look_every: record a picture every so many steps of what is kept; 0: none.
        draws: perturbations of a layout, at most, until one fails. A plan costs more than what follows from another
            draw.
        patience: layouts of a cell, for each failure wanted, after which the cell is left as it is; twice as many in
            all where none of them gave a failure.
        offset: skip so many of the layouts reserved for failures on purpose.
        successes: of a policy's own episodes, record the successful ones as well.
        workers: processes.
    """

    corrections: int = 3
    tries: int = 1
    spacing: int = 5
    limit: int = 150
    look_every: int = 2
    draws: int = 3
    patience: int = 6
    offset: int = 0
    successes: bool = True
    workers: int = 2


@dataclass(frozen=True)
class Failed:
    """A run that failed.

    Attributes:
        run: with the simulation's states. arm: under which it is recorded. told: instruction and layout.
        actors: who chose each action. event: mode, stage and onset. axis: of the failure, or "".
        stages: stage -> (first step, step after its last). extra: more for the meta data.
    """

    run: Run
    arm: str
    told: Told
    actors: Sequence[Actor]
    event: FailureEvent
    axis: str
    stages: dict[str, list[int]]
    extra: dict[str, Any]


def mend(
    env: ArmEnvironment, failed: Failed, plan: Plan | None, random: np.random.Generator, out: Path,
    options: GenerateOptions,
) -> int:  # fmt: skip
    """Search ways out, and record the failure, the plan and the recoveries; returns how many ways were verified."""
    found = ways_out(env, failed.run, plan, failed.event.onset_step, random, options)
    episodes, recoveries = EpisodeStore(out / EPISODES), EpisodeStore(out / RECOVERIES)
    corrections = [correction.model_dump(mode="json") for correction, _ in found]
    kind = {"mode": failed.event.mode, "axis": failed.axis}
    about = {"kind": kind, "corrections": corrections, "stages": failed.stages, **failed.extra}
    outcome = Outcome.FAILURE if failed.run.ended else Outcome.TIMEOUT
    look_every, run, told = options.look_every, failed.run, failed.told
    name = record(env, episodes, failed.arm, told, run, failed.actors, outcome, look_every, failed.event, about)
    if plan is not None:
        of_plan = {"stages": {name: list(span) for name, span in plan.spans.items()}}
        actors = [Actor.EXPERT] * len(plan.run)
        record(env, episodes, PLAN, told, plan.run, actors, Outcome.SUCCESS, look_every, None, of_plan)
    for number, (correction, rest) in enumerate(found, 1):
        at = correction.at
        more = {"recovers": name, "takeover": at, "correction": correction.model_dump(mode="json")}
        record(
            env, recoveries, f"{failed.arm}.{number}", told, run.until(at).joined(rest),
            [*failed.actors[:at], *[Actor.RECOVERY] * len(rest)], Outcome.SUCCESS, look_every, failed.event, more,
            looks_from=at,
        )  # fmt: skip
    return len(found)


def ways_out(
    env: ArmEnvironment, run: Run, plan: Plan | None, onset: int, random: np.random.Generator, options: GenerateOptions
) -> list[tuple[Correction, Run]]:
    """Verified corrections, each with what followed, at a few steps after the onset, spread over the rest of a run."""
    points = np.arange(onset + options.spacing, len(run), options.spacing)
    if run.ended:
        points = points[points < len(run) - 1]  # nothing follows the end of a task
    if len(points) > options.corrections:
        points = np.sort(random.choice(points, options.corrections, replace=False))
    correct = None if plan is None else plan.run
    limit = options.limit if correct is None else min(options.limit, max(LEAST, LATER * len(correct)))
    out = []
    for at in map(int, points):
        found = search(env, run, correct, at, random, tries=options.tries, limit=limit)
        if found is None:
            break  # what cannot be left now can hardly be left later, and each try costs ``limit`` steps
        out.append(found)
    return out
