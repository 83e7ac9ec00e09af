"""``failwise evaluate``: policies and agents on the same tasks and seeds, with a verdict in plain words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from failwise.cli.options import (
    agent_for,
    executor_for,
    existing_folder,
    parse,
    parse_arms,
    tracking,
    writable_folder,
)
from failwise.errors import SetupError
from failwise.seeds import TEST, home_of, parse_seeds
from failwise.types import Outcome

if TYPE_CHECKING:
    from failwise.evaluate import Comparison
    from failwise.recover.takeover import TakeoverOptions


@dataclass(frozen=True)
class Evaluate:
    """Compare arms on paired seeds. The same command resumes; an arm that was run before is not run again."""

    env: str
    """Tasks, e.g. metaworld/pick-place,peg-insert-side or metaworld/* (the suite carries over)."""
    arms: Annotated[str, arg(aliases=["--policy"])]
    """What is compared, the baseline first: PATH,PATH or NAME=PATH,NAME=PATH. A path is a policy folder, an agent
    folder or a policy server, openpi:ws://HOST:PORT; the words random and expert work too."""
    out: Path
    """Folder for the episodes and the comparison."""
    seeds: str = "100"
    """Seeds a task: a count, taken from the range reserved for tests, or START:STOP (STOP left out)."""
    baseline: str | None = None
    """Name of the arm that the others are compared with. Default: the first."""
    confidence: float = 0.95
    """Level of the intervals; a test rejects at one minus it."""
    monitor: Path | None = None
    """Folder of a detector that 'failwise detect fit' wrote: each arm gets a twin that it watches on the same seeds."""
    on_alarm: Literal["note", "stop", "recover", "ask", "learned"] | None = None
    """At a watched episode's first alarm: note goes on, stop (the default) ends the episode, recover hands over to the
    environment's expert, ask asks a person at the terminal (with --workers 1), learned stops or asks as the detector
    learned from costs."""
    recover: str = ""
    """Who takes over from a failing policy and hands back: a folder that 'failwise train recovery' or 'failwise train
    vlm' wrote, vlm:URL#MODEL (a vision-language model behind an OpenAI-compatible server), vlm:transformers#MODEL (one
    in each worker's own process), expert, or rewind (the hand goes back where it was). Each arm gets a twin,
    ARM+recover, on the same seeds. expert and rewind need a --monitor, whose alarms say when; the others are asked."""
    recover_every: int = 10
    """Steps between two questions to the recovery actor."""
    recover_threshold: float = 0.5
    """Probability of failure above which it takes over."""
    recover_attempts: int = 3
    """Takeovers an episode, at most."""
    recover_with: Literal["policy", "correct"] | None = None
    """What a takeover does: policy lets the recovery actor's own policy act, correct makes one corrective move.
    Default: policy where it has one."""
    recover_steps: int = 60
    """Steps that a recovery policy or the expert acts in one takeover."""
    stop_early: bool = False
    """Look after every tenth of the seeds, and run no further the arms of which the verdict is clear. --seeds is then
    the most that is run; the test stays valid however often one looks, and needs somewhat more pairs in return."""
    workers: int = 2
    """Worker processes."""
    executor: Literal["processes", "ray"] = "processes"
    """What runs the workers: processes on this machine, or Ray (pip install 'failwise[ray]')."""
    ray_address: str = ""
    """Of a running Ray cluster: auto, HOST:PORT or ray://HOST:PORT. All its machines must see --out at the same path.
    Default: a Ray of its own on this machine."""
    track: str = ""
    """Report to tensorboard, wandb or trackio as it goes; several are joined by commas. Default: to none."""


def note_on_seeds(seeds: Sequence[int]) -> str:
    """A warning about seeds that lie in a range reserved for something else than tests, or ""."""
    homes = [home.name for home in home_of(seeds) if home is not TEST]
    if not homes:
        return ""
    return (
        f"note: some of these seeds are reserved for {' and '.join(homes)}; "
        "an agent that learned there has seen these layouts, so this is no proof"
    )


def report_errors(comparison: Comparison) -> int:
    """Say on stderr which arms had episodes that could not go on; 1 when an arm had no others, else 0."""
    worst = 0
    for one in comparison.arms:
        errors = one.pooled.outcomes.get(Outcome.ERROR, 0)
        if errors:
            print(
                f"failwise: {errors} of {one.pooled.n} episodes of {one.arm} ended in an error; they count against it, "
                "and the report shows them",
                file=sys.stderr,
            )
        worst = max(worst, int(errors == one.pooled.n))
    return worst


def _takeover(options: Evaluate) -> TakeoverOptions | None:
    """When and how somebody takes over, checked."""
    from failwise.recover.takeover import TakeoverOptions

    if not options.recover:
        return None
    if options.on_alarm not in (None, "note"):
        raise SetupError("with --recover an alarm says when to take over; leave out --on-alarm")
    if options.recover in ("expert", "rewind"):
        if options.monitor is None:
            raise SetupError(f"--recover {options.recover} needs a --monitor, whose alarms say when to take over")
        if options.recover_with is not None:
            raise SetupError(
                "--recover-with says what a recovery actor does; leave it out with --recover expert or rewind"
            )
    elif not options.recover.startswith("vlm:"):
        existing_folder(Path(options.recover), "--recover", "a recovery actor that 'failwise train recovery' wrote")
    for name in ("every", "attempts", "steps"):
        if (value := getattr(options, f"recover_{name}")) < 1:
            raise SetupError(f"--recover-{name} must be at least 1, not {value}")
    if not 0 <= options.recover_threshold <= 1:
        raise SetupError(f"--recover-threshold is a probability, not {options.recover_threshold}")
    return TakeoverOptions(
        remedy=options.recover_with,
        every=options.recover_every,
        threshold=options.recover_threshold,
        attempts=options.recover_attempts,
        acting_steps=options.recover_steps,
    )


def main(argv: Sequence[str]) -> int:
    """Run what is missing, compare, and print one verdict sentence an arm."""
    options = parse(Evaluate, argv, "evaluate")
    seeds, arms = parse_seeds(options.seeds), parse_arms(options.arms)
    if not 0.5 <= options.confidence < 1:
        raise SetupError(f"--confidence {options.confidence} is not in [0.5, 1); 0.95 is usual")
    from failwise.envs import parse_env_ids
    from failwise.evaluate import EPISODES_FOLDER, evaluate, verdicts
    from failwise.evaluate.false_completion import drop_sentences, false_completions
    from failwise.evaluate.recovered import recovery_result, recovery_sentences
    from failwise.evaluate.watched import watch_result, watch_sentences
    from failwise.store import EpisodeStore

    on_alarm = options.on_alarm or "stop"
    if options.on_alarm and options.monitor is None:
        raise SetupError("--on-alarm needs a --monitor that raises one; fit it with: failwise detect fit")
    if on_alarm == "ask" and options.executor != "processes":
        raise SetupError("--on-alarm ask asks a person at the terminal: run it there, without --executor ray")
    if options.monitor is not None:
        existing_folder(options.monitor, "--monitor", "a detector that 'failwise detect fit' wrote")
    takeover = _takeover(options)
    on_alarm = "note" if options.recover and options.on_alarm is None else on_alarm
    env_ids = parse_env_ids(options.env)
    writable_folder(options.out)
    if note := note_on_seeds(seeds):
        print(note, file=sys.stderr)
    with (
        tracking(options.track, "evaluate", options.out, options),
        executor_for(options.executor, options.workers, options.ray_address) as executor,
    ):
        comparison = evaluate(
            env_ids,
            {arm: agent_for(agent, env_ids) for arm, agent in arms.items()},
            seeds,
            options.out,
            workers=options.workers,
            executor=executor,
            baseline=options.baseline,
            confidence=options.confidence,
            monitor=options.monitor,
            on_alarm=on_alarm,
            recover=options.recover,
            takeover=takeover,
            stop_early=options.stop_early,
        )
    print("\n".join(verdicts(comparison)))
    metas = EpisodeStore(options.out / EPISODES_FOLDER, create=False).metas()
    for arm in arms:
        if (fallen := false_completions(metas, arm)) is not None:
            print("\n".join(drop_sentences(fallen)))
        if options.recover:
            print("\n".join(recovery_sentences(recovery_result(metas, arm))))
        elif options.monitor is not None:
            print("\n".join(watch_sentences(watch_result(metas, arm, on_alarm))))
    print(f"report: failwise report {options.out}")
    return report_errors(comparison)
