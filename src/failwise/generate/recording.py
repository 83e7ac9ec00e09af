"""Runs become episodes: with pictures taken afterwards, by going back to each recorded state of the simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from failwise.envs.leading import ArmEnvironment
from failwise.generate.plan import Run
from failwise.store import EpisodeStore, episode_id
from failwise.types import Actor, EpisodeMeta, FailureEvent, Outcome, Provenance, StepRecord


@dataclass(frozen=True)
class Told:
    """The instruction, and the layout's seed."""

    instruction: str
    seed: int


def record(
    env: ArmEnvironment, store: EpisodeStore, arm: str, told: Told, run: Run, actors: Sequence[Actor],
    outcome: Outcome, look_every: int, event: FailureEvent | None, extra: Mapping[str, Any], looks_from: int = 0,
) -> str:  # fmt: skip
    """Commit a run as an episode, unless the store has it; returns the episode's name.

    Args:
        env: to take the pictures in; it is left in some state of the run.
        store: where.
        arm: under which name.
        told: the instruction and the layout.
        run: what happened.
        actors: who chose each action.
        outcome: how it ended.
        look_every: a picture every so many steps; 0: none.
        event: what went wrong.
        extra: for the meta data.
        looks_from: the step of the first picture.
    """
    spec = env.spec
    name = episode_id(spec.env_id, arm, told.seed)
    if name in store:
        return name
    looks = range(looks_from, len(run), look_every) if look_every else range(0)
    with store.begin(name) as writer:
        for step in looks:
            writer.look(step, env.restore(run.snapshots[step]).images)
        for step, actor in enumerate(actors):
            writer.step(
                StepRecord(
                    step, run.states[step], run.actions[step], run.rewards[step], dict(run.conditions[step]), actor
                )
            )
        writer.commit(
            EpisodeMeta(
                episode_id=name, env_id=spec.env_id, task=spec.task, instruction=told.instruction, arm=arm,
                env_seed=told.seed, policy_seed=told.seed, outcome=outcome,
                success_once=run.first_success is not None, success_at_end=run.first_success is not None,
                first_success_step=run.first_success, n_steps=len(run), step_limit=max(len(run), spec.step_limit),
                control_hz=spec.control_hz, cameras=tuple(spec.cameras) if looks else (), n_frames=len(looks),
                failure_events=(event,) if event else (), provenance=Provenance(agent="expert, perturbed on purpose"),
                extra=extra,
            )
        )  # fmt: skip
    return name
