"""The main experiment: a small VLA on Meta-World learns from its own failures, and the proof that it did.

    python recipes/metaworld_improve.py                # everything, hours on two cores; resumes where it stopped
    python recipes/metaworld_improve.py --stage report # only the figures, from what is on disk

Stages: demonstrations -> base policy -> ``improve`` on six tasks -> the improved agent, once, on two tasks from which
it learned nothing and which took part in no choice -> docs/results/metaworld_improve.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from failwise.evaluate import evaluate
from failwise.improve import ImproveOptions, improve
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.options import AFILTraining, CriticOptions, FitOptions
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.seeds import DEMOS, TEST
from figures_of import REPOSITORY, Minutes, machine, without_seed_lists

TASKS = ("pick-place", "peg-insert-side", "basketball", "box-close", "bin-picking", "assembly")
UNSEEN_BY_SELECTION = ("stick-push", "hammer")


@dataclass(frozen=True)
class Recipe:
    """The experiment's settings; the defaults are those of the published figures."""

    out: Path = Path("runs/metaworld")
    """Folder of everything that the experiment makes."""
    stage: Literal["all", "base", "improve", "unseen", "report"] = "all"
    """Where to stop, or only the report."""
    base: Path | None = None
    """A base policy to start from instead of training one."""
    demo_seeds: int = 56
    """Demonstrations tried a task; the first successful ones are kept."""
    demos_per_task: int = 39
    """Successful demonstrations used a task."""
    bc: FitOptions = field(default_factory=lambda: FitOptions(steps=7000, copies=4))
    """Training of the base."""
    improve: ImproveOptions = field(
        default_factory=lambda: ImproveOptions(
            episodes=120,
            rounds=3,
            recoveries="expert",
            samples=(),
            guidance=(1.0,),
            extra="one_round",
            side_seeds=34,
            demos_per_task=39,
            heads=AFILTraining(
                fit=FitOptions(steps=4000, copies=4, learning_rate=4e-4, warmup=100),
                recoveries_share=0.45,
            ),
            critic=CriticOptions(steps=900),
            threads=2,
        )
    )
    """Collecting, learning, choosing, proving."""


def env_ids(tasks: tuple[str, ...]) -> list[str]:
    """Full names of Meta-World tasks."""
    return [f"metaworld/{task}" for task in tasks]


def main(recipe: Recipe) -> None:
    """Run the stages in order; each skips what is on disk."""
    minutes = Minutes(recipe.out / "minutes.json")
    demos, base = recipe.out / "demos", recipe.base or recipe.out / "base"
    run, unseen = recipe.out / "improve", recipe.out / "unseen"
    if recipe.stage != "report":
        with_demos(demos, recipe, minutes)
        if not (base / "config.json").is_file():
            with minutes.of("base"):
                train_bc(demos, base, BCOptions(fit=recipe.bc, per_task=recipe.demos_per_task))
        if recipe.stage == "base":
            return
        options = replace(recipe.improve, demos=demos)
        with minutes.of(f"improve, {recipe.improve.rounds} rounds"):
            improve(env_ids(TASKS), base, run, options)
        if recipe.stage == "improve":
            return
        with minutes.of("unseen"):
            arms = {"base": str(base), f"improved-{options.rounds}": str(run / "agent")}
            seeds = list(TEST.claim(options.test_seeds, options.test_offset))
            evaluate(env_ids(UNSEEN_BY_SELECTION), arms, seeds, unseen / "proof", workers=options.workers)
    write_results(recipe, run, unseen, base)


def with_demos(demos: Path, recipe: Recipe, minutes: Minutes) -> None:
    """Mixed-quality demonstrations of all tasks: noise, offsets, detours; failed ones are kept but not imitated."""
    seeds = DEMOS.claim(recipe.demo_seeds)
    items = [RolloutItem(e, s, s, "demos", "expert:mixed") for e in env_ids(TASKS + UNSEEN_BY_SELECTION) for s in seeds]
    options = RolloutOptions(look_every=2, wording="training")
    with minutes.of("demonstrations"):
        collect(items, demos, workers=recipe.improve.workers, options=options, title="demonstrations")


def write_results(recipe: Recipe, run: Path, unseen: Path, base: Path) -> None:
    """docs/results/metaworld_improve.json: every figure of the docs page, with n, seeds, intervals and p-values.

    Paths are written relative to the run, so that the file says nothing of the machine's folders.
    """
    from failwise.policies.compact import weights_sha256

    minutes = recipe.out / "minutes.json"
    results: dict[str, Any] = {
        "experiment": "metaworld_improve",
        "command": "python recipes/metaworld_improve.py",
        "settings": json.loads(json.dumps(asdict(recipe.improve), default=str)),
        "base_sha256": weights_sha256(base),
        **machine(),
        "minutes": json.loads(minutes.read_text(encoding="utf-8")) if minutes.is_file() else {},
        "six_tasks": proof_of(run),
        "tasks_that_no_choice_saw": proof_of(unseen) if (unseen / "proof" / "comparison.json").is_file() else None,
    }
    path = REPOSITORY / "docs" / "results" / "metaworld_improve.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1).replace(f"{recipe.out}/", "").replace(f'"{base}"', '"base"')
    path.write_text(text + "\n", encoding="utf-8")
    print(path, file=sys.stderr)


def proof_of(run: Path) -> dict[str, Any]:
    """A run's comparisons and choices."""
    out: dict[str, Any] = {}
    for file in sorted((run / "proof").glob("*.json")):
        if file.name != "arms.json":
            out[file.stem] = without_seed_lists(json.loads(file.read_text(encoding="utf-8")))
    out["choices"] = {
        p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in sorted(run.glob("round*/choice.json"))
    }
    return out


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
