"""``failwise improve``: the whole job, from a policy that fails to a verdict on what it learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failwise.cli.options import parse_with, tracking, writable_folder


@dataclass(frozen=True)
class Improve:
    """What is improved, and where the run is kept."""

    env: str
    """Tasks, e.g. metaworld/pick-place,peg-insert-side or metaworld/* (the suite carries over)."""
    policy: Path
    """Folder of the policy to improve, or the name of one that comes with Failwise: metaworld-base. A checkpoint of
    LeRobot (its folder, or lerobot:FOLDER?KEY=CAMERA) keeps its weights and is improved by what chooses and steers."""
    out: Path
    """Folder for the run: episodes, candidates, the chosen agent, proof. The same command resumes there."""
    track: str = ""
    """Report to tensorboard, wandb or trackio as it goes; several are joined by commas. Default: to none."""


def main(argv: Sequence[str]) -> int:
    """Improve the policy, and print where the better agent is."""
    from failwise.improve import ImproveOptions, improve

    description = "Collect the policy's own episodes, learn from them, choose on validation seeds, prove on test seeds."
    common, options = parse_with(Improve, ImproveOptions, argv, "improve", description)
    from failwise.envs import parse_env_ids

    env_ids = parse_env_ids(common.env)
    writable_folder(common.out)
    with tracking(common.track, "improve", common.out, common, options):
        run = improve(env_ids, common.policy, common.out, options)
    print(f"agent: {run / 'agent'}")
    return 0
