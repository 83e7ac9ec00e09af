"""What the page shows of the episodes themselves: filmstrips, and where failing episodes stopped."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, zip_longest

import numpy as np
from PIL import Image

from failwise.errors import StoreError
from failwise.evaluate.records import ArmComparison, Comparison
from failwise.report.section import data_uri
from failwise.store import EpisodeStore, StoredEpisode
from failwise.types import EpisodeMeta, Outcome

FRAMES_A_STRIP = 6
WON_STRIPS, LOST_STRIPS = 3, 1  # pairs shown for each arm
MAX_WIDTH = 160  # pixels of an embedded frame
JPEG_QUALITY = 82

NEVER_TOGETHER = "each condition held once, but not all at the end"
NO_CONDITIONS = "no conditions recorded"
COULD_NOT_GO_ON = "could not go on (error)"

Key = tuple[str, str, int]  # arm, env_id, env_seed


@dataclass(frozen=True)
class Frame:
    """One image: data URI, size in pixels, and when it was seen."""

    source: str
    width: int
    height: int
    step: int
    seconds: float


@dataclass(frozen=True)
class Strip:
    """One episode in pictures."""

    arm: str
    env_id: str
    seed: int
    instruction: str
    outcome: str
    note: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class StripGroup:
    """Strips to be seen together: a pair (baseline first), or one alone. ``tone``: won, lost or plain."""

    arm: str
    tone: str
    title: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class StopRow:
    """How many failing episodes of each arm stopped at one condition of one task."""

    env_id: str
    condition: str
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Evidence:
    """All that the store adds to the page. ``unreadable``: episodes whose recording is damaged or missing."""

    groups: tuple[StripGroup, ...] = ()
    stops: tuple[StopRow, ...] = ()
    unreadable: int = 0

    def by_arm(self) -> list[tuple[str, list[StripGroup]]]:
        """Return the strip groups of each arm, in the order in which the arms come."""
        return [(arm, list(found)) for arm, found in groupby(self.groups, lambda group: group.arm)]


def gather(store: EpisodeStore, comparison: Comparison) -> Evidence:
    """Read from ``store`` what the page shows of the episodes that ``comparison`` counts."""
    arms = {arm.arm for arm in comparison.arms}
    counted = {(env_id, seed) for env_id, seeds in comparison.seeds.items() for seed in seeds}
    metas = {
        (m.arm, m.env_id, m.env_seed): m for m in store.metas() if m.arm in arms and (m.env_id, m.env_seed) in counted
    }
    stops, unreadable = _stops(store, comparison, metas)
    if comparison.against:
        groups = [group for one in comparison.against for group in _pairs(store, metas, one, comparison.baseline or "")]
    else:
        groups = _singles(store, metas.values())
    return Evidence(tuple(groups), stops, unreadable)


def stopped_at(episode: StoredEpisode) -> str:
    """Return the first condition, in the task's own order, that never held in a failed episode."""
    if episode.meta.outcome == Outcome.ERROR:
        return COULD_NOT_GO_ON
    held = {name: bool(np.any(steps)) for name, steps in episode.conditions().items()}
    if not held:
        return NO_CONDITIONS
    return next((name for name, ever in held.items() if not ever), NEVER_TOGETHER)


def _stops(
    store: EpisodeStore, comparison: Comparison, metas: Mapping[Key, EpisodeMeta]
) -> tuple[tuple[StopRow, ...], int]:
    arms = [arm.arm for arm in comparison.arms]
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    order: dict[str, list[str]] = defaultdict(list)
    unreadable = 0
    for (arm, env_id, _), meta in sorted(metas.items()):
        if meta.outcome == Outcome.SUCCESS:
            continue
        try:
            episode = store.read(meta.episode_id)
            where = stopped_at(episode)
            order[env_id] = order[env_id] or list(episode.conditions())
        except StoreError:
            unreadable += 1
            continue
        counts[env_id][where][arm] += 1
    rows = [
        StopRow(env_id, condition, tuple(counts[env_id][condition][arm] for arm in arms))
        for env_id in sorted(counts)
        for condition in dict.fromkeys((*order[env_id], *sorted(counts[env_id])))
        if condition in counts[env_id]
    ]
    return tuple(rows), unreadable


def _pairs(
    store: EpisodeStore, metas: Mapping[Key, EpisodeMeta], one: ArmComparison, baseline: str
) -> Iterable[StripGroup]:
    for tone, room in (("lost", LOST_STRIPS), ("won", WON_STRIPS)):
        shown = 0
        for env_id, seed in _round_robin({e: getattr(pairs, tone) for e, pairs in one.seeds.items()}):
            both = [metas.get((arm, env_id, seed)) for arm in (baseline, one.arm)]
            strips = tuple(s for meta in both if meta is not None and (s := _strip(store, meta)) is not None)
            if len(strips) == 2:
                yield StripGroup(one.arm, tone, f"{env_id}, seed {seed}", strips)
                shown += 1
            if shown == room:
                break


def _singles(store: EpisodeStore, metas: Iterable[EpisodeMeta]) -> list[StripGroup]:
    ordered = sorted(metas, key=lambda m: (m.env_seed, m.env_id))
    groups: list[StripGroup] = []
    for good, room in ((False, 3), (True, 2)):
        chosen: dict[str, list[int]] = defaultdict(list)
        by_place = {(m.env_id, i): m for i, m in enumerate(ordered) if (m.outcome == Outcome.SUCCESS) == good}
        for env_id, i in by_place:
            chosen[env_id].append(i)
        strips = (_strip(store, by_place[place]) for place in _round_robin(chosen))
        found = [strip for strip, _ in zip((s for s in strips if s is not None), range(room), strict=False)]
        groups += [StripGroup(s.arm, "plain", f"{s.env_id}, seed {s.seed}", (s,)) for s in found]
    return sorted(groups, key=lambda group: group.arm)


def _round_robin(by_task: Mapping[str, Sequence[int]]) -> list[tuple[str, int]]:
    columns = ([(env_id, value) for value in values] for env_id, values in by_task.items())
    return [cell for cell in chain.from_iterable(zip_longest(*columns)) if cell is not None]


def _strip(store: EpisodeStore, meta: EpisodeMeta) -> Strip | None:
    """Return the filmstrip of an episode; None where it has no frames or they cannot be read."""
    if not meta.n_frames or not meta.cameras:
        return None
    try:
        episode = store.read(meta.episode_id)
        steps = episode.look_steps()
        looks = np.unique(np.linspace(0, len(steps) - 1, FRAMES_A_STRIP).round().astype(int)).tolist()
        images = episode.frames(meta.cameras[0], looks)
        note = _note(episode)
    except StoreError:
        return None
    frames = tuple(
        embedded_frame(image, int(steps[look]), float(steps[look]) / meta.control_hz)
        for image, look in zip(images, looks, strict=True)
    )
    return Strip(meta.arm, meta.env_id, meta.env_seed, meta.instruction, meta.outcome.value, note, frames)


def _note(episode: StoredEpisode) -> str:
    meta = episode.meta
    if meta.outcome == Outcome.SUCCESS:
        when = meta.n_steps if meta.first_success_step is None else meta.first_success_step + 1
        return f"succeeded after {when} of {meta.step_limit} steps"
    if meta.outcome == Outcome.ERROR:
        return f"after {meta.n_steps} steps: {meta.error}"
    missing = [name for name, held in episode.conditions().items() if not held.any()]
    return f"after {meta.n_steps} steps; never held: {', '.join(missing)}" if missing else NEVER_TOGETHER


def embedded_frame(pixels: np.ndarray, step: int, seconds: float) -> Frame:
    """An image, uint8 (h, w, 3), as a JPEG at most ``MAX_WIDTH`` pixels wide."""
    image = Image.fromarray(pixels)
    if image.width > MAX_WIDTH:
        image = image.resize((MAX_WIDTH, round(image.height * MAX_WIDTH / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Frame(data_uri(buffer.getvalue(), "image/jpeg"), image.width, image.height, step, seconds)
