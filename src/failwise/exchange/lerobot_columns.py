"""The columns of an exported LeRobot dataset, said once for both directions.

A column of LeRobot's that begins with ``observation`` or ``action`` is fed to policies, so none of ours does, beyond
those that should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from failwise.types import Actor, Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.store import StoredEpisode

STATE, ACTION, PICTURES = "observation.state", "action", "observation.images."
SUCCESS, REWARD, DONE, INTERVENTION = "next.success", "next.reward", "next.done", "intervention"
IS_FAILURE, MODE, STAGE, ONSET, ACTOR = (
    "failure.is_failure", "failure.mode", "failure.stage", "failure.onset", "failure.actor",
)  # fmt: skip
CONDITION = "condition."
EPISODE, ENV, ARM, ENV_SEED, POLICY_SEED = (
    "failwise.episode", "failwise.env", "failwise.arm", "failwise.env_seed", "failwise.policy_seed",
)  # fmt: skip
STEP, EXACT_REWARD, CHUNK_STEP = "failwise.step", "failwise.reward", "failwise.chunk_step"
SCORE, SCORED = "failwise.score", "failwise.scored"
PICTURE_AGE = "failwise.picture_age"
ACTIONS, N_ACTIONS = "failwise.actions", "failwise.n_actions"
"""Of ``--frames looked``: what was done from this frame to the next, float32 (K, A), and how much of it is real."""

SIDECAR = "meta/failwise.parquet"
"""One row an episode: what LeRobot has no place for. Read by the id in ``failwise.episode``."""
FORMAT = "failwise-lerobot-1"

HELPERS = (Actor.EXPERT, Actor.RECOVERY, Actor.HUMAN)
"""Whose actions count as an intervention. A perturbation helps nobody."""


@dataclass(frozen=True)
class Layout:
    """What all episodes of a dataset share.

    Attributes:
        state_dim: S, which may be 0. ``action_dim``: A.
        cameras: camera name -> (height, width).
        conditions: names, the union over the episodes, in the order of their first appearance.
        longest_chunk: K, the most actions from one frame to the next; 0 where every step is a frame.
    """

    state_dim: int
    action_dim: int
    cameras: Mapping[str, tuple[int, int]]
    conditions: tuple[str, ...]
    longest_chunk: int = 0


def features(layout: Layout, video: bool) -> dict[str, dict[str, Any]]:
    """The columns as ``LeRobotDataset.create`` takes them."""

    def vector(size: int, dtype: str = "float32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": (size,), "names": None}

    scalar = {
        "bool": (SUCCESS, DONE, INTERVENTION, IS_FAILURE, ONSET, SCORED, *(CONDITION + c for c in layout.conditions)),
        "string": (MODE, STAGE, ACTOR, EPISODE, ENV, ARM),
        "int64": (ENV_SEED, POLICY_SEED, STEP, CHUNK_STEP),
        "float64": (EXACT_REWARD, SCORE),
        "float32": (REWARD,),
    }
    found = {ACTION: vector(layout.action_dim)}
    if layout.state_dim:
        found[STATE] = vector(layout.state_dim)
    found |= {name: vector(1, dtype) for dtype, names in scalar.items() for name in names}
    for camera, (height, width) in layout.cameras.items():
        found[PICTURES + camera] = {
            "dtype": "video" if video else "image",
            "shape": (height, width, 3),
            "names": ["height", "width", "channels"],
        }
    if layout.cameras:
        found[PICTURE_AGE] = vector(1, "int64")
    if layout.longest_chunk:
        found[ACTIONS] = {"dtype": "float32", "shape": (layout.longest_chunk, layout.action_dim), "names": None}
        found[N_ACTIONS] = vector(1, "int64")
    return found


def successes(episode: StoredEpisode) -> NDArray[np.bool_]:
    """Whether the success condition held after each step, bool (T,), as far as the record tells."""
    meta, conditions = episode.meta, episode.conditions()
    held = conditions["success"] if "success" in conditions else np.zeros(meta.n_steps, np.bool_)
    if meta.n_steps and meta.first_success_step is not None:
        held[meta.first_success_step] = True
        held[-1] |= meta.success_at_end
    return held


def columns(episode: StoredEpisode, layout: Layout) -> dict[str, NDArray[Any]]:
    """Every column but the pictures and what belongs to them, each (T, ...), one row a step."""
    meta = episode.meta
    steps = meta.n_steps
    events = sorted(meta.failure_events, key=lambda event: event.onset_step)
    actors, scores, conditions = episode.actors(), episode.scores(), episode.conditions()
    at = np.arange(steps)
    never = np.zeros(steps, np.bool_)

    def all_along(value: str | int) -> NDArray[Any]:
        return np.array([value] * steps)

    found: dict[str, NDArray[Any]] = {
        ACTION: episode.actions(),
        SUCCESS: successes(episode),
        REWARD: episode.rewards().astype(np.float32),
        DONE: at == steps - 1,
        INTERVENTION: np.isin(actors, [str(actor) for actor in HELPERS]),
        IS_FAILURE: np.full(steps, meta.outcome is not Outcome.SUCCESS),
        MODE: all_along(events[0].mode if events else ""),
        STAGE: all_along(events[0].stage if events else ""),
        ONSET: at >= events[0].onset_step if events else never,
        ACTOR: actors,
        EPISODE: all_along(meta.episode_id),
        ENV: all_along(meta.env_id),
        ARM: all_along(meta.arm),
        ENV_SEED: all_along(meta.env_seed),
        POLICY_SEED: all_along(meta.policy_seed),
        STEP: at,
        EXACT_REWARD: episode.rewards(),
        CHUNK_STEP: episode.chunk_steps(),
        # Not NaN where there is no score: the statistics of LeRobot would be NaN too.
        SCORE: np.nan_to_num(scores),
        SCORED: ~np.isnan(scores),
    }
    found |= {CONDITION + name: conditions.get(name, never) for name in layout.conditions}
    if layout.state_dim:
        found[STATE] = episode.states()
    return found
