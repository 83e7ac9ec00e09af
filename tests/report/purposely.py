"""A folder of failures on purpose, and of own ones, on the tiny environment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from failwise.cli import main
from failwise.envs.tiny import make
from failwise.generate import Attempt, GenerateOptions, Perturbation
from failwise.generate.attempts import append
from failwise.generate.mending import Failed, mend
from failwise.generate.modes import perturb
from failwise.generate.own import ARM
from failwise.generate.plan import execute, make_plan
from failwise.generate.recording import Told
from failwise.types import Actor, FailureEvent

OWN_MODE = "missed_approach"


def write_failures(out: Path) -> Path:
    """Two tasks, of which ``coverage.json`` knows the second, and an own failure of the first."""
    common = ["--out", str(out), "--workers", "1", "--corrections", "2"]
    assert main(["generate", "--env", "tiny/push", "--modes", "translation,noop", "--episodes", "8", *common]) == 0
    assert main(["generate", "--env", "tiny/reach", "--modes", "no_grasp,noop", "--episodes", "3", *common]) == 0
    add_own(out)
    return out


def add_own(out: Path) -> None:
    """One failed run, recorded as if it had been a policy's: rules named it, and ways out were found."""
    env = make("push")
    text = env.spec.instruction
    for seed in range(20):
        plan = make_plan(env, seed, text)
        stage = env.spec.conditions[0]
        script = plan and perturb(plan, Perturbation(mode="translation", axis="x", stage=stage, magnitude=0.1))
        if plan is None or script is None or (run := execute(env, plan, script)).first_success is not None:
            continue
        failed = Failed(
            run=run, arm=ARM, told=Told(text, seed), actors=[Actor.POLICY] * len(run), axis="",
            event=FailureEvent(
                mode=OWN_MODE, stage=stage, onset_step=script.onset, source="rule", evidence="puck <b>was</b> passed"
            ),
            stages={name: list(span) for name, span in plan.spans.items()}, extra={"own": f"tiny.push--base--{seed}"},
        )  # fmt: skip
        options = GenerateOptions(corrections=1, look_every=2, workers=1)
        if found := mend(env, failed, plan, np.random.default_rng(0), out, options):
            append(out, [Attempt(env_id="tiny/push", cell=ARM, seed=seed, result="kept", corrections=found)])
            return
    raise AssertionError("none of twenty layouts gave an own failure that could be mended")
