"""The recovery experiment: failures on purpose, a recovery actor that learns from them, and its worth in the loop.

    make maniskill
    .venv-maniskill/bin/python recipes/failures_on_purpose.py                  # hours on two cores; resumes
    .venv-maniskill/bin/python recipes/failures_on_purpose.py --stage report   # only the figures, from what is on disk
    python recipes/failures_on_purpose.py --suite metaworld                    # the same on six tasks of Meta-World

Stages: demonstrations -> a weak and a good policy; failures on purpose with verified recoveries, and the policies'
own failures mended likewise -> for each policy a recovery actor that looks through its eyes and a recovery policy
trained on from it, the actor judged on layouts that it has not seen -> when to take over and for how long, chosen on
validation seeds -> on test seeds, both policies without, with their recovery, with single corrective moves, and
replaced by their recovery policies, and the weak one with the recovery of the good one; the good one trained on with
the recoveries against as many further demonstrations; the good one on variants of the tasks ->
docs/results/failsafe.json. On Meta-World the weak policy is the shipped one, and there are no variants; its figures
are in docs/results/failsafe_metaworld.json.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from failsafe_figures import choose, claim, note_chosen, tallied, write_results
from failwise.errors import DataError
from failwise.evaluate import compare, evaluate
from failwise.evaluate.recovered import recovered_arm
from failwise.evaluate.run import EPISODES_FOLDER, write_comparison
from failwise.generate import GenerateOptions, Request, cells_of, generate, mend_own, possible_modes
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.options import FitOptions, RecoveryTraining
from failwise.learn.recovery import save_actor, train_acting, train_recovery
from failwise.policies import load_policy, shipped
from failwise.policies.compact import CompactVLA
from failwise.recover.acting import FOLDER, has_acting
from failwise.recover.takeover import TakeoverOptions
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.rollout.collecting import environment
from failwise.seeds import COLLECT, DEMOS, TEST, VALIDATION
from failwise.store import EpisodeStore
from failwise.types import Outcome
from figures_of import Minutes
from metaworld_improve import TASKS, env_ids

SUITES = {
    "maniskill": ("maniskill/PickCube-v1", "maniskill/PushCube-v1", "maniskill/StackCube-v1"),
    "metaworld": tuple(env_ids(TASKS)),
}
RESULTS = {"maniskill": "failsafe", "metaworld": "failsafe_metaworld"}
PASSES = 3  # over the cells of a task, each asking more of those that filled
REPLACED, MOVED = "-replaced", "+move"  # by its recovery policy; with single corrective moves
LENT = "+lent"  # with the recovery of the good policy
STRENGTHS = ("weak", "good")
TRAINED_ON = ("with-demos", "with-recoveries")  # the first is what the other is compared with


@dataclass(frozen=True)
class Recipe:
    """The experiment's settings; the defaults are those of the published figures."""

    suite: Literal["maniskill", "metaworld"] = "maniskill"
    """Whose tasks."""
    out: Path | None = None
    """Folder of everything that the experiment makes; without it runs/failsafe or runs/failsafe_metaworld."""
    stage: Literal["all", "failures", "policies", "report"] = "all"
    """Everything, only the failures, only the policies, or only the figures."""
    strengths: tuple[Literal["weak", "good"], ...] = ("weak", "good")
    """The policies, the strongest last."""
    failures: int = 240
    """Failures with a verified recovery a task, over all modes."""
    own_seeds: int = 30
    """Own episodes of each policy a task, whose failures are mended."""
    demo_seeds: int = 60
    """Demonstrations of mixed quality tried a task."""
    clean_seeds: int = 100
    """Demonstrations of the expert as it is, tried a task."""
    weak: FitOptions = field(default_factory=lambda: FitOptions(steps=2500, copies=4, warmup=100))
    """Training of the weak policy, on demonstrations of mixed quality."""
    good: FitOptions = field(default_factory=lambda: FitOptions(steps=2500, copies=4, warmup=100))
    """Training on of the weak policy to the good one, on clean demonstrations."""
    recovery: RecoveryTraining = field(
        default_factory=lambda: RecoveryTraining(acting=FitOptions(steps=2000, copies=4, learning_rate=3e-4, warmup=50))
    )
    """Training of the recovery actors and of the recovery policies."""
    thresholds: tuple[float, ...] = (0.2, 0.5, 0.8)
    """Of the probability of failure, above which a recovery takes over; and"""
    steps: tuple[int, ...] = (30, 60, 100)
    """for how long. The pair is taken with which a policy did best on validation seeds, the shyest of equals."""
    validation_seeds: int = 10
    """Validation seeds a task."""
    test_seeds: int = 100
    """Paired test seeds a task,"""
    test_offset: int = 100
    """after so many that other runs have used."""
    on: FitOptions = field(default_factory=lambda: FitOptions(steps=800, copies=4, learning_rate=3e-4, warmup=50))
    """Training on of the good policy, with recoveries and with as many pictures of further demonstrations."""
    variants: tuple[str, ...] = ("space", "view", "object", "arm")
    """What is changed in the tasks to see what carries over."""
    variant_seeds: int = 40
    """Paired test seeds a task and variant."""
    workers: int = 2
    """Processes that run episodes."""
    results: str | None = None
    """Name of the file of figures in docs/results, without its ending, and of the folder; without it the suite's."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The suite's."""
        return SUITES[self.suite]

    @property
    def folder(self) -> Path:
        """``out``, or the suite's own."""
        return self.out or Path("runs") / self.figures

    @property
    def figures(self) -> str:
        """Name of the file of figures."""
        return self.results or RESULTS[self.suite]


def main(recipe: Recipe) -> None:
    """Run the stages in order; each skips what is on disk."""
    minutes = Minutes(recipe.folder / "minutes.json")
    if recipe.stage in ("all", "failures"):
        with minutes.of("failures"):
            make_failures(recipe)
    if recipe.stage in ("all", "policies"):
        with minutes.of("policies"):
            train_policies(recipe)
    if recipe.stage == "all":
        takeovers = {name: prove_recovery(recipe, name, minutes) for name in recipe.strengths}
        if len(recipe.strengths) > 1:
            with minutes.of("lent"):
                prove_lent(recipe, takeovers["good"])
        if "good" in recipe.strengths:
            with minutes.of("recoveries as data"):
                train_on(recipe)
                arms = {name: str(recipe.folder / name) for name in TRAINED_ON}
                layouts = test_layouts(recipe, recipe.test_seeds)
                evaluate(recipe.tasks, arms, layouts, recipe.folder / "data", workers=recipe.workers)
        if recipe.suite == "maniskill" and recipe.variants:
            with minutes.of("variants"):
                changed = [f"{task}@{variant}" for variant in recipe.variants for task in recipe.tasks]
                best = recipe.strengths[-1]
                prove(recipe, best, changed, recipe.variant_seeds, "variants", takeovers[best])
    if recipe.stage in ("all", "report"):
        settings = json.loads(json.dumps(asdict(recipe), default=str)) | {"out": "runs", "tasks": recipe.tasks}
        write_results(recipe.figures, recipe.folder, settings, recipe.strengths)


def prove_recovery(recipe: Recipe, name: str, minutes: Minutes) -> TakeoverOptions:
    """Everything about one policy's recovery; returns when it takes over and for how long."""
    with minutes.of(f"own failures, {name}"):
        mend_own_failures(recipe, name)
    with minutes.of(f"recovery, {name}"):
        learn_recovery(recipe, name)
    with minutes.of(f"takeover, {name}"):
        takeover = choose_takeover(recipe, name)
    with minutes.of(f"proof, {name}"):
        prove(recipe, name, recipe.tasks, recipe.test_seeds, f"proof-{name}", takeover)
        prove_others(recipe, name)
    return takeover


def make_failures(recipe: Recipe) -> None:
    """Failures of every mode that a task knows, spread evenly; what some cells lack, those that filled make up for."""
    folder, options = recipe.folder / "failures", GenerateOptions(workers=recipe.workers)
    for task in recipe.tasks:
        env = environment(task)
        modes = possible_modes(env)
        share = -(-recipe.failures // len(modes))
        cells = cells_of(env, [Request(mode=mode, episodes=share) for mode in modes])
        for _ in range(PASSES):
            kept = Counter(a.cell for a in generate(cells, folder, options) if a.result == "kept")
            full = {c.name for c in cells if kept[c.name] >= c.wanted}
            lacking = recipe.failures - kept.total()
            if lacking <= 0 or not full:
                break
            more = -(-lacking // len(full))
            cells = [c.model_copy(update={"wanted": c.wanted + more * (c.name in full)}) for c in cells]


def train_policies(recipe: Recipe) -> None:
    """A policy from demonstrations of mixed quality, and the same one trained on with clean ones."""
    weak, good = (recipe.folder / name for name in ("weak", "good"))
    if not (weak / "config.json").is_file():
        if recipe.suite == "metaworld":
            half = weak.with_suffix(".half")  # renamed when whole: a copy that was stopped is no policy
            shutil.copytree(shipped("metaworld-base"), half, dirs_exist_ok=True)
            half.rename(weak)
        else:
            mixed = recipe.folder / "demos"
            demonstrate(recipe, mixed, "mixed", range(recipe.demo_seeds))
            train_bc(mixed, weak, BCOptions(fit=recipe.weak))
    if "good" in recipe.strengths and not (good / "config.json").is_file():
        clean = recipe.folder / "demos-clean"
        demonstrate(recipe, clean, "clean", range(recipe.clean_seeds))
        train_bc(clean, good, BCOptions(fit=recipe.good, start=weak))


def mend_own_failures(recipe: Recipe, name: str) -> None:
    """Own episodes of a policy, on layouts of their own; failed ones are mended, successful ones kept beside."""
    seeds = COLLECT.claim(recipe.own_seeds, offset=STRENGTHS.index(name) * recipe.own_seeds)
    items = [RolloutItem(task, s, s, name, str(recipe.folder / name)) for task in recipe.tasks for s in seeds]
    own = recipe.folder / f"own-{name}"
    collect(items, own, workers=recipe.workers, title=f"own episodes, {name}")
    mend_own(own, recipe.tasks, recipe.folder / "failures", GenerateOptions(workers=recipe.workers))


def train_on(recipe: Recipe) -> None:
    """The good policy, trained on with recoveries, and with as many pictures of further demonstrations."""
    further = recipe.folder / "further"
    demonstrate(recipe, further, "clean", range(recipe.clean_seeds, recipe.clean_seeds + recipe.demo_seeds))
    stores = {"with-demos": further, "with-recoveries": recipe.folder / "failures" / "recoveries"}
    metas = [EpisodeStore(store).metas() for store in stores.values()]
    frames = min(
        sum(m.n_frames for m in mine if m.env_id == task and m.outcome == Outcome.SUCCESS)
        for mine in metas
        for task in recipe.tasks
    )
    if not frames:
        raise DataError("a task has no recoveries or no further demonstrations, so they cannot be compared as data")
    for name, store in stores.items():
        if not (recipe.folder / name / "config.json").is_file():
            total = frames * len(recipe.tasks)
            options = BCOptions(fit=recipe.on, start=recipe.folder / "good", also=store, also_frames=total)
            train_bc(recipe.folder / "demos-clean", recipe.folder / name, options)


def demonstrate(recipe: Recipe, out: Path, quality: str, seeds: range) -> None:
    """The expert's demonstrations: as it is, or with the faults of people."""
    places = DEMOS.claim(len(seeds), offset=seeds.start)
    items = [RolloutItem(task, s, s, "demos", f"expert:{quality}") for task in recipe.tasks for s in places]
    pictures = RolloutOptions(look_every=2, wording="training")
    collect(items, out, workers=recipe.workers, options=pictures, title=f"{quality} demonstrations")


def learn_recovery(recipe: Recipe, name: str) -> None:
    """Who says when, and who then acts: all that is added to the policy is what failures teach."""
    failures = recipe.folder / "failures"
    start, out = recipe.folder / name, recipe.folder / f"recovery-{name}"
    if not (out / "recovery.json").is_file():
        policy = load_policy(start)
        assert isinstance(policy, CompactVLA), "train_bc makes no other"
        advisor = train_recovery(policy, failures, recipe.recovery, recipe.folder / "frames")
        save_actor(advisor, out, acting=True)
    if not has_acting(out):
        train_acting(start, failures, out, recipe.recovery.acting)


def choose_takeover(recipe: Recipe, name: str, moves: bool = False) -> TakeoverOptions:
    """When a policy's recovery takes over and for how long, or makes one move, from episodes on validation seeds."""
    grid = {}
    for threshold in recipe.thresholds:
        if moves:
            grid[f"{name}@{threshold}@move"] = TakeoverOptions(remedy="correct", threshold=threshold)
        else:
            for steps in recipe.steps:
                grid[f"{name}@{threshold}@{steps}"] = TakeoverOptions(threshold=threshold, acting_steps=steps)
    items = [
        taken_over(recipe, name, arm, task, seed, options)
        for seed in VALIDATION.claim(recipe.validation_seeds)
        for task in recipe.tasks
        for arm, options in grid.items()
    ]
    claim(recipe.folder, name, "validation")
    metas = collect(items, recipe.folder / "validation", workers=recipe.workers, title=f"takeovers, {name}")
    best = choose(tallied(metas))
    note_chosen(recipe.folder, name, "correct" if moves else "policy", best)
    return grid[best]


def taken_over(recipe: Recipe, name: str, arm: str, task: str, seed: int, options: TakeoverOptions) -> RolloutItem:
    """An episode of a policy under the eyes of its recovery actor."""
    recover = str(recipe.folder / f"recovery-{name}")
    return RolloutItem(task, seed, seed, arm, str(recipe.folder / name), recover=recover, takeover=options)


def test_layouts(recipe: Recipe, count: int) -> list[int]:
    """Seeds that nothing was chosen on."""
    return list(TEST.claim(count, offset=recipe.test_offset))


def prove(recipe: Recipe, name: str, tasks: Sequence[str], seeds: int, folder: str, takeover: TakeoverOptions) -> None:
    """A policy with and without its recovery, on the same test seeds."""
    arms, recover = {name: str(recipe.folder / name)}, str(recipe.folder / f"recovery-{name}")
    evaluate(
        list(tasks), arms, test_layouts(recipe, seeds), recipe.folder / folder, workers=recipe.workers,
        recover=recover, takeover=takeover,
    )  # fmt: skip


def prove_others(recipe: Recipe, name: str) -> None:
    """Beside them, one corrective move as FailSafe makes it, and the recovery policy acting all the time."""
    folder, replaced = recipe.folder / f"proof-{name}", f"{name}{REPLACED}"
    layouts = test_layouts(recipe, recipe.test_seeds)
    options = choose_takeover(recipe, name, moves=True)
    claim(recipe.folder, name, folder.name)
    items = [
        taken_over(recipe, name, f"{name}{MOVED}", task, seed, options) for seed in layouts for task in recipe.tasks
    ]
    collect(items, folder / EPISODES_FOLDER, workers=recipe.workers, title=f"single moves, {name}")
    arms = {name: str(recipe.folder / name), replaced: str(recipe.folder / f"recovery-{name}" / FOLDER)}
    evaluate(recipe.tasks, arms, layouts, folder, workers=recipe.workers)
    compare_all(recipe, name)


def prove_lent(recipe: Recipe, takeover: TakeoverOptions) -> None:
    """The weak policy with the good one's recovery, as that was chosen: who helps may be better than who is helped."""
    weak, recover = str(recipe.folder / "weak"), str(recipe.folder / "recovery-good")
    items = [
        RolloutItem(task, seed, seed, f"weak{LENT}", weak, recover=recover, takeover=takeover)
        for seed in test_layouts(recipe, recipe.test_seeds)
        for task in recipe.tasks
    ]
    claim(recipe.folder, "good", "proof-weak")
    collect(items, recipe.folder / "proof-weak" / EPISODES_FOLDER, workers=recipe.workers, title="lent recovery")
    compare_all(recipe, "weak")


def compare_all(recipe: Recipe, name: str) -> None:
    """Write the comparison of every arm of a policy's proof that is there."""
    folder = recipe.folder / f"proof-{name}"
    every = EpisodeStore(folder / EPISODES_FOLDER).metas()
    there = {m.arm for m in every}
    arms = [f"{name}{MOVED}", recovered_arm(name), f"{name}{LENT}", f"{name}{REPLACED}"]
    write_comparison(compare(every, name, arms=[arm for arm in arms if arm in there]), folder)


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
