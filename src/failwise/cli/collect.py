"""``failwise collect``: run a policy and record its episodes; with the expert, make demonstrations."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from failwise.cli.options import agent_for, arm_name, executor_for, parse, tracking, writable_folder
from failwise.errors import SetupError
from failwise.policies.pooling import Pooling
from failwise.seeds import COLLECT, DEMOS
from failwise.types import EpisodeMeta, Outcome


@dataclass(frozen=True)
class Collect:
    """Record episodes of a policy, an agent or the scripted expert. The same command resumes."""

    env: str
    """Tasks, e.g. metaworld/pick-place,peg-insert-side or metaworld/* (the suite carries over)."""
    policy: str
    """A policy folder, an agent folder, the name of a policy that comes with Failwise (metaworld-base), a policy
    server, openpi:ws://HOST:PORT, or one of the words expert and random."""
    out: Path
    """Folder for the episodes. Several policies may share it."""
    episodes: int = 50
    """Episodes a task."""
    quality: Literal["clean", "mixed"] = "clean"
    """Of the expert: clean, or mixed as people demonstrate, with noise, offsets and detours."""
    offset: int = 0
    """Skip so many seeds of the reserved range: a second round of 120 episodes takes --offset 120."""
    arm: str = ""
    """Name under which the episodes are kept. Default: the last part of the policy's path."""
    wording: Literal["auto", "default", "training", "held_out"] = "auto"
    """The instruction: the task's own sentence, paraphrases for training, or ones that nothing is trained on.
    auto: training for the expert, else default."""
    look_every: int | Literal["auto"] = "auto"
    """Record a picture every so many steps, besides those that the policy looks at; 0: no others. auto: 2 for
    the expert, which looks at none, else 0."""
    snapshot_every: int = 0
    """Record the simulation's complete state every so many steps; 0: never."""
    features: str = "prefix-mean"
    """Which features are recorded for detectors: prefix-mean, expert-mean, prefix-mean+expert-mean, ..."""
    samples: int = 0
    """Further chunks to draw and record at every inference, for detectors that compare several; 0: none."""
    workers: int = 2
    """Worker processes."""
    executor: Literal["processes", "ray"] = "processes"
    """What runs the workers: processes on this machine, or Ray (pip install 'failwise[ray]')."""
    ray_address: str = ""
    """Of a running Ray cluster: auto, HOST:PORT or ray://HOST:PORT. All its machines must see --out at the same path.
    Default: a Ray of its own on this machine."""
    track: str = ""
    """Report to tensorboard, wandb or trackio as it goes; several are joined by commas. Default: to none."""


def summary(metas: Sequence[EpisodeMeta]) -> str:
    """One line a task: how many episodes ended how. Every outcome that occurs is named: the counts add up."""
    lines = []
    for env_id in sorted({meta.env_id for meta in metas}):
        counts = Counter(meta.outcome for meta in metas if meta.env_id == env_id)
        parts = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
        lines.append(f"{env_id}: {counts.total()} episodes, {parts}")
    return "\n".join(lines)


def report_errors(metas: Sequence[EpisodeMeta]) -> int:
    """Say on stderr how many episodes could not go on, and why the first; 1 when none of them could, else 0."""
    faulty = [meta for meta in metas if meta.outcome == Outcome.ERROR]
    if faulty:
        first = faulty[0]
        print(
            f"failwise: {len(faulty)} of {len(metas)} episodes ended in an error; the first, {first.episode_id}: "
            f"{first.error or 'no reason recorded'}",
            file=sys.stderr,
        )
    return 1 if len(faulty) == len(metas) else 0


def main(argv: Sequence[str]) -> int:
    """Run what is not recorded yet, and count the outcomes by task."""
    options = parse(Collect, argv, "collect")
    expert = options.policy.partition(":")[0] == "expert"
    quality = options.policy.partition(":")[2] or options.quality
    if options.quality != "clean" and not expert:
        raise SetupError(f"--quality {options.quality} is for --policy expert; leave it out for {options.policy}")
    look_every = (2 if expert else 0) if options.look_every == "auto" else options.look_every
    for name, steps in (("--look-every", look_every), ("--snapshot-every", options.snapshot_every)):
        if steps < 0:
            raise SetupError(f"{name} counts steps: 0 or more, not {steps}")
    if options.samples < 0 or options.samples == 1:
        raise SetupError(f"--samples {options.samples}: 0, or at least 2 to compare with each other")
    if expert and (options.samples or options.features != "prefix-mean"):
        raise SetupError("--samples and --features are a policy's; the expert has neither")
    Pooling.parse(options.features)
    wording = ("training" if expert else "default") if options.wording == "auto" else options.wording
    seeds = (DEMOS if expert else COLLECT).claim(options.episodes, options.offset)
    agent = f"expert:{quality}" if expert else options.policy
    arm = options.arm or (f"expert-{quality}" if expert else arm_name(options.policy))

    from failwise.envs import parse_env_ids

    env_ids = parse_env_ids(options.env)
    agent = agent_for(agent, env_ids)
    writable_folder(options.out)
    from failwise.rollout import RolloutItem, RolloutOptions, collect

    with (
        tracking(options.track, "collect", options.out, options),
        executor_for(options.executor, options.workers, options.ray_address) as executor,
    ):
        metas = collect(
            [RolloutItem(env_id, seed, seed, arm, agent) for seed in seeds for env_id in env_ids],
            options.out,
            options=RolloutOptions(
                look_every=look_every,
                wording=wording,
                snapshot_every=options.snapshot_every,
                features=options.features,
                samples=options.samples,
            ),
            workers=options.workers,
            executor=executor,
            title=arm,
        )
    print(summary(metas))
    return report_errors(metas)
