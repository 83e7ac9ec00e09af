"""Failures on purpose: an expert's plan with one thing changed, kept if it fails, with verified ways out of it.

One attempt is one perturbation of one layout; where it does no harm, another is drawn for the same plan, a few times.
Whatever comes of each is written down, one line in ``attempts.jsonl``, so that the same command goes on where it was
stopped, and the yield of every mode is known.
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
from failwise.generate.plan import Plan, Script, execute, expert_arm, make_plan, stages_of
from failwise.generate.recording import Told
from failwise.rollout.collecting import environment, make_executor
from failwise.seeds import GENERATE, WIDTH
from failwise.store import EpisodeStore
from failwise.types import Actor, FailureEvent

HOPELESS = 2  # times the patience: layouts of a cell that has given no failure at all, at most
SLOTS = 97  # cells whose layouts are interleaved


@dataclass(frozen=True)
class AttemptItem:
    """One layout of a cell, to be perturbed until it fails."""

    cell: Cell
    seed: int


def generate(cells: Sequence[Cell], out: Path, options: GenerateOptions | None = None) -> list[Attempt]:
    """Make failures until every cell has what it wants, or has used up its layouts.

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
                        result = [_attempt(result.item, "error", error=f"worker lost: {result.reason}")]
                    append(out, result)
                    done.extend(result)
                    yield from (attempt for attempt in result if attempt.result == "kept")

        before = sum(_have(c, done) for c in cells)
        for _ in track(attempts(), total=wanted, done=before, title="failures", outcomes=False):
            pass
    names = {(c.env_id, c.name) for c in cells}
    return [a for a in done if (a.env_id, a.cell) in names]


def make_failure(item: AttemptItem, out: str, options: GenerateOptions) -> list[Attempt]:
    """Plan, then perturb and execute until it fails; search ways out of that, and record everything."""
    env = expert_arm(environment(item.cell.env_id))
    attempts: list[Attempt] = []
    try:
        plan = make_plan(env, item.seed, env.spec.instruction)
        if plan is None:
            return [_attempt(item, "no_plan")]
        random, tried = random_of(item.cell, item.seed), list[Script]()
        for number in range(options.draws):
            perturbation = draw(item.cell, random)
            script = perturb(plan, perturbation)
            if script is not None and any(script.same_as(other) for other in tried):
                continue  # a mode without size or moment does the same each time
            result, corrections = _executed(env, item, plan, perturbation, script, random, out, options)
            attempts.append(_attempt(item, result, corrections, number=number))
            if script is None or result != "harmless":
                break
            tried.append(script)
    except EpisodeError as error:
        attempts.append(_attempt(item, "error", number=attempts[-1].draw + 1 if attempts else 0, error=str(error)))
    return attempts


def _executed(
    env: ArmEnvironment, item: AttemptItem, plan: Plan, perturbation: Perturbation, script: Script | None,
    random: np.random.Generator, out: str, options: GenerateOptions,
) -> tuple[Result, int]:  # fmt: skip
    cell = item.cell
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
        told=Told(env.spec.instruction, item.seed),
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
    """What is random about the attempts at one layout."""
    return np.random.default_rng([seed, crc32(cell.name.encode())])


def drawn_again(cell: Cell, seed: int, number: int) -> Perturbation:
    """The perturbation of any attempt, harmless ones too. ``number``: among those of the layout."""
    random = random_of(cell, seed)
    return [draw(cell, random) for _ in range(number + 1)][-1]


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
    """The next layouts: as many for each cell as it lacks, and that it has not tried."""
    tried: dict[tuple[str, str], set[int]] = {}
    for attempt in done:
        tried.setdefault((attempt.env_id, attempt.cell), set()).add(attempt.seed)
    items = []
    for cell in cells:
        used = tried.get((cell.env_id, cell.name), set())
        have = _have(cell, done)
        # What never fails hardly ever will: two failures' worth of layouts without one are enough.
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


def _attempt(item: AttemptItem, result: Result, corrections: int = 0, number: int = 0, error: str = "") -> Attempt:
    return Attempt(
        env_id=item.cell.env_id,
        cell=item.cell.name,
        seed=item.seed,
        draw=number,
        result=result,
        corrections=corrections,
        error=error,
    )
