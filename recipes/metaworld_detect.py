r"""The detection experiment: every failure detector on a small VLA's rollouts of Meta-World tasks.

    python recipes/metaworld_detect.py                # eighteen tasks, two to three hours on two cores; resumes
    python recipes/metaworld_detect.py --stage bench  # only the comparison, from what is on disk

    # ...and on all fifty tasks, with the detectors as they are:
    python recipes/metaworld_detect.py --tasks all --results detect_all --out runs/detect-all \
        --bc.steps 4000 --earlier 0 --episodes 40 --offset 176

Stages: demonstrations -> a policy for all tasks, from the shipped base -> earlier episodes, on which detectors were
developed and from which a failure head and a value model learn, for the two detectors that read these -> other
episodes, with the features and sampled chunks that detectors read -> ``failwise detect bench`` ->
docs/results/detect.json and docs/results/detect.png.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from failwise.agent import save_agent
from failwise.cli.tables import print_table
from failwise.detect import Trace, load_traces
from failwise.envs.metaworld.env import TASKS as ALL
from failwise.evaluate.detection import Scored, at_earliest_stop, roc_aucs, within_tasks_of
from failwise.evaluate.detector_bench import BenchOptions, bench, splits, usable, with_null
from failwise.evaluate.over_tasks import over_tasks
from failwise.improve.fitting import load_compact
from failwise.learn.afil import failure_samples
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.critic import fit_critic
from failwise.learn.data import load_chunks
from failwise.learn.demonstrations import demonstration_traces
from failwise.learn.fit import Source, fit
from failwise.learn.options import AFILTraining, FitOptions
from failwise.policies import shipped
from failwise.policies.compact import CompactVLA
from failwise.registry import names as registered
from failwise.report.detection import draw, table
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.seeds import COLLECT, DEMOS
from failwise.store import EpisodeStore
from figures_of import REPOSITORY, command, machine
from metaworld_improve import TASKS, UNSEEN_BY_SELECTION, env_ids

FURTHER = (
    "push", "sweep-into", "soccer", "hand-insert", "disassemble", "push-wall", "coffee-push", "peg-unplug-side",
    "pick-out-of-hole", "shelf-place",
)  # fmt: skip
SHORTER = {"epochs": 60}  # for recurrent networks, which take minutes a fold
OPTIONS: dict[str, dict[str, Any]] = {
    "safe-lstm": SHORTER,
    "changes": {"options": SHORTER},
    "ensemble": {"members": {"safe-mlp": {}, "safe-lstm": SHORTER, "mahalanobis": {}}},
    # The same again with what the policy was trained on, and the parts of ours one by one.
    "knn-euclidean@demonstrations": {"demonstrations": True},
    "off-course@failures": {"failures": 5.0},
    "off-course@distance": {"late": 0.0},
    # ...and rivals with the features that ours reads.
    "safe-mlp@same-features": {},
    "knn-euclidean@same-features": {"demonstrations": True},
}
RECORDED = "prefix-mean+prefix-max+prefix-first+expert-mean"
# What ours reads, each part as a view of its own: chosen on the earlier episodes, as was the weight of failures.
OURS = "prefix-mean+prefix-max"
WAYS = 8000 / 18  # samples of demonstrations a task that ours keeps: with more tasks than eighteen, more in all
FEWEST = 1  # episodes of either outcome, for a task to count


@dataclass(frozen=True)
class Recipe:
    """The experiment's settings; the defaults are those of the published figures."""

    out: Path = Path("runs/detect")
    """Folder of everything that the experiment makes."""
    stage: Literal["all", "bench"] = "all"
    """Everything, or only the comparison."""
    tasks: Literal["eighteen", "all"] = "eighteen"
    """The eighteen on which detectors were developed, or every task of Meta-World."""
    results: str = "detect"
    """Name of the results' files in docs/results."""
    demo_seeds: int = 40
    """Demonstrations tried a task."""
    demos_per_task: int = 27
    """Successful demonstrations used a task: few, so that something is left to detect."""
    bc: FitOptions = field(default_factory=lambda: FitOptions(steps=2600, copies=4, learning_rate=6e-4, warmup=100))
    """Training of the policy, from the shipped base."""
    episodes: int = 44
    """Own episodes a task."""
    earlier: int = 44
    """Earlier episodes a task, on other seeds; 0: none, and no detector that reads a failure head or a value model."""
    offset: int = 132
    """Skip so many seeds: those of the earlier episodes, and of comparisons before ours or the pictures changed."""
    failure_head: FitOptions = field(
        # No weight decay: it would reach the success head, which shares the tensors and has no loss here.
        default_factory=lambda: FitOptions(steps=400, copies=4, learning_rate=2e-4, warmup=50, weight_decay=0.0)
    )
    """Training of the failure head on the earlier episodes; backbone and success head stay as they are."""
    execute: int = 4
    """Actions of each chunk to execute; the other half overlaps with the next chunk, which STAC compares."""
    samples: int = 8
    """Chunks drawn at every inference for the detectors that compare several."""
    features: str = "prefix-mean+expert-mean"
    """Those of the recorded features that the rivals read: what is seen, and what is about to be done."""
    folds: int = 3
    """Folds of tasks."""
    repeats: int = 500
    """Bootstrap samples of each interval."""
    workers: int = 2
    """Processes that run episodes."""


def main(recipe: Recipe) -> None:
    """Run the stages in order; each skips what is on disk."""
    tasks = env_ids(ALL if recipe.tasks == "all" else TASKS + UNSEEN_BY_SELECTION + FURTHER)
    policy, agent, observing = (recipe.out / name for name in ("policy", "agent", "observing"))
    earlier, episodes = recipe.out / "earlier", recipe.out / "episodes"
    if recipe.stage == "all":
        demos = recipe.out / "demos"
        items = [RolloutItem(e, s, s, "demos", "expert:mixed") for e in tasks for s in DEMOS.claim(recipe.demo_seeds)]
        with_pictures = RolloutOptions(look_every=2, wording="training")
        collect(items, demos, workers=recipe.workers, options=with_pictures, title="demonstrations")
        if not (policy / "config.json").is_file():
            start = shipped("metaworld-base")
            train_bc(demos, policy, BCOptions(fit=recipe.bc, per_task=recipe.demos_per_task, start=start))
        watched = RolloutOptions(features=RECORDED, samples=recipe.samples)
        write_agent(agent, recipe.execute)
        if recipe.earlier:
            items = [RolloutItem(e, s, s, "policy", str(agent)) for s in COLLECT.claim(recipe.earlier) for e in tasks]
            collect(items, earlier, workers=recipe.workers, options=watched, title="earlier episodes")
            observe(recipe, load_compact(policy), earlier, observing)
        acting = str(observing if recipe.earlier else agent)
        seeds = COLLECT.claim(recipe.episodes, recipe.offset)
        items = [RolloutItem(e, s, s, "policy", acting) for s in seeds for e in tasks]
        collect(items, episodes, workers=recipe.workers, options=watched, title="own episodes")
    write_results(recipe, episodes)


def write_agent(folder: Path, execute: int) -> None:
    """An agent that only says how many actions of a chunk to execute."""
    folder.mkdir(exist_ok=True)
    about = {"format": "failwise-agent-1", "policy": "../policy", "steering": [], "execute": execute}
    (folder / "agent.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def observe(recipe: Recipe, policy: CompactVLA, episodes: Path, folder: Path) -> None:
    """The same policy with a failure head and a value model, which are read and steer nothing."""
    if (folder / "agent.json").is_file():
        return
    own = load_chunks(episodes, policy.spec.horizon, lambda m: m.has_verdict, cameras=policy.spec.cameras)
    critic, judged = fit_critic(policy, own, value_only=True)
    failures = own.take(failure_samples(own, judged, AFILTraining()))
    source = Source(failures, head="failure", stop_gradient=True)
    both = policy.with_heads(("success", "failure"))
    trained = fit(both, [source], recipe.failure_head, title="failure head", scratch=folder / "training")
    steering = [{"name": "afil", "options": {"alpha": 0.0, "observe": True}}]
    save_agent(folder, trained, steering, critic, recipe.execute)


def write_results(recipe: Recipe, episodes: Path) -> None:
    """Compare on the tasks that have both outcomes; the others are named."""
    counts: dict[str, Counter[bool]] = {}
    for meta in EpisodeStore(episodes, create=False).metas():
        if meta.has_verdict:
            counts.setdefault(meta.env_id, Counter())[meta.outcome == "success"] += 1
    kept = {task for task, c in counts.items() if min(c[True], c[False]) >= FEWEST}
    traces = load_traces(episodes, lambda m: m.env_id in kept)
    names = [*usable(traces, registered("detector")), *(name for name in OPTIONS if "@" in name)]
    ours = [name for name in names if name.startswith("off-course") or name.endswith("@same-features")]
    features = {name: OURS if name in ours else recipe.features for name in names}
    limit = round(WAYS * len(counts))
    chosen = {**OPTIONS, **{n: {**OPTIONS.get(n, {}), "limit": limit} for n in names if n.startswith("off-course")}}
    options = BenchOptions(recipe.folds, repeats=recipe.repeats, options=chosen, features=features)
    cache = recipe.out / "demonstrations.safetensors"
    demonstrations = demonstration_traces(
        recipe.out / "demos", recipe.out / "policy", traces[0].pooling, per_task=recipe.demos_per_task, cache=cache
    )
    results = bench(traces, names, options, demonstrations=demonstrations, scratch=recipe.out / "detectors")
    results = {
        "experiment": "metaworld_detect",
        "command": command("metaworld_detect", sys.argv[1:], ("--out", "--stage")),
        **machine(),
        "success_by_task": {task: f"{c[True]}/{c.total()}" for task, c in sorted(counts.items())},
        "seeds": [(seeds := COLLECT.claim(recipe.episodes, recipe.offset))[0], seeds[-1]],
        "left_out": sorted(set(counts) - kept),
        "execute": recipe.execute,
        "samples": recipe.samples,
        "features": {name: features[name] for name in results["detectors"]},
        "options": chosen,
        "reference": reference(EpisodeStore(episodes, create=False), kept, recipe.repeats),
        "task_rate": task_rate(traces, options),
        **results,
    }
    path = REPOSITORY / "docs" / "results" / f"{recipe.results}.json"
    path.write_text(json.dumps(with_null(results), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    shutil.copy(draw(results, recipe.out / "detect.png"), path.with_suffix(".png"))
    print_table(table(results))
    print(path)


def reference(store: EpisodeStore, kept: Collection[str], repeats: int) -> dict[str, Any]:
    """How far the simulator itself tells by the earliest stop: the fewer conditions hold then, the worse it stands.

    No detector may read this; it says how much is decided at all by the time at which the first episode succeeds.
    """
    scored = []
    for meta in store.metas():
        if meta.has_verdict and meta.env_id in kept:
            held = np.stack([v for name, v in store.read(meta.episode_id).conditions().items() if name != "success"])
            score = -held.sum(0).astype(np.float64)
            scored.append(Scored(meta.env_id, meta.outcome != "success", score, meta.episode_id))
    last = [replace(e, scores=e.scores[-1:]) for e in at_earliest_stop(scored)]
    return {
        "what": "conditions that hold at the earliest stop, all tasks",
        "within_tasks": asdict(over_tasks([last], within_tasks_of, repeats=repeats)),
        "roc_auc": asdict(over_tasks([last], roc_aucs, repeats=repeats)),
    }


def task_rate(traces: Sequence[Trace], options: BenchOptions) -> dict[str, Any]:
    """What knowing each seen task's share of failures gives, pooled: no look at the episode at all."""
    rows = []
    for fold in splits(traces, options.folds, options.seed):
        known: dict[str, list[bool]] = {}
        for i in fold.fit:
            known.setdefault(traces[i].meta.env_id, []).append(traces[i].failed)
        seen = [traces[i] for i in fold.seen]
        rows.append(
            [
                Scored(t.meta.env_id, t.failed, np.array([np.mean(known[t.meta.env_id])]), t.meta.episode_id)
                for t in seen
            ]
        )
    return {
        "what": "the share of failures among a seen task's episodes that detectors are fitted on",
        "roc_auc": asdict(over_tasks(rows, roc_aucs, repeats=options.repeats)),
    }


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
