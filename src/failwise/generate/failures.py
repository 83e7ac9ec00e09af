"""Failures on purpose: an expert's plan with one thing changed, kept if it fails, with verified ways out of it.

One attempt is one perturbation of one layout. Whatever comes of it is written down, one line in ``attempts.jsonl``, so
that the same command goes on where it was stopped, and the yield of every mode is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from failwise.envs.leading import ArmEnvironment
from failwise.errors import EpisodeError, SetupError
from failwise.generate.attempts import Attempt, Result, append, read_attempts
from failwise.generate.cells import Cell
from failwise.generate.corrections import Correction, search
from failwise.generate.modes import MODES, Perturbation, perturb
from failwise.generate.plan import Plan, Run, execute, expert_arm, make_plan
from failwise.generate.recording import Told, record
from failwise.rollout.collecting import environment, make_executor
from failwise.seeds import GENERATE, WIDTH
from failwise.store import EpisodeStore
from failwise.types import Actor, FailureEvent, Outcome

EPISODES, RECOVERIES = "episodes", "recoveries"
SLOTS = 97  # cells whose layouts are interleaved


@dataclass(frozen=True)
class GenerateOptions:
    """How failures are made.

    Attributes:
        corrections: steps of a failed episode from which ways out are searched, at most.
        tries: poses of the correct way that are tried at each of them, after the expert's own.
        spacing: steps between them, the first so many after the onset.
        limit: steps that the expert gets to mend it.
        look_every: record a picture every so many steps of what is kept; 0: none.
        patience: attempts at a cell, for each failure wanted, after which the cell is left as it is.
        offset: skip so many of the layouts reserved for failures on purpose.
        workers: processes.
    """

    corrections: int = 3
    tries: int = 4
    spacing: int = 10
    limit: int = 150
    look_every: int = 2
    patience: int = 6
    offset: int = 0
    workers: int = 2


@dataclass(frozen=True)
class AttemptItem:
    """One perturbation of one layout, to be tried."""

    cell: Cell
    seed: int


def generate(cells: Sequence[Cell], out: Path, options: GenerateOptions | None = None) -> list[Attempt]:
    """Make failures until every cell has what it wants, or has used up its attempts.

    Args:
        cells: what is wanted; from ``cells_of``.
        out: folder with ``episodes`` (failures, and the plans that they were made from), ``recoveries`` and
            ``attempts.jsonl``. What is there counts.
        options: how.

    Returns:
        Every attempt in the folder at these cells.

    Raises:
        SetupError: an environment lacks what is needed.
    """
    from failwise.rollout.pool import WorkerFailure
    from failwise.rollout.progress import track

    options = options or GenerateOptions()
    for env_id in {c.env_id for c in cells}:
        expert_arm(environment(env_id))
    EpisodeStore(out / EPISODES)
    EpisodeStore(out / RECOVERIES)
    done = read_attempts(out)
    wanted = sum(c.wanted for c in cells)
    task = partial(make_failure, out=str(out), options=options)
    with closing(make_executor("processes", options.workers, item_timeout_s=600.0)) as pool:

        def attempts() -> Iterator[Attempt]:
            while items := _due(cells, done, options):
                for result in pool.map(task, items):
                    if isinstance(result, WorkerFailure):
                        result = _attempt(result.item, "error", error=f"worker lost: {result.reason}")
                    append(out, [result])
                    done.append(result)
                    if result.result == "kept":
                        yield result

        before = sum(_have(c, done) for c in cells)
        for _ in track(attempts(), total=wanted, done=before, title="failures", outcomes=False):
            pass
    names = {(c.env_id, c.name) for c in cells}
    return [a for a in done if (a.env_id, a.cell) in names]


def make_failure(item: AttemptItem, out: str, options: GenerateOptions) -> Attempt:
    """Plan, perturb, execute; where it fails, search ways out, and record everything."""
    cell = item.cell
    env = expert_arm(environment(cell.env_id))
    try:
        result, corrections = _make_failure(env, cell, item.seed, out, options)
    except EpisodeError as error:
        return _attempt(item, "error", error=str(error))
    return _attempt(item, result, corrections)


def _make_failure(env: ArmEnvironment, cell: Cell, seed: int, out: str, options: GenerateOptions) -> tuple[Result, int]:
    plan = make_plan(env, seed, env.spec.instruction)
    if plan is None:
        return "no_plan", 0
    random = np.random.default_rng([seed, crc32(cell.name.encode())])
    perturbation = _draw(cell, random)
    script = perturb(plan, perturbation)
    if script is None:
        return "inapplicable", 0
    run = execute(env, plan.run.snapshots[0], script)
    if run.first_success is not None:
        return "harmless", 0
    ways_out = _ways_out(env, run, plan, script.onset, random, options)
    _record(env, cell, seed, plan, perturbation, script.onset, run, ways_out, Path(out), options)
    return ("kept" if ways_out else "unmended"), len(ways_out)


def _ways_out(
    env: ArmEnvironment, run: Run, plan: Plan, onset: int, random: np.random.Generator, options: GenerateOptions
) -> list[tuple[Correction, Run]]:
    """Verified corrections at a few steps after the onset, spread over what was left of the episode."""
    points = np.arange(onset + options.spacing, len(run), options.spacing)
    if run.ended:
        points = points[points < len(run) - 1]  # nothing follows the end of a task
    if len(points) > options.corrections:
        points = np.sort(random.choice(points, options.corrections, replace=False))
    found = (search(env, run, plan.run, int(at), random, tries=options.tries, limit=options.limit) for at in points)
    return [one for one in found if one is not None]


def _record(
    env: ArmEnvironment, cell: Cell, seed: int, plan: Plan, perturbation: Perturbation, onset: int, run: Run,
    ways_out: Sequence[tuple[Correction, Run]], out: Path, options: GenerateOptions,
) -> None:  # fmt: skip
    """The failure, the plan that it was made from, and the recoveries; pictures by going back to recorded states."""
    corrections = [correction.model_dump(mode="json") for correction, _ in ways_out]
    stages = {name: list(span) for name, span in plan.spans.items()}
    told = Told(env.spec.instruction, seed)
    event = FailureEvent(
        mode=perturbation.mode, stage=perturbation.stage, onset_step=min(onset, len(run) - 1), source="injected",
        evidence=f"{perturbation.axis} {perturbation.magnitude:+.3g} {MODES[perturbation.mode].unit}".strip(),
    )  # fmt: skip
    extra: dict[str, Any] = {
        "perturbation": perturbation.model_dump(mode="json"), "corrections": corrections, "stages": stages,
    }  # fmt: skip
    outcome = Outcome.FAILURE if run.ended else Outcome.TIMEOUT
    episodes, recoveries = EpisodeStore(out / EPISODES), EpisodeStore(out / RECOVERIES)
    actors = [Actor.EXPERT if t < onset else Actor.PERTURBATION for t in range(len(run))]
    failed = record(env, episodes, cell.name, told, run, actors, outcome, options.look_every, event, extra)
    of_plan = {"stages": stages}
    by_expert = [Actor.EXPERT] * len(plan.run)
    record(env, episodes, "plan", told, plan.run, by_expert, Outcome.SUCCESS, options.look_every, None, of_plan)
    for number, (correction, rest) in enumerate(ways_out, 1):
        whole = run.until(correction.at).joined(rest)
        acted = actors[: correction.at] + [Actor.RECOVERY] * len(rest)
        more = {"recovers": failed, "takeover": correction.at, "correction": correction.model_dump(mode="json")}
        arm = f"{cell.name}.{number}"
        record(
            env, recoveries, arm, told, whole, acted, Outcome.SUCCESS, options.look_every, event, more,
            looks_from=correction.at,
        )  # fmt: skip


def _draw(cell: Cell, random: np.random.Generator) -> Perturbation:
    low, high = cell.magnitude
    size = float(random.uniform(low, high))
    if MODES[cell.mode].signed and random.random() < 0.5:
        size = -size
    return Perturbation(
        mode=cell.mode, axis=cell.axis, stage=cell.stage, magnitude=size, at=float(random.uniform(0.0, 0.9))
    )


def _due(cells: Sequence[Cell], done: Sequence[Attempt], options: GenerateOptions) -> list[AttemptItem]:
    """The next attempts: as many for each cell as it lacks, on layouts that it has not tried."""
    tried: dict[tuple[str, str], set[int]] = {}
    for attempt in done:
        tried.setdefault((attempt.env_id, attempt.cell), set()).add(attempt.seed)
    items = []
    for cell in cells:
        used = tried.get((cell.env_id, cell.name), set())
        lacking = min(cell.wanted - _have(cell, done), cell.wanted * options.patience - len(used))
        if lacking > 0:
            fresh = [s for s in layouts_of(cell, len(used) + lacking, options.offset) if s not in used]
            items += [AttemptItem(cell, seed) for seed in fresh[:lacking]]
    return sorted(items, key=lambda i: (i.seed, i.cell.name))


def layouts_of(cell: Cell, n: int, offset: int) -> range:
    """The first ``n`` layouts of a cell, after its first ``offset``: hardly two cells share any, so that failures vary.

    Raises:
        SetupError: more than are reserved.
    """
    first = GENERATE.start + offset * SLOTS + crc32(f"{cell.env_id} {cell.name}".encode()) % SLOTS
    last = first + (n - 1) * SLOTS
    if offset < 0 or last not in GENERATE:
        raise SetupError(f"{n} layouts after the first {offset} are more than the {WIDTH // SLOTS} reserved for a cell")
    return range(first, last + 1, SLOTS)


def _have(cell: Cell, done: Sequence[Attempt]) -> int:
    mine = Counter(a.result for a in done if (a.env_id, a.cell) == (cell.env_id, cell.name))
    return min(mine["kept"], cell.wanted)


def _attempt(item: AttemptItem, result: Result, corrections: int = 0, error: str = "") -> Attempt:
    return Attempt(
        env_id=item.cell.env_id,
        cell=item.cell.name,
        seed=item.seed,
        result=result,
        corrections=corrections,
        error=error,
    )
