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
from failwise.envs.leading import ArmEnvironment
from failwise.errors import DataError, EpisodeError
from failwise.generate.attempts import Attempt, Result, append, read_attempts
from failwise.generate.mending import EPISODES, RECOVERIES, Failed, GenerateOptions, mend
from failwise.generate.plan import Run, expert_arm, make_plan
from failwise.generate.recording import Told
from failwise.rollout.collecting import environment, make_executor
from failwise.store import EpisodeStore, StoredEpisode
from failwise.types import Actor, FailureEvent, Outcome

ARM = "own"


@dataclass(frozen=True)
class OwnFailure:
    """One failed episode to be mended: its store and its name there."""

    source: str
    episode_id: str


def mend_own(source: Path, env_ids: Sequence[str], out: Path, options: GenerateOptions | None = None) -> list[Attempt]:
    """Explain and mend the failed episodes of a store that were not tried yet; returns every attempt at them.

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
    failed = [
        m
        for m in EpisodeStore(source, create=False).metas()
        if m.env_id in env_ids and m.has_verdict and m.outcome != Outcome.SUCCESS and m.n_steps
    ]
    if not failed:
        raise DataError(f"no failed episode of {', '.join(env_ids)} in {source}: there is nothing to mend")
    for env_id in env_ids:
        expert_arm(environment(env_id))
    EpisodeStore(out / EPISODES)
    EpisodeStore(out / RECOVERIES)
    by_key = {(a.env_id, a.seed): a for a in read_attempts(out) if a.cell == ARM}
    todo = [OwnFailure(str(source), m.episode_id) for m in failed if (m.env_id, m.env_seed) not in by_key]
    with closing(make_executor("processes", options.workers, item_timeout_s=600.0)) as pool:
        results = pool.map(partial(mend_one, out=str(out), options=options), todo)
        for result in track(results, total=len(failed), done=len(failed) - len(todo), title="mend", outcomes=False):
            if isinstance(result, WorkerFailure):
                meta = EpisodeStore(source, create=False).read(result.item.episode_id).meta
                result = Attempt(env_id=meta.env_id, cell=ARM, seed=meta.env_seed, result="error", error=result.reason)
            append(out, [result])
            by_key[result.env_id, result.seed] = result
    return [by_key[m.env_id, m.env_seed] for m in failed if (m.env_id, m.env_seed) in by_key]


def mend_one(item: OwnFailure, out: str, options: GenerateOptions) -> Attempt:
    """Replay, explain, search ways out, record."""
    episode = EpisodeStore(item.source, create=False).read(item.episode_id)
    meta = episode.meta
    env = expert_arm(environment(meta.env_id))
    try:
        finding = diagnose(replay(env, episode))
        run = replayed(env, episode)
        plan = make_plan(env, meta.env_seed, meta.instruction)
        about = finding.diagnosis
        event = FailureEvent(
            mode=about.mode, stage=about.stage, onset_step=finding.onset, source="rule", evidence=about.text
        )
        failed = Failed(
            run=run,
            arm=ARM,
            told=Told(meta.instruction, meta.env_seed),
            actors=[Actor.POLICY] * len(run),
            event=event,
            axis=about.axis,
            stages=stages_of(run, env.spec.conditions),
            extra={"own": meta.episode_id},
        )
        random = np.random.default_rng([meta.env_seed, crc32(ARM.encode())])
        found = mend(env, failed, plan, random, Path(out), options)
    except (EpisodeError, DataError) as error:
        return Attempt(env_id=meta.env_id, cell=ARM, seed=meta.env_seed, result="error", error=str(error))
    result: Result = "kept" if found else "unmended"
    return Attempt(env_id=meta.env_id, cell=ARM, seed=meta.env_seed, result=result, corrections=found)


def replayed(env: ArmEnvironment, episode: StoredEpisode) -> Run:
    """A recorded episode again, with the simulation's state at every step."""
    meta, actions = episode.meta, iter(episode.actions())
    observation, _ = env.reset(seed=meta.env_seed, options={"instruction": meta.instruction})
    return Run.begin(env, observation).proceed(env, lambda: next(actions, None), meta.n_steps)


def stages_of(run: Run, conditions: Sequence[str]) -> dict[str, list[int]]:
    """The stages that a run went through: each ends where its condition first holds, the one that is due lasts."""
    spans, start = {}, 0
    for name in conditions:
        first = next((t for t, held in enumerate(run.conditions) if held[name]), None)
        if first is None:
            spans[name] = [start, len(run)]
            break
        if first >= start:
            spans[name] = [start, first + 1]
            start = first + 1
    return spans
