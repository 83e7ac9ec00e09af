"""Sections on watched episodes: what the alarms came to, and some of them with their curves."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import zip_longest

from failwise.errors import DataError, StoreError
from failwise.evaluate.watched import watch_result, watch_sentences
from failwise.report.page import picture_html
from failwise.report.scored import ScoredEpisode, as_recorded, draw_episode
from failwise.report.section import Section
from failwise.store import EpisodeStore
from failwise.types import Outcome

SHOWN = 2  # episodes of each kind


def watched_sections(store: EpisodeStore) -> list[Section]:
    """One section for each arm that a monitor watched, none where there was no monitor."""
    metas = store.metas()
    arms = sorted({m.arm for m in metas if "watch" in m.extra})
    out = []
    for arm in arms:
        plain, _, on_alarm = arm.rpartition("+")
        try:
            said = watch_sentences(watch_result(metas, plain, on_alarm))
        except DataError:
            said = []  # no unwatched twin: the pictures speak for themselves
        episodes = []
        for meta in sorted(
            (m for m in metas if m.arm == arm and "watch" in m.extra), key=lambda m: (m.env_seed, m.env_id)
        ):
            try:
                episodes.append(as_recorded(store.read(meta.episode_id)))
            except StoreError:
                continue  # the page counts what cannot be read elsewhere
        words = "".join(f"<li>{escape(s)}</li>" for s in said)
        pictures = "".join(picture_html(draw_episode(e), e.title) for e in telling(episodes))
        if words or pictures:
            out.append(Section(f"Watched: {arm}", f"<ul>{words}</ul>{pictures}"))
    return out


def telling(episodes: Sequence[ScoredEpisode], each: int = SHOWN) -> list[ScoredEpisode]:
    """A few of each kind: failed with an alarm, failed without, succeeded in spite of an alarm, succeeded.

    Of each kind, tasks take turns.
    """
    kinds: dict[tuple[bool, bool], dict[str, list[ScoredEpisode]]] = {}
    for one in episodes:
        kind = (one.episode.meta.outcome == Outcome.SUCCESS, one.alarm is None)
        kinds.setdefault(kind, {}).setdefault(one.episode.meta.env_id, []).append(one)
    out = []
    for kind in sorted(kinds):
        turns = [one for row in zip_longest(*kinds[kind].values()) for one in row if one is not None]
        out += turns[:each]
    return out
