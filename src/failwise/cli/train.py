"""``failwise train``: recorded episodes become a policy or an agent, one method a sub-verb."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from failwise.cli.options import existing_folder, parse_with, tracking, writable_folder
from failwise.errors import CheckpointError, SetupError, UnknownNameError


@dataclass(frozen=True)
class Train:
    """Where the episodes are, and where the result goes."""

    episodes: Path
    """Folder of recorded episodes, as 'failwise collect' wrote it."""
    out: Path
    """Folder for what is trained."""
    track: str = field(default="", kw_only=True)
    """Report to tensorboard, wandb or trackio as it goes; several are joined by commas. Default: to none."""


@dataclass(frozen=True)
class TrainCritic(Train):
    """Where the episodes are, whose they are, and where the result goes."""

    policy: Path
    """The policy that acted in them, as for 'failwise collect': the critic reads its features."""
    samples: int = 8
    """Chunks that the agent draws at every look; it acts on the one that the critic rates highest."""


@dataclass(frozen=True)
class TrainRecovery:
    """What it learns from, through whose eyes, and where the result goes."""

    data: Path
    """Folder that 'failwise generate' made, with pictures."""
    out: Path
    """Folder for the recovery actor."""
    policy: Path
    """A compact policy: its frozen backbone sees the pictures."""
    track: str = ""
    """Report to tensorboard, wandb or trackio as it goes; several are joined by commas. Default: to none."""


@dataclass(frozen=True)
class TrainVLM:
    """What it learns from, which model learns, and where the result goes."""

    data: Path
    """Folder that 'failwise export questions' wrote."""
    model: str
    """A vision-language model: its folder, or its name on a hub."""
    out: Path
    """Folder for what is learned; the same command resumes there."""
    track: str = ""
    """Report to tensorboard, wandb or trackio as it goes; several are joined by commas. Default: to none."""


@dataclass(frozen=True)
class Method:
    """A training method: ``run(argv)`` trains, and returns the folder that holds the result."""

    summary: str
    run: Callable[[Sequence[str]], Path]


def _checked(common: Train) -> Train:
    existing_folder(common.episodes, "--episodes", "episodes that 'failwise collect' wrote")
    writable_folder(common.out)
    return common


def bc(argv: Sequence[str]) -> Path:
    """Train a policy by behaviour cloning; the same command resumes."""
    from failwise.learn.bc import BCOptions, train_bc

    common, options = parse_with(Train, BCOptions, argv, "train bc", METHODS["bc"].summary)
    _checked(common)
    with tracking(common.track, "train bc", common.out, common, options):
        return train_bc(common.episodes, common.out, options)


def critic(argv: Sequence[str]) -> Path:
    """Train a critic on a policy's own episodes, and save both as an agent that acts on the best of N."""
    from failwise.learn.critic import fit_critic
    from failwise.learn.options import CriticOptions

    common, options = parse_with(TrainCritic, CriticOptions, argv, "train critic", METHODS["critic"].summary)
    if common.samples < 2:
        raise SetupError(f"--samples {common.samples} leaves the critic no choice; 2 or more, 8 is usual")
    from failwise.agent import save_agent
    from failwise.learn.data import load_chunks
    from failwise.policies import load_policy
    from failwise.policies.compact import CompactVLA

    policy = load_policy(common.policy)
    if not isinstance(policy, CompactVLA):
        raise CheckpointError(f"--policy {common.policy} is a {policy.spec.kind!r}; the critic reads compact ones")
    _checked(common)
    with tracking(common.track, "train critic", common.out, common, options):
        data = load_chunks(common.episodes, policy.spec.horizon)
        trained, judged = fit_critic(policy, data.take(data.inferred), options)
    print(f"held-out AUC: value {judged.auc_value:.3f}, critic {judged.auc_critic:.3f} (0.5 is guessing)")
    steering: list[Mapping[str, Any]] = [{"name": "best_of_n", "options": {"samples": common.samples}}]
    return save_agent(common.out, policy, steering, trained)


def recovery(argv: Sequence[str]) -> Path:
    """Train a recovery actor on failures on purpose, and say how well it knows held-out layouts."""
    from failwise.learn.options import RecoveryTraining

    common, options = parse_with(TrainRecovery, RecoveryTraining, argv, "train recovery", METHODS["recovery"].summary)
    existing_folder(common.data, "--data", "what 'failwise generate' made")
    writable_folder(common.out)
    if not options.acting.steps and (common.out / "acting").is_dir():
        raise SetupError(
            f"{common.out / 'acting'} is an earlier recovery policy, which would act; choose another --out"
        )
    from failwise.learn.recovery import save_actor, train_acting, train_recovery
    from failwise.policies import load_policy
    from failwise.policies.compact import CompactVLA

    policy = load_policy(common.policy)
    if not isinstance(policy, CompactVLA):
        raise CheckpointError(f"--policy {common.policy} is a {policy.spec.kind!r}; recovery actors read compact ones")
    with tracking(common.track, "train recovery", common.out, common, options):
        advisor = train_recovery(policy, common.data, options, common.out / "frames")
        save_actor(advisor, common.out, acting=options.acting.steps > 0)
        if options.acting.steps:
            train_acting(common.policy, common.data, common.out, options.acting)
    shutil.rmtree(common.out / "frames")
    for name, on in (("figures", "failures on purpose"), ("own", "the policy's own episodes")):
        if name in advisor.notes:
            found = advisor.notes[name]
            print(
                f"on {found['layouts']} held-out layouts, {on} ({found['moments']} moments): failing or not "
                f"{_with_interval(found, 'binary')}, mode and axis {_with_interval(found, 'kind')}, cosine of the move "
                f"{_with_interval(found, 'cosine')} (n = {found['moves']}), gripper {found['gripper']:.3f}, sub-task "
                f"{found['stage']:.3f}"
            )
    if options.acting.steps:
        ways_out = load_policy(common.out / "acting").notes["also_trained_on"]["episodes"]
        print(f"in a takeover a policy acts that learned {sum(ways_out.values())} ways out of failures")
    return common.out


def _with_interval(found: Mapping[str, Any], name: str) -> str:
    low, high = found["intervals"].get(name, (None, None))
    return f"{found[name]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")


def vlm(argv: Sequence[str]) -> Path:
    """Fine-tune a vision-language model as recovery actor, and say how well it knows held-out layouts."""
    from failwise.learn.options import VLMTraining

    common, options = parse_with(TrainVLM, VLMTraining, argv, "train vlm", METHODS["vlm"].summary)
    existing_folder(common.data, "--data", "what 'failwise export questions' wrote")
    writable_folder(common.out)
    from failwise.learn.vlm import train_vlm

    with tracking(common.track, "train vlm", common.out, common, options):
        notes = train_vlm(common.data, common.model, common.out, options).notes
    found = notes["figures"]
    print(
        f"on {notes['held_out_layouts']} held-out layouts ({found['moments']} questions): failing or not "
        f"{found['binary']:.3f}, mode and axis {found['kind']:.3f}, cosine of the move {found['cosine']:.3f} "
        f"(n = {found['moves']}), gripper {found['gripper']:.3f}, sub-task {found['stage']:.3f}, "
        f"unreadable answers {found['unread']}"
    )
    return common.out


METHODS = {
    "bc": Method("behaviour cloning: a policy from successful demonstrations", bc),
    "recovery": Method("a recovery actor, from failures on purpose: is it failing, how, and the way out", recovery),
    "vlm": Method("a vision-language model as recovery actor, from exported questions", vlm),
    "critic": Method("an agent that acts on the best of N chunks, by a critic fitted to its own episodes", critic),
}


def help_text() -> str:
    """The methods, one a line."""
    rows = "\n".join(f"  {name:<8} {method.summary}" for name, method in METHODS.items())
    usage = "usage: failwise train METHOD [OPTIONS]"
    return f"{usage}\n\nmethods:\n{rows}\n\n'failwise train METHOD --help' shows its options."


def main(argv: Sequence[str]) -> int:
    """Train, and print the folder that holds the result."""
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        return 0 if argv else 2
    name, *rest = argv
    if name not in METHODS:
        raise UnknownNameError("training method", name, METHODS)
    print(METHODS[name].run(rest))
    return 0
