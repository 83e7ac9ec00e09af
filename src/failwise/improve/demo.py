"""The main job in small: two Meta-World tasks, the shipped base policy, minutes on two cores."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from failwise.improve.options import ImproveOptions
from failwise.improve.run import improve
from failwise.improve.unused_seeds import unused_test_offset
from failwise.learn.options import AFILTraining, CriticOptions, FitOptions
from failwise.policies import shipped
from failwise.seeds import TEST

TASKS = ("metaworld/peg-insert-side", "metaworld/pick-place")

OPTIONS = ImproveOptions(
    episodes=40,
    candidate="recovery-gated",  # as in the full experiment; so few validation episodes would draw lots
    test_seeds=40,
    samples=(),  # no best of N: its critic would take minutes, and did not help in the full experiment
    guidance=(1.0,),
    heads=AFILTraining(
        fit=FitOptions(steps=210, batch=24, copies=4, learning_rate=2e-4, warmup=30),
        failure_set="whole_trajectory",  # the other one asks a value model, which would have to be fitted first
    ),
    critic=CriticOptions(steps=150, batch=64),
    extra="none",
    proof="short",
    recoveries="expert",
    recoveries_per_failure=1,
    recovery_backoff=0,
)


def demo(out: Path, *, workers: int = 2, threads: int = 2) -> Path:
    """Collect, learn from failures, choose, prove; returns the report's path. The same call resumes.

    The test seeds are drawn for the folder, so that nobody, the demo's makers included, has seen their results before.
    """
    offset = unused_test_offset(out, OPTIONS.test_seeds)
    options = replace(OPTIONS, workers=workers, threads=threads, test_offset=offset)
    seeds = TEST.claim(options.test_seeds, offset)
    print(f"test seeds, drawn for {out}: {seeds.start} to {seeds.stop - 1}", file=sys.stderr)
    run = improve(TASKS, shipped("metaworld-base"), out, options)
    return run / "proof" / "report.html"
