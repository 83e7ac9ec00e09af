"""The recovery experiment: failures on purpose, a recovery actor that learns from them, and its worth in the loop.

    make maniskill
    .venv-maniskill/bin/python recipes/failures_on_purpose.py                  # hours on two cores; resumes
    .venv-maniskill/bin/python recipes/failures_on_purpose.py --stage report   # only the figures, from what is on disk

Stages: demonstrations -> a weak and a good policy -> failures with verified recoveries -> a recovery actor, judged on
layouts that it has not seen -> both policies with and without it on test seeds -> docs/results/failsafe.json.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from failwise.evaluate import evaluate
from failwise.evaluate.recovered import recovered_arm, recovery_result
from failwise.generate import Attempt, GenerateOptions, Request, cells_of, generate, possible_modes, read_attempts
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.options import FitOptions, RecoveryTraining
from failwise.learn.recovery import train_recovery
from failwise.policies import load_policy
from failwise.policies.compact import CompactVLA
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.rollout.collecting import environment
from failwise.seeds import DEMOS, TEST
from failwise.store import EpisodeStore
from figures_of import REPOSITORY, Minutes, machine

MODES = (
    "translation",
    "rotation",
    "misaligned_grasp",
    "noop",
    "slip",
    "early_release",
    "late_close",
    "no_grasp",
    "speed",
    "wrong_sequence",
    "wrong_goal",
    "wrong_object",
)
STRENGTHS = ("weak", "good")


@dataclass(frozen=True)
class Recipe:
    """The experiment's settings; the defaults are those of the published figures."""

    out: Path = Path("runs/failsafe")
    """Folder of everything that the experiment makes."""
    stage: Literal["all", "failures", "policies", "report"] = "all"
    """Everything, only the failures, only the policies, or only the figures."""
    tasks: tuple[str, ...] = ("maniskill/PickCube-v1", "maniskill/PushCube-v1", "maniskill/StackCube-v1")
    """The tasks."""
    failures: int = 216
    """Failures with a verified recovery a task, over all modes."""
    demo_seeds: int = 60
    """Demonstrations tried a task."""
    weak: FitOptions = field(default_factory=lambda: FitOptions(steps=500, copies=4, warmup=50))
    """Training of the weak policy."""
    good: FitOptions = field(default_factory=lambda: FitOptions(steps=2500, copies=4, warmup=100))
    """Training of the good policy."""
    recovery: RecoveryTraining = field(default_factory=RecoveryTraining)
    """Training of the recovery actor."""
    test_seeds: int = 100
    """Paired test seeds a task."""
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
        with minutes.of("recovery actor"):
            learn_recovery(recipe)
        with minutes.of("proof"):
            arms = {name: str(recipe.out / name) for name in STRENGTHS}
            seeds = list(TEST.claim(recipe.test_seeds))
            recover = str(recipe.out / "recovery")
            evaluate(recipe.tasks, arms, seeds, recipe.out / "proof", workers=recipe.workers, recover=recover)
    if recipe.stage in ("all", "report"):
        write_results(recipe)


def make_failures(recipe: Recipe) -> None:
    """Failures of every mode that a task knows, spread evenly."""
    for task in recipe.tasks:
        env = environment(task)
        modes = [mode for mode in possible_modes(env) if mode in MODES]
        share = -(-recipe.failures // len(modes))
        cells = cells_of(env, [Request(mode=mode, episodes=share) for mode in modes])
        generate(cells, recipe.out / "failures", GenerateOptions(workers=recipe.workers))


def train_policies(recipe: Recipe) -> None:
    """Two policies on the same demonstrations, of which one has trained for longer."""
    demos = recipe.out / "demos"
    items = [
        RolloutItem(e, s, s, "demos", "expert:mixed") for e in recipe.tasks for s in DEMOS.claim(recipe.demo_seeds)
    ]
    pictures = RolloutOptions(look_every=2, wording="training")
    collect(items, demos, workers=recipe.workers, options=pictures, title="demonstrations")
    for name, fit in zip(STRENGTHS, (recipe.weak, recipe.good), strict=True):
        if not (recipe.out / name / "config.json").is_file():
            train_bc(demos, recipe.out / name, BCOptions(fit=fit))


def learn_recovery(recipe: Recipe) -> None:
    """One recovery actor for both policies; it sees through the good one's backbone."""
    if not (recipe.out / "recovery" / "recovery.json").is_file():
        policy = load_policy(recipe.out / "good")
        assert isinstance(policy, CompactVLA), "train_bc makes no other"
        train_recovery(policy, recipe.out / "failures", recipe.recovery).save(recipe.out / "recovery")


def write_results(recipe: Recipe) -> None:
    """docs/results/failsafe.json: yields by mode, figures of the diagnosis, and the pairs with and without recovery."""
    minutes = recipe.out / "minutes.json"
    about = json.loads((recipe.out / "recovery" / "recovery.json").read_text(encoding="utf-8"))
    metas = EpisodeStore(recipe.out / "proof" / "episodes", create=False).metas()
    comparisons = {}
    for name in STRENGTHS:
        rows = {task: [m for m in metas if m.env_id == task] for task in recipe.tasks}
        comparisons[name] = {
            "all": asdict(recovery_result(metas, name)),
            **{task: asdict(recovery_result(mine, name)) for task, mine in rows.items()},
        }
    results: dict[str, Any] = {
        "experiment": "failures_on_purpose",
        "command": "python recipes/failures_on_purpose.py",
        **machine(),
        "minutes": json.loads(minutes.read_text(encoding="utf-8")),
        "settings": json.loads(json.dumps(asdict(recipe), default=str)) | {"out": "runs/failsafe"},
        "failures": yields(read_attempts(recipe.out / "failures")),
        "diagnosis": about["notes"],
        "arms": [name for strength in STRENGTHS for name in (strength, recovered_arm(strength))],
        "recovery": comparisons,
        "comparison": json.loads((recipe.out / "proof" / "comparison.json").read_text(encoding="utf-8")),
    }
    path = REPOSITORY / "docs" / "results" / "failsafe.json"
    path.write_text(json.dumps(results, indent=1).replace(f"{recipe.out}/", "") + "\n", encoding="utf-8")
    print(path)


def yields(attempts: list[Attempt]) -> dict[str, dict[str, dict[str, int]]]:
    """Task -> mode -> what came of its attempts, and how many recoveries were verified."""
    out: dict[str, dict[str, Counter[str]]] = {}
    for attempt in attempts:
        mode = attempt.cell.split(".")[0].split("-")[0]
        tally = out.setdefault(attempt.env_id, {}).setdefault(mode, Counter())
        tally[attempt.result] += 1
        tally["recoveries"] += attempt.corrections
    return {task: {mode: dict(tally) for mode, tally in sorted(modes.items())} for task, modes in out.items()}


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
