"""The policy's own failures, with the same labels as those made on purpose: why, since when, and verified ways out.

An episode is replayed exactly, with the simulation's state at every step; rules on the simulator's poses say mode,
axis, stage and onset (``failwise.diagnose``); ways out are searched from the states after the onset.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np

from failwise.diagnose import diagnose, replay
from failwise.diagnose.course import TOLERANCE
from failwise.envs.leading import ArmEnvironment
from failwise.errors import DataError, EpisodeError
from failwise.generate.attempts import Attempt, Result, append, read_attempts
from failwise.generate.mending import EPISODES, RECOVERIES, Failed, GenerateOptions, mend
from failwise.generate.plan import Run, expert_arm, make_plan, stages_of
from failwise.generate.recording import Told, record
from failwise.rollout.collecting import environment, make_executor
from failwise.store import EpisodeStore, StoredEpisode
from failwise.types import Actor, EpisodeMeta, FailureEvent, Outcome

ARM = "own"


@dataclass(frozen=True)
class OwnEpisode:
    """One episode to be mended, or only recorded if it succeeded: its store and its name there."""

    source: str
    episode_id: str


def mend_own(source: Path, env_ids: Sequence[str], out: Path, options: GenerateOptions | None = None) -> list[Attempt]:
    """Explain and mend the failed episodes of a store that were not tried yet; returns every attempt at them.

    Episodes that were watched, or in which somebody took over, are left out: their actions are not all the policy's.
    With ``options.successes``, the successful ones are recorded beside them: a recovery actor learns from those when
    not to take over.

    Args:
        source: a store of episodes of a policy.
        env_ids: only of these tasks.
        out: as of ``failwise.generate.generate``.
        options: how; patience and offset mean nothing here.

    Raises:
        DataError: no failed episode of these tasks. SetupError: an environment lacks an expert, or a hand to lead.
    """
    from failwise.rollout.pool import WorkerFailure
    from failwise.rollout.progress import track

    options = options or GenerateOptions()
    judged = [
        m
        for m in EpisodeStore(source, create=False).metas()
        if m.env_id in env_ids and m.has_verdict and m.n_steps and not {"takeover", "watch"} & set(m.extra)
    ]
    failed = [m for m in judged if m.outcome != Outcome.SUCCESS]
    if not failed:
        raise DataError(
            f"no failed episode of {', '.join(env_ids)} in {source} in which the policy acted alone and unwatched: "
            "there is nothing to mend"
        )
    for env_id in env_ids:
        expert_arm(environment(env_id))
    EpisodeStore(out / EPISODES)
    EpisodeStore(out / RECOVERIES)
    by_key = {(a.env_id, a.seed, a.policy): a for a in read_attempts(out) if a.cell == ARM}
    wanted = judged if options.successes else failed
    todo = [OwnEpisode(str(source), m.episode_id) for m in wanted if _key(m) not in by_key]
    with closing(make_executor("processes", options.workers, item_timeout_s=600.0)) as pool:
        results = pool.map(partial(mend_one, out=str(out), options=options), todo)
        for result in track(results, total=len(wanted), done=len(wanted) - len(todo), title="mend", outcomes=False):
            if isinstance(result, WorkerFailure):
                meta = EpisodeStore(source, create=False).read(result.item.episode_id).meta
                result = _attempt(meta, "error", error=result.reason)
            append(out, [result])
            by_key[result.env_id, result.seed, result.policy] = result
    return [by_key[_key(m)] for m in wanted if _key(m) in by_key]


def policy_of(meta: EpisodeMeta) -> str:
    """Whose episode: two checkpoints, or two arms, may have failed on the same layout."""
    return f"{meta.arm}-{meta.provenance.checkpoint_sha256[:8]}".strip("-")


def _key(meta: EpisodeMeta) -> tuple[str, int, str]:
    return meta.env_id, meta.env_seed, policy_of(meta)


def _attempt(meta: EpisodeMeta, result: Result, corrections: int = 0, error: str = "") -> Attempt:
    return Attempt(
        env_id=meta.env_id, cell=ARM, seed=meta.env_seed, result=result, corrections=corrections, error=error,
        policy=policy_of(meta),
    )  # fmt: skip


def mend_one(item: OwnEpisode, out: str, options: GenerateOptions) -> Attempt:
    """Replay, explain, search ways out, record; a success is only recorded."""
    episode = EpisodeStore(item.source, create=False).read(item.episode_id)
    meta = episode.meta
    env = expert_arm(environment(meta.env_id))
    try:
        run = replayed(env, episode)
        if meta.outcome == Outcome.SUCCESS:
            return _succeeded(env, meta, run, Path(out), options)
        finding = diagnose(replay(env, episode))
        plan = make_plan(env, meta.env_seed, meta.instruction)
        about = finding.diagnosis
        event = FailureEvent(
            mode=about.mode, stage=about.stage, onset_step=finding.onset, source="rule", evidence=about.text
        )
        failed = Failed(
            run=run,
            arm=f"{ARM}-{policy_of(meta)}",
            told=Told(meta.instruction, meta.env_seed),
            actors=[Actor.POLICY] * len(run),
            event=event,
            axis=about.axis,
            stages=stages_of(run, tuple(plan.spans) if plan else env.spec.conditions),
            extra={"own": meta.episode_id},
        )
        random = np.random.default_rng([meta.env_seed, crc32(ARM.encode())])
        found = mend(env, failed, plan, random, Path(out), options)
    except (EpisodeError, DataError) as error:
        return _attempt(meta, "error", error=str(error))
    return _attempt(meta, "kept" if found else "unmended", found)


def _succeeded(env: ArmEnvironment, meta: EpisodeMeta, run: Run, out: Path, options: GenerateOptions) -> Attempt:
    about = {"stages": stages_of(run, env.spec.conditions), "own": meta.episode_id}
    told, actors = Told(meta.instruction, meta.env_seed), [Actor.POLICY] * len(run)
    store, arm = EpisodeStore(out / EPISODES), f"{ARM}-{policy_of(meta)}"
    record(env, store, arm, told, run, actors, Outcome.SUCCESS, options.look_every, None, about)
    return _attempt(meta, "succeeded")


def replayed(env: ArmEnvironment, episode: StoredEpisode) -> Run:
    """A recorded episode again, with the simulation's state at every step.

    Raises:
        EpisodeError: it departs from its record.
    """
    meta, actions = episode.meta, iter(episode.actions())
    observation, _ = env.reset(seed=meta.env_seed, options={"instruction": meta.instruction})
    run = Run.begin(env, observation, passive=True).proceed(env, lambda: next(actions, None), meta.n_steps)
    n = min(len(run), meta.n_steps)
    away = float(np.abs(np.stack(run.states[:n]) - episode.states()[:n]).max())
    if away > TOLERANCE or (run.first_success is not None) != (meta.outcome == Outcome.SUCCESS):
        raise EpisodeError(f"the replay of {episode.id} departs from its record by up to {away:.3g}, or ends otherwise")
    return run
