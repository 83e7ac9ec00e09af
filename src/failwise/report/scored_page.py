"""Episodes that a detector scored, as a page with the curves of telling ones, and as videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from failwise.detect import Monitor, Trace
from failwise.report.page import picture_html, write_page
from failwise.report.scored import ScoredEpisode, draw_episode, draw_video, scored_by
from failwise.report.section import Section
from failwise.report.watched import telling
from failwise.store import EpisodeStore


def scored_episodes(folder: Path, monitor: Monitor, traces: Sequence[Trace]) -> list[ScoredEpisode]:
    """The recorded episodes of a folder, each as the monitor saw it."""
    store = EpisodeStore(folder, create=False)
    return [scored_by(monitor, store.read(t.meta.episode_id), t) for t in traces]


def write_scored_page(path: Path, monitor: Monitor, scored: Sequence[ScoredEpisode], source: str) -> Path:
    """What the alarms came to, and the curves of some episodes of each kind."""
    pictures = "".join(picture_html(draw_episode(one), one.title) for one in telling(scored))
    lost, won = (
        [one for one in scored if (one.episode.meta.outcome != "success") == failed] for failed in (True, False)
    )
    counts = {
        "failures with an alarm": f"{sum(one.alarm is not None for one in lost)} of {len(lost)}",
        "successes with an alarm": f"{sum(one.alarm is not None for one in won)} of {len(won)}",
    }
    delays = [one.delay / one.episode.meta.control_hz for one in lost if one.delay is not None]
    if after := [delay for delay in delays if delay >= 0]:
        counts["mean delay after a known onset"] = f"{sum(after) / len(after):.2f} s"
    if early := len(delays) - len(after):
        counts["alarms before the known onset"] = f"{early} of {len(delays)}"
    claim = f"{monitor.detector.name}, at most {100 * monitor.band.alpha:g}% of the successes may raise an alarm."
    return write_page(path, "Scored episodes", [(claim, source)], counts, [Section("Some of each kind", pictures)])


def write_scored_videos(folder: Path, scored: Sequence[ScoredEpisode]) -> Iterator[Path]:
    """A video of each of the telling ones that has pictures, as it is made."""
    for one in telling(scored):
        if one.episode.meta.n_frames:
            yield draw_video(one, folder / f"{one.episode.id}.mp4")
