"""Before anything is written: which episodes go into one dataset, and whether they fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from failwise.errors import DataError
from failwise.exchange.lerobot_columns import Layout
from failwise.store import EpisodeStore, StoredEpisode
from failwise.types import EpisodeMeta, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Plan:
    """What is to be written.

    Attributes:
        episodes: where each is, and its id.
        layout: what they share.
        fps: frames a second.
        looked: only steps with a picture become frames.
        left_out: reason -> number of episodes.
    """

    episodes: list[tuple[EpisodeStore, str]]
    layout: Layout
    fps: int
    looked: bool
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class _Shape:
    """What has to be the same in all episodes of a dataset."""

    state_dim: int
    action_dim: int
    cameras: tuple[tuple[str, tuple[int, int]], ...]
    control_hz: float


def plan(
    stores: Sequence[EpisodeStore],
    outcome: Literal["success", "failure", "all"],
    looked: bool,
    cameras: str,
    fps: int | None,
) -> Plan:
    """Choose the episodes, and refuse what cannot be one dataset.

    Raises:
        DataError: no episode is left; one id is in two stores; episodes differ in their cameras, picture sizes,
            dimensions or rate; a camera that was asked for was not recorded; the rate is not a whole number.
        StoreError: an episode is damaged.
    """
    left_out = {"no_verdict": 0, "other_outcome": 0, "empty": 0}
    chosen: list[tuple[EpisodeStore, str]] = []
    place: dict[str, EpisodeStore] = {}
    for store in stores:
        for meta in store.scan():
            if reason := _left_out(meta, outcome):
                left_out[reason] += 1
                continue
            if meta.episode_id in place:
                first = place[meta.episode_id].path
                raise DataError(f"{meta.episode_id} is in {first} and in {store.path}; export them one at a time")
            place[meta.episode_id] = store
            chosen.append((store, meta.episode_id))
    if not chosen:
        wanted = "with a verdict" if outcome == "all" else f"that ended in {outcome}"
        raise DataError(f"no episode {wanted} in {', '.join(str(s.path) for s in stores)}; try another --outcome")
    conditions: dict[str, None] = {}
    spacings: set[int] = set()
    shape: _Shape | None = None
    longest = 0
    for store, name in chosen:
        episode = store.read(name)
        mine = _shape_of(episode, cameras, fps)
        if shape is not None and mine != shape:
            raise DataError(_difference(chosen[0][1], shape, name, mine))
        shape = mine
        conditions |= dict.fromkeys(episode.conditions())
        if looked:
            looks = episode.look_steps()
            looks = looks[looks < episode.meta.n_steps]
            if not mine.cameras or not len(looks):
                raise DataError(f"{name} has no pictures, and --frames looked exports only steps with one")
            gaps = np.diff(looks).tolist()
            spacings |= set(gaps)
            longest = max(longest, *gaps, episode.meta.n_steps - int(looks[-1]))
    assert shape is not None
    layout = Layout(shape.state_dim, shape.action_dim, dict(shape.cameras), tuple(conditions), longest)
    return Plan(chosen, layout, fps or _whole_rate(shape.control_hz, spacings), looked, left_out)


def _left_out(meta: EpisodeMeta, outcome: str) -> str:
    if not meta.has_verdict:
        return "no_verdict"
    if not meta.n_steps:
        return "empty"
    succeeded = meta.outcome is Outcome.SUCCESS
    return "" if outcome == "all" or succeeded == (outcome == "success") else "other_outcome"


def _shape_of(episode: StoredEpisode, cameras: str, fps: int | None) -> _Shape:
    recorded = episode.cameras()
    wanted = tuple(part.strip() for part in cameras.split(",") if part.strip()) if cameras else recorded
    wanted = () if wanted == ("none",) else wanted
    for camera in wanted:
        if camera not in recorded:
            known = ", ".join(recorded) or "none"
            raise DataError(f"{episode.id} has no pictures of camera {camera!r}; recorded: {known} (see --cameras)")
    actions = episode.actions()
    if not actions.shape[1]:
        raise DataError(f"{episode.id} has actions of no dimension, which a LeRobotDataset cannot hold")
    sizes = tuple((camera, episode.frames(camera, [0]).shape[1:3]) for camera in sorted(wanted))
    return _Shape(episode.states().shape[1], actions.shape[1], sizes, 0.0 if fps else episode.meta.control_hz)


def _difference(first: str, a: _Shape, second: str, b: _Shape) -> str:
    if a.cameras != b.cameras:
        remedy = "export them apart, or choose those that all have with --cameras (none: no pictures)"
        return f"{first} has the cameras {_named(a)}, {second} has {_named(b)}; {remedy}"
    for what, one, other in (
        ("state dimensions", a.state_dim, b.state_dim),
        ("action dimensions", a.action_dim, b.action_dim),
        ("steps a second", a.control_hz, b.control_hz),
    ):
        if one != other:
            return f"{first} has {one:g} {what}, {second} has {other:g}; one dataset holds one kind: export them apart"
    raise AssertionError("shapes differ in nothing that is known")


def _named(shape: _Shape) -> str:
    return ", ".join(f"{camera} {h}x{w}" for camera, (h, w) in shape.cameras) or "none"


def _whole_rate(control_hz: float, spacings: set[int]) -> int:
    """Frames a second: LeRobot's are whole, and its frames are evenly spaced."""
    if len(spacings) > 1:
        steps = f"{min(spacings)} to {max(spacings)}"
        raise DataError(f"pictures are {steps} steps apart, so there is no one rate; name one with --fps")
    rate = control_hz / (spacings.pop() if spacings else 1)
    if round(rate) < 1 or abs(rate - round(rate)) > 1e-6 * rate:
        raise DataError(f"{rate:g} frames a second is not a whole number, as LeRobot wants it; name one with --fps")
    return round(rate)
