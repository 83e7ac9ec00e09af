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
from zlib import crc32

import numpy as np

from failwise.envs.leading import ArmEnvironment
from failwise.errors import EpisodeError, SetupError
from failwise.generate.attempts import Attempt, Result, append, read_attempts
from failwise.generate.cells import Cell
from failwise.generate.mending import EPISODES, RECOVERIES, Failed, GenerateOptions, mend
from failwise.generate.modes import MODES, Perturbation, perturb
from failwise.generate.plan import execute, expert_arm, make_plan, stages_of
from failwise.generate.recording import Told
from failwise.rollout.collecting import environment, make_executor
from failwise.seeds import GENERATE, WIDTH
from failwise.store import EpisodeStore
from failwise.types import Actor, FailureEvent

HOPELESS = 2  # times the patience: attempts at a cell that has given no failure at all, at most
SLOTS = 97  # cells whose layouts are interleaved


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
    random = random_of(cell, seed)
    perturbation = draw(cell, random)
    script = perturb(plan, perturbation)
    if script is None:
        return "inapplicable", 0
    run = execute(env, plan, script)
    if run.first_success is not None:
        return "harmless", 0
    onset = min(script.onset, len(run) - 1)
    unit = MODES[cell.mode].unit
    failed = Failed(
        run=run,
        arm=cell.name,
        told=Told(env.spec.instruction, seed),
        actors=[Actor.EXPERT if t < script.onset else Actor.PERTURBATION for t in range(len(run))],
        event=FailureEvent(
            mode=cell.mode, stage=cell.stage, onset_step=onset, source="injected",
            evidence=f"{cell.axis} {perturbation.magnitude:+.3g} {unit}".strip() if unit else cell.axis,
        ),
        axis=cell.axis,
        stages=stages_of(run, tuple(plan.spans)),
        extra={"perturbation": perturbation.model_dump(mode="json")},
    )  # fmt: skip
    found = mend(env, failed, plan, random, Path(out), options)
    return ("kept" if found else "unmended"), found


def random_of(cell: Cell, seed: int) -> np.random.Generator:
    """What is random about one attempt: the perturbation of any attempt, harmless ones too, can be drawn again."""
    return np.random.default_rng([seed, crc32(cell.name.encode())])


def draw(cell: Cell, random: np.random.Generator) -> Perturbation:
    """One perturbation of a cell's kind: how strong, which way, and when in the stage."""
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
        have = _have(cell, done)
        # What never fails hardly ever will: two failures' worth of attempts without one are enough.
        limit = options.patience * (cell.wanted if have else min(cell.wanted, HOPELESS))
        lacking = min(cell.wanted - have, limit - len(used))
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
