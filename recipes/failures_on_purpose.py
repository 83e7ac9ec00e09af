"""The recovery experiment: failures on purpose, a recovery actor that learns from them, and its worth in the loop.

    make maniskill
    .venv-maniskill/bin/python recipes/failures_on_purpose.py                  # hours on two cores; resumes
    .venv-maniskill/bin/python recipes/failures_on_purpose.py --stage report   # only the figures, from what is on disk

Stages: demonstrations -> a weak and a good policy; failures on purpose with verified recoveries, and the policies' own
failures mended likewise -> a recovery actor, judged on layouts that it has not seen -> both policies with and without
it on test seeds; the good one trained on with the recoveries against as many further demonstrations; the good one on
variants of the tasks -> docs/results/failsafe.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from failsafe_figures import write_results
from failwise.evaluate import evaluate
from failwise.generate import GenerateOptions, Request, cells_of, generate, mend_own, possible_modes
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.options import FitOptions, RecoveryTraining
from failwise.learn.recovery import train_recovery
from failwise.policies import load_policy
from failwise.policies.compact import CompactVLA
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.rollout.collecting import environment
from failwise.seeds import COLLECT, DEMOS, TEST
from failwise.store import EpisodeStore
from failwise.types import Outcome
from figures_of import Minutes

STRENGTHS = ("weak", "good")
PASSES = 3  # over the cells of a task, each asking more of those that filled
TRAINED_ON = ("with-demos", "with-recoveries")  # the first is what the other is compared with


@dataclass(frozen=True)
class Recipe:
    """The experiment's settings; the defaults are those of the published figures."""

    out: Path = Path("runs/failsafe")
    """Folder of everything that the experiment makes."""
    stage: Literal["all", "failures", "policies", "report"] = "all"
    """Everything, only the failures, only the policies, or only the figures."""
    tasks: tuple[str, ...] = ("maniskill/PickCube-v1", "maniskill/PushCube-v1", "maniskill/StackCube-v1")
    """The tasks."""
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
    good: FitOptions = field(default_factory=lambda: FitOptions(steps=3000, copies=4, warmup=100))
    """Training on of the weak policy to the good one, on clean demonstrations."""
    recovery: RecoveryTraining = field(default_factory=RecoveryTraining)
    """Training of the recovery actor."""
    test_seeds: int = 100
    """Paired test seeds a task."""
    on: FitOptions = field(default_factory=lambda: FitOptions(steps=800, copies=4, learning_rate=3e-4, warmup=50))
    """Training on of the good policy, with recoveries and with as many pictures of further demonstrations."""
    variants: tuple[str, ...] = ("space", "view", "object", "arm")
    """What is changed in the tasks to see what carries over."""
    variant_seeds: int = 40
    """Paired test seeds a task and variant."""
    workers: int = 2
    """Processes that run episodes."""


def main(recipe: Recipe) -> None:
    """Run the stages in order; each skips what is on disk."""
    minutes = Minutes(recipe.out / "minutes.json")
    if recipe.stage in ("all", "failures"):
        with minutes.of("failures"):
            make_failures(recipe)
    if recipe.stage in ("all", "policies"):
        with minutes.of("policies"):
            train_policies(recipe)
    if recipe.stage == "all":
        with minutes.of("own failures"):
            mend_own_failures(recipe)
        with minutes.of("recovery actor"):
            learn_recovery(recipe)
        with minutes.of("proof"):
            prove(recipe, STRENGTHS, recipe.tasks, recipe.test_seeds, "proof")
        with minutes.of("recoveries as data"):
            train_on(recipe)
            arms = {name: str(recipe.out / name) for name in TRAINED_ON}
            layouts = list(TEST.claim(recipe.test_seeds))
            evaluate(recipe.tasks, arms, layouts, recipe.out / "data", workers=recipe.workers)
        with minutes.of("variants"):
            changed = [f"{task}@{variant}" for variant in recipe.variants for task in recipe.tasks]
            prove(recipe, STRENGTHS[1:], changed, recipe.variant_seeds, "variants")
    if recipe.stage in ("all", "report"):
        settings = json.loads(json.dumps(asdict(recipe), default=str)) | {"out": "runs/failsafe"}
        write_results(recipe.out, settings, STRENGTHS)


def make_failures(recipe: Recipe) -> None:
    """Failures of every mode that a task knows, spread evenly; what some cells lack, those that filled make up for."""
    folder, options = recipe.out / "failures", GenerateOptions(workers=recipe.workers)
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
    mixed, clean = recipe.out / "demos", recipe.out / "demos-clean"
    demonstrate(recipe, mixed, "mixed", range(recipe.demo_seeds))
    demonstrate(recipe, clean, "clean", range(recipe.clean_seeds))
    weak, good = (recipe.out / name for name in STRENGTHS)
    if not (weak / "config.json").is_file():
        train_bc(mixed, weak, BCOptions(fit=recipe.weak))
    if not (good / "config.json").is_file():
        train_bc(clean, good, BCOptions(fit=recipe.good, start=weak))


def mend_own_failures(recipe: Recipe) -> None:
    """Own episodes of both policies, on layouts of their own; failed ones are mended, successful ones kept beside."""
    for index, name in enumerate(STRENGTHS):
        seeds = COLLECT.claim(recipe.own_seeds, offset=index * recipe.own_seeds)
        items = [RolloutItem(task, s, s, name, str(recipe.out / name)) for task in recipe.tasks for s in seeds]
        own = recipe.out / f"own-{name}"
        collect(items, own, workers=recipe.workers, title=f"own episodes, {name}")
        mend_own(own, recipe.tasks, recipe.out / "failures", GenerateOptions(workers=recipe.workers))


def train_on(recipe: Recipe) -> None:
    """The good policy, trained on with recoveries, and with as many pictures of further demonstrations."""
    further = recipe.out / "further"
    demonstrate(recipe, further, "clean", range(recipe.clean_seeds, recipe.clean_seeds + recipe.demo_seeds))
    stores = {"with-demos": further, "with-recoveries": recipe.out / "failures" / "recoveries"}
    metas = [EpisodeStore(store).metas() for store in stores.values()]
    frames = min(
        sum(m.n_frames for m in mine if m.env_id == task and m.outcome == Outcome.SUCCESS)
        for mine in metas
        for task in recipe.tasks
    )
    for name, store in stores.items():
        if not (recipe.out / name / "config.json").is_file():
            total = frames * len(recipe.tasks)
            options = BCOptions(fit=recipe.on, start=recipe.out / "good", also=store, also_frames=total)
            train_bc(recipe.out / "demos-clean", recipe.out / name, options)


def demonstrate(recipe: Recipe, out: Path, quality: str, seeds: range) -> None:
    """The expert's demonstrations: as it is, or with the faults of people."""
    places = DEMOS.claim(len(seeds), offset=seeds.start)
    items = [RolloutItem(task, s, s, "demos", f"expert:{quality}") for task in recipe.tasks for s in places]
    pictures = RolloutOptions(look_every=2, wording="training")
    collect(items, out, workers=recipe.workers, options=pictures, title=f"{quality} demonstrations")


def prove(recipe: Recipe, names: Sequence[str], tasks: Sequence[str], seeds: int, folder: str) -> None:
    """Policies with and without the recovery actor, on the same test seeds."""
    arms = {name: str(recipe.out / name) for name in names}
    recover = str(recipe.out / "recovery")
    layouts = list(TEST.claim(seeds))
    evaluate(list(tasks), arms, layouts, recipe.out / folder, workers=recipe.workers, recover=recover)


def learn_recovery(recipe: Recipe) -> None:
    """One recovery actor for both policies; it sees through the good one's backbone."""
    if not (recipe.out / "recovery" / "recovery.json").is_file():
        policy = load_policy(recipe.out / "good")
        assert isinstance(policy, CompactVLA), "train_bc makes no other"
        train_recovery(policy, recipe.out / "failures", recipe.recovery).save(recipe.out / "recovery")


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
