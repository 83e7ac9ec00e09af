"""Episodes that others recorded, as episodes of a store: the one way in for every form but LeRobot's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from failwise.errors import DataError, EpisodeError
from failwise.exchange.foreign import ForeignDataset, ForeignOptions, Found, Recording, successes
from failwise.exchange.lerobot_import import Imported
from failwise.store import EpisodeStore, EpisodeWriter, episode_id
from failwise.types import Actor, EpisodeMeta, Outcome, Provenance, StepRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray


def import_foreign(
    dataset: ForeignDataset,
    out: Path,
    options: ForeignOptions,
    progress: Callable[[Iterable[Found]], Iterable[Found]] = iter,
) -> Imported:
    """Write the episodes of a dataset into a store. May be stopped and run again: nothing is written twice.

    Args:
        dataset: what was recorded.
        out: the store; made where it is missing.
        options: see there.
        progress: wraps the episodes.

    Raises:
        DataError: an episode is damaged, does not say how it ended, or another one has its name.
        StoreError: the store cannot be written.
    """
    arm = options.arm or dataset.name
    store = EpisodeStore(out, frames=options.pictures)
    wanted = env_id(dataset.suite, options.task) if options.task else None
    there = {str(meta.extra["source"]) for meta in store.scan(env_id=wanted, arm=arm) if "source" in meta.extra}
    done = Imported(depth_cameras=dataset.left_out, notes=dataset.notes)
    unworded = False
    for found in progress(dataset):
        if found.source in there:
            done.present += 1
            continue
        recording = found.read()
        held = successes(found, recording, options.outcome)
        env = wanted or env_id(dataset.suite, recording.task)
        name = episode_id(env, arm, found.number)
        if name in store:
            raise DataError(f"{found.where}: {store.path} has another episode {name}; tell them apart with --arm NAME")
        words = options.instruction or recording.instruction
        unworded |= not words
        steps, once = len(held), bool(held.any())
        with store.begin(name) as writer:
            try:
                looks = _record(writer, recording, held, options)
            except EpisodeError as error:
                raise DataError(f"{found.where} cannot be stored: {error}") from error
            meta = EpisodeMeta(
                episode_id=name, env_id=env, task=env.split("/", 1)[1], instruction=words or _in_words(recording.task),
                arm=arm, env_seed=found.number, policy_seed=0,
                outcome=Outcome.SUCCESS if once else Outcome.FAILURE, success_once=once, success_at_end=bool(held[-1]),
                first_success_step=int(held.argmax()) if once else None, n_steps=steps, step_limit=steps,
                control_hz=dataset.control_hz, cameras=tuple(recording.pictures) if looks else (), n_frames=looks,
                provenance=Provenance(agent=f"{dataset.suite} {found.where}"),
                extra={"source": found.source} | {what: list(keys) for what, keys in dataset.keys.items()},
            )  # fmt: skip
            writer.commit(meta)
        done.outcomes[meta.outcome] = done.outcomes.get(meta.outcome, 0) + 1
    if unworded:
        done.notes.append("no instruction is in the dataset: the task's name stands for it (see --instruction)")
    return done


def _record(writer: EpisodeWriter, recording: Recording, held: NDArray[np.bool_], options: ForeignOptions) -> int:
    """Write steps and pictures; returns the number of looks."""
    steps = len(recording.actions_TA)
    rewards = np.zeros(steps) if recording.rewards_T is None else recording.rewards_T
    for step in range(steps):
        writer.step(
            StepRecord(
                step, recording.states_TS[step], recording.actions_TA[step], float(rewards[step]),
                {"success": bool(held[step])}, Actor(options.actor),
            )
        )  # fmt: skip
    if not recording.pictures or not options.look_every:
        return 0
    rows = np.arange(0, steps, options.look_every)
    seen = {camera: pictures(rows) for camera, pictures in recording.pictures.items()}
    for row in rows.tolist():
        writer.look(row, {camera: next(pictures) for camera, pictures in seen.items()})
    return len(rows)


def env_id(suite: str, task: str) -> str:
    """``"suite/task"``, with nothing in it that reads badly in a file name."""
    return "/".join(re.sub(r"[^\w.@:-]+", "-", part).strip("-") or "task" for part in _named(suite, task))


def _named(suite: str, task: str) -> tuple[str, str]:
    own, slash, rest = task.partition("/")
    return (own, rest) if slash else (suite, task)


def _in_words(task: str) -> str:
    return re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", task)).strip().lower() or task
