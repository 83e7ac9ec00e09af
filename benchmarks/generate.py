"""What a verified way out of a failure costs: branches from snapshots against replays from the start.

    python benchmarks/generate.py                                  # about three minutes on one core
    python benchmarks/generate.py --env maniskill/PickCube-v1      # in ManiSkill's own environment

The same failures on purpose, mended three ways, one after the other for each failure; on ManiSkill's cubes a fourth
procedure works on the same layouts. An expert's plan and its executions with a change until one fails, which the three
share, count for each: for the published procedure once more from the start, without keeping states; for ours from the
step at which they part. What the fourth spends is all told as mending.

    pairs_per_minute           ``failwise generate``: the expert's own way out first, then a pose of the correct way,
                               tried from the simulation's state there
    replayed_pairs_per_minute  FailSafe's procedure (arXiv 2510.01642) in our environment and with our expert: a random
                               pose of the correct way, tried by playing the episode again from its start; the same
                               number of steps a failure
    branches_over_replays      the first over the second
    planned_pairs_per_minute   on some tasks of ManiSkill: FailSafe's procedure as its paper describes it, on
                               ManiSkill's own tools, see planned.py; on the same layouts, with changes of the same
                               modes, axes and sizes
    branches_over_planned      the first over that; target 3. Intervals of both ratios are over layouts
    published_search_over_ours  seconds a pair of the two searches alone: what branches_over_replays would come to if
                               plans and failed runs cost nothing
    search_over_replayed_search  the same search both times, branching over replaying, without plan and failure:
                               what the snapshots alone save
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from failwise.envs.leading import ArmEnvironment
from failwise.generate.cells import Cell, Request, cells_of, possible_modes
from failwise.generate.corrections import move
from failwise.generate.failures import draw, layouts_of
from failwise.generate.mending import LATER, LEAST, GenerateOptions, ways_out
from failwise.generate.modes import perturb
from failwise.generate.plan import Plan, Run, execute, expert_arm, make_plan
from failwise.rollout.collecting import environment
from failwise.types import Observation
from figures import announce

MODES = ("translation", "rotation", "noop")  # the paper's
OPTIONS = GenerateOptions()
Record = dict[str, NDArray[np.float64]]  # procedure -> pairs, seconds to fail, seconds to mend


class Replaying:
    """An environment that comes to a state of a run by playing it from its start."""

    def __init__(self, env: ArmEnvironment, run: Run) -> None:
        self._env, self._run = env, run
        self._steps = {id(snapshot): step for step, snapshot in enumerate(run.snapshots)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> Observation:
        """Come to the state of a snapshot of the run."""
        observation = self._env.restore(self._run.snapshots[0])
        for action in self._run.actions[: self._steps[id(snapshot)]]:
            observation, *_ = self._env.step(action)
        return observation


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def attempt(env: ArmEnvironment, cell: Cell, seed: int) -> tuple[Plan, list[Run], int] | None:
    """Plan, changed runs until one failed, and the last one's onset; None where there is nothing to change."""
    plan = make_plan(env, seed, env.spec.instruction)
    random, runs, onset = np.random.default_rng(seed), list[Run](), 0
    while plan is not None and len(runs) < OPTIONS.draws and all(run.first_success is not None for run in runs):
        script = perturb(plan, draw(cell, random))
        if script is None:
            break
        runs.append(execute(env, plan, script))
        onset = min(script.onset, len(runs[-1]) - 1)
    return (plan, runs, onset) if plan is not None and runs else None


def from_the_start(env: ArmEnvironment, runs: Sequence[Run]) -> None:
    """Play some runs from their first state, without keeping states."""
    for run in runs:
        Replaying(env, run).restore(run.snapshots[-1])


def planner_of(task: str) -> Callable[[Cell, int], tuple[int, int]] | None:
    """FailSafe's procedure on ManiSkill's own tools, where upstream has a plan for a task."""
    from planned import SOLUTIONS, Change, Procedure

    if task not in SOLUTIONS:
        return None
    procedure = Procedure(task)

    def pairs(cell: Cell, seed: int) -> tuple[int, int]:
        random = np.random.default_rng(seed)
        size = draw(cell, random).magnitude
        change = Change(cell.mode, cell.axis, size, float(random.random()))
        return procedure.pairs(seed, change, OPTIONS.corrections, OPTIONS.spacing)

    return pairs


def as_published(env: ArmEnvironment, plan: Plan, run: Run, onset: int, limit: int) -> int:
    """FailSafe's way: at a few steps of the failed run a random pose of the correct one, from the episode's start."""
    again: Any = Replaying(env, run)
    random, found = np.random.default_rng(onset), 0
    points = range(onset + OPTIONS.spacing, len(run), OPTIONS.spacing)
    for at in sorted(random.permutation(points)[: OPTIONS.corrections]):
        chosen = int(random.integers(min(10, len(plan.run) - 4), len(plan.run) - 3))
        branch = Run.begin(env, again.restore(run.snapshots[at]), keep=False)
        move(env, branch, plan.run.hands[chosen], float(np.sign(plan.closing[chosen])))
        found += branch.proceed(env, env.expert, limit).first_success is not None
    return found


def mended(env: ArmEnvironment, plan: Plan, run: Run, onset: int) -> dict[str, tuple[int, float]]:
    """Pairs that each procedure found in a failed run, and its seconds."""
    again: Any = Replaying(env, run)
    limit = min(OPTIONS.limit, max(LEAST, LATER * len(plan.run)))
    random = partial(np.random.default_rng, onset)
    ways: dict[str, Callable[[], int]] = {
        "branches": lambda: len(ways_out(env, run, plan, onset, random(), OPTIONS)),
        "replayed": lambda: len(ways_out(again, run, plan, onset, random(), OPTIONS)),
        "published": lambda: as_published(env, plan, run, onset, limit),
    }
    return {name: timed(way) for name, way in ways.items()}


def on_layout(
    env: ArmEnvironment, cell: Cell, seed: int, planned: Callable[[Cell, int], tuple[int, int]] | None
) -> tuple[bool, Record]:
    """Whether a layout gave a failure, and what each procedure made of it."""
    spent: Record = {}
    if planned is not None:
        (_, found), searching = timed(partial(planned, cell, seed))
        spent["planned"] = np.array([found, 0.0, searching])
    made, making = timed(partial(attempt, env, cell, seed))
    _, replaying = timed(partial(from_the_start, env, (made[0].run, *made[1]))) if made is not None else (None, making)
    ways = {"branches": making, "replayed": making, "published": replaying}
    spent |= {way: np.array([0.0, seconds, 0.0]) for way, seconds in ways.items()}
    failed = made is not None and made[1][-1].first_success is None
    if made is not None and failed:
        for way, (found, searching) in mended(env, made[0], made[1][-1], made[2]).items():
            spent[way] += (found, 0.0, searching)
    return failed, spent


def interval(records: Sequence[Record], of: Callable[[Mapping[str, NDArray[np.float64]]], float]) -> list[float]:
    """95% of what a ratio comes to over layouts drawn again."""
    names = list(records[0])
    table = np.array([[record[name] for name in names] for record in records])

    def ratio(layouts: NDArray[np.int64]) -> float:
        return of(dict(zip(names, table[layouts].sum(0), strict=True)))

    drawn = bootstrap(
        (np.arange(len(table)),), ratio, vectorized=False, method="percentile", n_resamples=2000, random_state=0
    )
    return [round(float(bound), 3) for bound in drawn.confidence_interval]


def over(other: str) -> Callable[[Mapping[str, NDArray[np.float64]]], float]:
    """Pairs a second of ours over those of another procedure."""

    def ratio(sums: Mapping[str, NDArray[np.float64]]) -> float:
        ours, others = sums["branches"], sums[other]
        return float(ours[0] / ours[1:].sum() / max(others[0] / others[1:].sum(), 1e-9))

    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="metaworld/pick-place")
    parser.add_argument("--failures", type=int, default=12, help="layouts for each mode")
    arguments = parser.parse_args()
    env = expert_arm(environment(arguments.env))
    modes = set(MODES) & set(possible_modes(env))  # not every hand turns
    task = arguments.env.partition("/")[2]
    planned = planner_of(task) if arguments.env.startswith("maniskill/") else None
    cells = cells_of(env, [Request(mode=mode, episodes=arguments.failures) for mode in MODES if mode in modes])
    layouts = [(cell, seed) for cell in cells for seed in layouts_of(cell, max(cell.wanted, 1), 0)]
    on_layout(env, *layouts[0], planned)  # whatever is made on first use is there then
    results = [on_layout(env, cell, seed, planned) for cell, seed in layouts]
    records = [record for _, record in results]
    sums = {way: np.sum([record[way] for record in records], axis=0) for way in records[0]}
    failures = sum(failed for failed, _ in results)
    print(
        f"{arguments.env}: {failures} failures on {len(layouts)} layouts, up to {OPTIONS.corrections} ways out of each:"
    )
    for way, (found, making, searching) in sums.items():
        print(f"  {way:12s} {found:4.0f} pairs, {making:7.1f} s to fail and {searching:7.1f} s to mend")
    if not all(found for found, *_ in sums.values()):
        parser.exit(1, "too few failures to find a way out of any; raise --failures\n")
    rate = {way: 60 * found / (making + searching) for way, (found, making, searching) in sums.items()}
    seconds = {way: searching / found for way, (found, _, searching) in sums.items()}
    figures = {
        "pairs_per_minute": rate["branches"],
        "replayed_pairs_per_minute": rate["published"],
        "branches_over_replays": over("published")(sums),
        "published_search_over_ours": seconds["published"] / seconds["branches"],
        "search_over_replayed_search": sums["replayed"][2] / sums["branches"][2],
    }
    intervals = {"branches_over_replays": interval(records, over("published"))}
    if planned is not None:
        figures |= {
            "planned_pairs_per_minute": rate["planned"],
            "branches_over_planned": over("planned")(sums),
        }
        intervals["branches_over_planned"] = interval(records, over("planned"))
    announce("generate", figures, env=arguments.env, failures=failures, intervals=intervals)


if __name__ == "__main__":
    main()
