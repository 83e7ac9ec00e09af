"""Recoveries from own failures: replay one to a chosen step, let the expert take over, keep what succeeds.

The idea is FailSafe's (arXiv 2510.01642): a failure is worth most together with an action sequence that mends it, and
only if that was executed and worked. Here the failed states are the policy's own instead of made on purpose, and the
whole recovery is kept, not one corrective action. It needs an environment that repeats exactly for a seed, with an
expert; the replay is checked against the recorded proprioception, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from failwise.errors import EpisodeError, SetupError
from failwise.rollout.collecting import environment, make_executor
from failwise.rollout.loop import expert_action
from failwise.store import EpisodeStore, episode_id
from failwise.types import Actor, EpisodeMeta, FailureEvent, Outcome, Provenance, StepRecord

REPLAY_TOLERANCE = 1e-5  # of proprioception, in its own units (metres)


@dataclass(frozen=True)
class RecoveryItem:
    """One failed episode and the step at which the expert takes over.

    Attributes:
        source: the store of the failed episode. failed: its id there.
        env_id: its environment. env_seed: its layout.
        takeover: steps of the failed episode to replay first.
        limit: steps that the expert gets.
        look_every: record a picture every so many of the expert's steps.
        attempt: number among the recoveries from this episode.
    """

    source: str
    failed: str
    env_id: str
    env_seed: int
    takeover: int
    limit: int = 150
    look_every: int = 2
    attempt: int = 1

    @property
    def arm(self) -> str:
        """The recovery's arm in its store: attempts at one episode are told apart by it."""
        return f"recovery-{self.attempt}"

    @property
    def episode_id(self) -> str:
        """The recovery's name in its store."""
        return episode_id(self.env_id, self.arm, self.env_seed)


def recover(
    items: Sequence[RecoveryItem], out: Path, *, workers: int = 2, title: str = "recoveries"
) -> list[EpisodeMeta]:
    """Run what is not in the store yet; returns all metas. Those with outcome "success" are verified recoveries.

    Args:
        items: which failures, from which step.
        out: the store of the recoveries.
        workers: processes; 1 runs in this process.
        title: of the progress bar.

    Raises:
        SetupError: an environment has no expert.
    """
    from failwise.rollout.pool import WorkerFailure
    from failwise.rollout.progress import track

    store = EpisodeStore(out)
    metas = {m.episode_id: m for m in store.metas()}
    todo = [i for i in items if i.episode_id not in metas]
    for env_id in {i.env_id for i in todo}:
        if not environment(env_id).spec.has_expert:
            raise SetupError(f"{env_id} has no expert, so nothing can show the way out of a failure there")
    if todo:
        with closing(make_executor("processes", min(workers, len(todo)), item_timeout_s=300.0)) as pool:
            results = pool.map(partial(run_recovery, out=str(out)), todo)
            for result in track(results, total=len(items), done=len(items) - len(todo), title=title):
                if not isinstance(result, WorkerFailure):
                    metas[result.episode_id] = result
    return [metas[i.episode_id] for i in items if i.episode_id in metas]


def run_recovery(item: RecoveryItem, out: str) -> EpisodeMeta:
    """Replay, hand over, record. Pictures are recorded from the takeover on."""
    failed = EpisodeStore(item.source, create=False).read(item.failed)
    actions, states = failed.actions(), failed.states()
    env = environment(item.env_id)
    spec = env.spec
    observation, _ = env.reset(seed=item.env_seed, options={"instruction": failed.meta.instruction})
    outcome, error, first_success, step, looks = Outcome.TIMEOUT, "", None, 0, 0
    takeover = min(item.takeover, len(actions))
    with EpisodeStore(out).begin(item.episode_id) as writer:
        try:
            while step < takeover + item.limit:
                replayed = step < takeover
                if replayed and np.abs(observation.state - states[step]).max() > REPLAY_TOLERANCE:
                    raise EpisodeError(f"the replay of {item.failed} departs from its record at step {step}")
                if not replayed and (step - takeover) % item.look_every == 0:
                    writer.look(step, observation.images)
                    looks += 1
                action = actions[step] if replayed else expert_action(env, step)
                state = observation.state
                observation, reward, terminated, _, info = env.step(action)
                actor = Actor.POLICY if replayed else Actor.RECOVERY
                writer.step(StepRecord(step, state, np.asarray(action), reward, dict(info["conditions"]), actor))
                step += 1
                if info["success"]:
                    outcome, first_success = Outcome.SUCCESS, step - 1
                    break
                if terminated:
                    outcome = Outcome.FAILURE
                    break
        except EpisodeError as fault:
            outcome, error = Outcome.ERROR, str(fault)
        meta = EpisodeMeta(
            episode_id=item.episode_id,
            env_id=item.env_id,
            task=spec.task,
            instruction=failed.meta.instruction,
            arm=item.arm,
            env_seed=item.env_seed,
            policy_seed=failed.meta.policy_seed,
            outcome=outcome,
            success_once=first_success is not None,
            success_at_end=first_success is not None,
            first_success_step=first_success,
            n_steps=step,
            step_limit=takeover + item.limit,
            control_hz=spec.control_hz,
            cameras=tuple(spec.cameras) if looks else (),
            n_frames=looks,
            failure_events=(
                FailureEvent(mode="own_failure", onset_step=takeover, source="detected", evidence=item.failed),
            ),
            error=error,
            provenance=Provenance(agent=f"{failed.meta.provenance.agent} until step {takeover}, then expert"),
            extra={"recovers": item.failed, "takeover": takeover},
        )
        writer.commit(meta)
    return meta
