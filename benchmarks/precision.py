"""What bfloat16 costs in success, and gains in time: the same trainings in both precisions, on paired seeds.

    python benchmarks/precision.py                                     # minutes on one core: three training seeds
    python benchmarks/precision.py --env metaworld/pick-place --steps 7000 --demos 56

Per training seed one policy is cloned in float32 and one in bfloat16, from the same demonstrations and minibatches, and
both run the same layouts.

    success_float32, success_bfloat16    over all training seeds
    difference, lower, upper             bfloat16 minus float32, in points, 95% interval over layouts and training seeds
    p                                    exact McNemar over all pairs
    time_ratio                           seconds of a training, float32 over bfloat16, median over training seeds
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from failwise.evaluate.statistics import mcnemar_exact, paired_difference
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.options import FitOptions, Precision
from failwise.policies.compact import CompactConfig
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.seeds import DEMOS, VALIDATION
from figures import announce

SMALL = CompactConfig(
    cameras={}, width=32, attention_heads=2, conv_channels=(8, 8, 8), backbone_layers=1, expert_layers=1, horizon=4,
    execute=2, denoising_steps=3,
)  # fmt: skip


def main() -> None:
    """Train, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="tiny/reach")
    parser.add_argument("--demos", type=int, default=40, help="demonstrations that are tried")
    parser.add_argument("--steps", type=int, default=500, help="optimiser steps of a training")
    parser.add_argument("--trainings", type=int, default=3, help="training seeds")
    parser.add_argument("--layouts", type=int, default=100, help="layouts that each policy runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = arguments.env.startswith("tiny/")
    options = BCOptions(
        config=SMALL if small else CompactConfig(),
        fit=FitOptions(
            steps=arguments.steps, copies=4, save_every=0, shift=1 if small else 4, warmup=20 if small else 300,
            learning_rate=1.5e-3 if small else 6e-4, ema=0.98 if small else 0.999,
        ),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments, options)


def measure(folder: Path, arguments: argparse.Namespace, options: BCOptions) -> None:
    """Print the table and the line of JSON."""
    demos = [RolloutItem(arguments.env, s, s, "demos", "expert:mixed") for s in DEMOS.claim(arguments.demos)]
    collect(demos, folder / "demos", workers=1, options=RolloutOptions(look_every=2), quiet=True)
    layouts = VALIDATION.claim(arguments.layouts, offset=50_000)
    won: dict[str, set[tuple[int, int]]] = {name: set() for name in get_args(Precision)}
    seconds: dict[str, list[float]] = {name: [] for name in won}
    for seed in range(arguments.trainings):
        for name in get_args(Precision):
            start = time.perf_counter()
            fit = replace(options.fit, seed=seed, precision=name)
            policy = train_bc(folder / "demos", folder / f"{name}-{seed}", replace(options, fit=fit))
            seconds[name].append(time.perf_counter() - start)
            items = [RolloutItem(arguments.env, s, s, f"{name}-{seed}", str(policy)) for s in layouts]
            metas = collect(items, folder / "episodes", workers=1, quiet=True)
            won[name] |= {(seed, m.env_seed) for m in metas if m.outcome == "success"}
    n = arguments.trainings * arguments.layouts
    wins, losses = len(won["bfloat16"] - won["float32"]), len(won["float32"] - won["bfloat16"])
    difference = paired_difference(losses, wins, n)
    figures = {
        "success_float32": len(won["float32"]) / n,
        "success_bfloat16": len(won["bfloat16"]) / n,
        "difference": 100 * difference.point,
        "lower": 100 * difference.lower,
        "upper": 100 * difference.upper,
        "p": mcnemar_exact(losses, wins).p_value,
        "time_ratio": statistics.median(seconds["float32"]) / statistics.median(seconds["bfloat16"]),
    }
    by_training = {name: [sum(s == seed for s, _ in won[name]) for seed in range(arguments.trainings)] for name in won}
    announce(
        "precision", figures, table=True, env=arguments.env, n=n, trainings=arguments.trainings, steps=arguments.steps,
        successes_by_training=by_training, capability=torch.backends.cpu.get_cpu_capability(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
