"""A LeRobotDataset v3 as episodes of a store: exactly what was exported, or what can be told of somebody else's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from failwise.errors import DataError, EpisodeError
from failwise.exchange.lerobot_columns import (
    ACTION,
    ACTOR,
    ARM,
    CHUNK_STEP,
    CONDITION,
    ENV,
    ENV_SEED,
    EPISODE,
    EXACT_REWARD,
    INTERVENTION,
    MODE,
    N_ACTIONS,
    ONSET,
    PICTURE_AGE,
    POLICY_SEED,
    REWARD,
    SCORE,
    SCORED,
    STAGE,
    STATE,
    SUCCESS,
)
from failwise.exchange.lerobot_read import LeRobotEpisodes
from failwise.exchange.lerobot_sidecar import Kept, read_sidecar
from failwise.store import EpisodeStore, EpisodeWriter, episode_id
from failwise.store.frames import decode_png
from failwise.types import Actor, EpisodeMeta, FailureEvent, Outcome, Provenance, StepRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ImportOptions:
    """What ``import_lerobot`` takes besides where from and where to. All but ``pictures`` is for datasets of others."""

    outcome: Literal["success", "failure", ""] = ""
    """How every episode ended, where the dataset does not say."""
    success_column: str = SUCCESS
    """The column that says at which frames the task is done; an episode with one such frame is a success."""
    actor: Literal["policy", "expert", "human"] = "policy"
    """Who acted where the dataset marks no intervention; where it does, a human did."""
    env: str = ""
    """Task of the episodes ("suite/task"); empty: lerobot/ and the instruction."""
    arm: str = ""
    """Name of what acted; empty: the name of the dataset's folder."""
    look_every: int = 1
    """Keep the pictures of every so many frames; 0: none."""
    pictures: Literal["png", "video"] = "png"
    """How the store keeps pictures: exact, or smaller."""


@dataclass
class Imported:
    """What was done: episodes by outcome, those that were there already, cameras left out, and what to know of them."""

    outcomes: dict[str, int] = field(default_factory=dict)
    present: int = 0
    exported_by_us: int = 0
    depth_cameras: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_lerobot(
    source: str,
    out: Path,
    options: ImportOptions | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Imported:
    """Write the episodes of a LeRobotDataset into a store. May be stopped and run again: nothing is written twice.

    Args:
        source: the dataset's folder, or its name.
        out: the store; made where it is missing.
        options: see there.
        progress: wraps the numbers of the episodes.

    Raises:
        MissingDependencyError: LeRobot is not installed.
        SetupError: no dataset there.
        DataError: it does not say how its episodes ended, has no actions, or is damaged.
        StoreError: the store cannot be written.
    """
    asked = options or ImportOptions()
    dataset = LeRobotEpisodes(source)
    kept = read_sidecar(dataset.root) if EPISODE in dataset.features else {}
    _require_fit(dataset, kept, asked)
    store = EpisodeStore(out, frames=asked.pictures)
    done = Imported(depth_cameras=dataset.depth_cameras)
    for number in progress(range(len(dataset))):
        own = kept.get(str(dataset.column(number, EPISODE)[0])) if kept else None
        meta = own.meta if own else _meta(dataset, number, asked)
        if meta.episode_id in store:
            done.present += 1
            continue
        with store.begin(meta.episode_id) as writer:
            try:
                looks = _record(writer, dataset, number, own, asked)
            except EpisodeError as error:
                raise DataError(f"{dataset.root}: episode {number} cannot be stored: {error}") from error
            cameras = tuple(dataset.cameras) if looks else ()
            if sorted(cameras) == sorted(meta.cameras):
                cameras = meta.cameras  # in the order in which the exported episode named them
            writer.commit(meta.model_copy(update={"n_frames": looks, "cameras": cameras}))
        done.outcomes[meta.outcome] = done.outcomes.get(meta.outcome, 0) + 1
        done.exported_by_us += own is not None
    return done


def _require_fit(dataset: LeRobotEpisodes, kept: dict[str, Kept], asked: ImportOptions) -> None:
    """Refuse, before anything is written, what has no actions or no word on success."""
    features = dataset.features
    for name in (ACTION, STATE):
        if name in features and len(features[name]["shape"]) != 1:
            raise DataError(f"{dataset.root}: {name} has the shape {tuple(features[name]['shape'])}, expected one axis")
    if ACTION not in features:
        raise DataError(f"{dataset.root} has no column {ACTION!r}, so it holds no episodes")
    if not len(dataset):
        raise DataError(f"{dataset.root} holds no episode")
    if N_ACTIONS in features:
        raise DataError(
            f"{dataset.root} was exported with --frames looked, which leaves out the steps in between; export it with "
            "--frames all to import it again"
        )
    if kept or asked.outcome:
        return
    if asked.success_column not in features:
        raise DataError(
            f"{dataset.root} does not say which episodes succeeded (no column {asked.success_column!r}); say it with "
            "--outcome success or --outcome failure, or name the column with --success-column"
        )


def _meta(dataset: LeRobotEpisodes, number: int, asked: ImportOptions) -> EpisodeMeta:
    """What can be told of an episode from its columns."""
    features, steps = dataset.features, dataset.length(number)

    def first(name: str, otherwise: Any) -> Any:
        return dataset.column(number, name)[0].item() if name in features else otherwise

    held = _successes(dataset, number, asked)
    once = bool(held.any())
    instruction = dataset.instruction(number)
    env = asked.env or str(first(ENV, "")) or f"lerobot/{slug(instruction)}"
    arm = asked.arm or str(first(ARM, "")) or dataset.root.resolve().name
    seed = int(first(ENV_SEED, number))
    return EpisodeMeta(
        episode_id=str(first(EPISODE, "")) or episode_id(env, arm, seed), env_id=env,
        task=env.split("/", 1)[-1], instruction=instruction, arm=arm, env_seed=seed,
        policy_seed=int(first(POLICY_SEED, 0)), outcome=Outcome.SUCCESS if once else Outcome.FAILURE,
        success_once=once, success_at_end=bool(held[-1]),
        first_success_step=int(held.argmax()) if once else None, n_steps=steps, step_limit=steps,
        control_hz=dataset.fps, failure_events=_events(dataset, number),
        provenance=Provenance(agent=f"LeRobotDataset {dataset.root.resolve().name}, episode {number}"),
    )  # fmt: skip


def _record(
    writer: EpisodeWriter, dataset: LeRobotEpisodes, number: int, own: Kept | None, asked: ImportOptions
) -> int:
    """Write steps and pictures; returns the number of looks."""
    steps = dataset.length(number)
    if own is not None and own.meta.n_steps != steps:
        raise DataError(
            f"{dataset.root}: {own.meta.episode_id} has {steps} frames, it was exported with {own.meta.n_steps}"
        )

    def column(name: str, otherwise: Any = None) -> NDArray[Any]:
        return dataset.column(number, name) if name in dataset.features else np.array([otherwise] * steps)

    states = dataset.vectors(number, STATE) if STATE in dataset.features else np.zeros((steps, 0), np.float32)
    actions, rewards = (
        dataset.vectors(number, ACTION),
        column(EXACT_REWARD if EXACT_REWARD in dataset.features else REWARD, 0.0),
    )
    chunk_steps, scores, scored = column(CHUNK_STEP, 0), column(SCORE, 0.0), column(SCORED, False)
    conditions = _conditions(dataset, number, own, asked)
    actors = _actors(dataset, number, asked)
    for step in range(steps):
        writer.step(
            StepRecord(
                step, states[step], actions[step], float(rewards[step]),
                {name: bool(held[step]) for name, held in conditions.items()}, Actor(str(actors[step])),
                int(chunk_steps[step]), score=float(scores[step]) if scored[step] else None,
            )
        )  # fmt: skip
    if not dataset.cameras or not asked.look_every:
        return 0
    rows = np.flatnonzero(column(PICTURE_AGE, 0) == 0) if PICTURE_AGE in dataset.features else np.arange(steps)
    rows = rows if own else rows[:: asked.look_every]
    seen = {camera: dataset.pictures(number, camera, rows) for camera in dataset.cameras}
    for row in rows.tolist():
        writer.look(row, {camera: next(pictures) for camera, pictures in seen.items()})
    if own and own.final:
        writer.look(steps, {camera: decode_png(png) for camera, png in own.final.items()})
    return len(rows) + bool(own and own.final)


def _conditions(
    dataset: LeRobotEpisodes, number: int, own: Kept | None, asked: ImportOptions
) -> dict[str, NDArray[np.bool_]]:
    if own is not None:
        return {name: dataset.column(number, CONDITION + name) for name in own.conditions}
    names = [n for n, f in dataset.features.items() if n.startswith(CONDITION) and f["dtype"] == "bool"]
    found = {name.removeprefix(CONDITION): dataset.column(number, name) for name in names}
    return {"success": _successes(dataset, number, asked)} | found


def _successes(dataset: LeRobotEpisodes, number: int, asked: ImportOptions) -> NDArray[np.bool_]:
    """Whether the task was done after each frame. What is assumed of an episode is said of its last frame."""
    if asked.outcome:
        held = np.zeros(dataset.length(number), np.bool_)
        held[-1] = asked.outcome == "success"
        return held
    return dataset.column(number, asked.success_column).astype(np.bool_)


def _actors(dataset: LeRobotEpisodes, number: int, asked: ImportOptions) -> NDArray[np.str_]:
    if ACTOR in dataset.features:
        return dataset.column(number, ACTOR)
    if INTERVENTION in dataset.features:
        return np.where(dataset.column(number, INTERVENTION), str(Actor.HUMAN), asked.actor)
    return np.array([asked.actor] * dataset.length(number))


def _events(dataset: LeRobotEpisodes, number: int) -> tuple[FailureEvent, ...]:
    """The first failure of an episode, where the dataset has our columns of it."""
    if MODE not in dataset.features or not (mode := str(dataset.column(number, MODE)[0])):
        return ()
    stage = str(dataset.column(number, STAGE)[0]) if STAGE in dataset.features else ""
    onset = int(dataset.column(number, ONSET).argmax()) if ONSET in dataset.features else 0
    return (FailureEvent(mode=mode, stage=stage, onset_step=onset, source="labelled", evidence="of a LeRobotDataset"),)


def slug(text: str) -> str:
    """An instruction as a task's name: ``"Pick the cube!"`` is ``"pick-the-cube"``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "task"
