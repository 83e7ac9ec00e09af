"""``failwise detect score``: recorded episodes as a monitor would have seen them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from failwise.cli.options import existing_folder, parse, writable_folder
from failwise.errors import SetupError

if TYPE_CHECKING:
    from failwise.detect import Monitor, Trace

EPISODES = "episodes that 'failwise collect' wrote"


@dataclass(frozen=True)
class Score:
    """Score recorded episodes with a detector: score, band and alarm of every step, as JSON lines."""

    episodes: Path
    """Folder of recorded episodes of the policy that the detector was fitted on."""
    detector: Path
    """Folder that 'failwise detect fit' wrote."""
    out: Path | None = None
    """File for one JSON line an episode with all steps; without it, a table only."""
    page: Path | None = None
    """Also an HTML page with the curves of telling episodes."""
    videos: Path | None = None
    """Also a folder with a video of each of these, the curve drawn in."""


def score(argv: Sequence[str]) -> int:
    """Score episodes; print a table, write JSON lines."""
    from rich.console import Console
    from rich.table import Table

    from failwise.detect import load_monitor, load_traces
    from failwise.detect.trace import checkpoint, known_onset

    asked = parse(Score, argv, "detect score")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    for option, file in (("--out", asked.out), ("--page", asked.page)):
        if file is not None and file.is_dir():
            raise SetupError(f"{option} {file} is a folder; name a file in it")
    traces = load_traces(asked.episodes)
    monitor = load_monitor(asked.detector, checkpoint(traces[0].meta))
    traces = [t.only(monitor.detector.pooling) for t in traces]
    table = Table("episode", "outcome", "steps", "largest score", "alarm at step", "of the episode")
    lines = []
    for t in traces:
        monitor.reset(t.meta.env_id)
        verdicts = [monitor.update(moment) for moment in t.moments()]
        at = monitor.alarmed_at
        share = "" if at is None else f"{(at + 1) / len(t):.0%}"
        largest, onset = max(v.score for v in verdicts), known_onset(t.meta)
        table.add_row(
            t.meta.episode_id, t.meta.outcome, str(len(t)), f"{largest:.3f}", "" if at is None else str(at), share
        )
        lines.append(
            {
                "episode": t.meta.episode_id,
                "outcome": t.meta.outcome.value,
                "alarm_step": at,
                "onset_step": onset,
                "delay_steps": None if at is None or onset is None else at - onset,
                "scores": [round(v.score, 6) for v in verdicts],
                "band": [round(v.band, 6) if math.isfinite(v.band) else None for v in verdicts],
            }
        )
    if asked.out is not None:
        writable_folder(asked.out.parent)
        asked.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    Console().print(table)
    if asked.page is not None or asked.videos is not None:
        _show(asked, monitor, traces)
    return 0


def _show(asked: Score, monitor: Monitor, traces: Sequence[Trace]) -> None:
    """The page and the videos."""
    from failwise.report.page import picture_html, write_page
    from failwise.report.scored import draw_episode, draw_video, scored_by
    from failwise.report.section import Section
    from failwise.report.watched import telling
    from failwise.store import EpisodeStore

    store = EpisodeStore(asked.episodes, create=False)
    scored = [scored_by(monitor, store.read(t.meta.episode_id), t) for t in traces]
    shown = telling(scored)
    if asked.page is not None:
        writable_folder(asked.page.parent, "--page")
        pictures = "".join(picture_html(draw_episode(one), one.title) for one in shown)
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
        page = write_page(
            asked.page, "Scored episodes", [(claim, str(asked.episodes))], counts,
            [Section("Some of each kind", pictures)],
        )  # fmt: skip
        print(page)
    if asked.videos is not None:
        writable_folder(asked.videos, "--videos")
        for one in shown:
            if one.episode.meta.n_frames:
                print(draw_video(one, asked.videos / f"{one.episode.id}.mp4"))
