"""Read a run folder, fill the template, write the page."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from failwise import __version__
from failwise.errors import DataError, SetupError
from failwise.evaluate import COMPARISON_FILE, EPISODES_FOLDER, Comparison, describe
from failwise.report.evidence import Evidence, gather
from failwise.report.on_purpose import is_made, write_made
from failwise.report.over_time import over_time_sections
from failwise.report.recovered import recovered_sections
from failwise.report.section import Section
from failwise.report.templating import template_environment
from failwise.report.view import page
from failwise.report.watched import watched_sections
from failwise.report.workspace import workspace_sections
from failwise.store import EpisodeStore

REPORT_FILE = "report.html"


def write_report(run: str | Path, sections: Sequence[Section] = ()) -> Path:
    """Write ``run/report.html``: one page that needs no other file, no network and no script.

    Args:
        run: a folder with ``comparison.json`` and, where they were kept, ``episodes/``; or an episode store,
            of which the page then shows outcomes by task; or a folder of failures on purpose (``attempts.jsonl``),
            which has a page of its own, with a small script that filters.
        sections: further parts, shown after the episodes and before the provenance.

    Returns:
        Path of the page.

    Raises:
        DataError: the folder holds neither a comparison nor an episode.
        SetupError: the folder is missing or cannot be written.
    """
    run = Path(run)
    if not run.is_dir():
        raise SetupError(f"no run folder at {run}: give one that 'failwise evaluate' or 'failwise collect' wrote")
    if is_made(run):
        return write_made(run, run / REPORT_FILE, sections)
    comparison, store = _read(run)
    evidence = Evidence() if store is None else gather(store, comparison)
    if store is not None:
        found = workspace_sections(store.scan(), comparison)
        found += over_time_sections(store, [arm.arm for arm in comparison.arms])
        sections = [*sections, *recovered_sections(store.metas()), *found, *watched_sections(store)]
    path = run / REPORT_FILE
    half = path.with_suffix(".html.tmp")
    try:
        half.write_text(render(comparison, evidence, sections, run.resolve().name), encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; make the folder writable") from error
    return path


def render(comparison: Comparison, evidence: Evidence, sections: Sequence[Section], name: str) -> str:
    """Return the page as HTML. ``name``: what the run is called on it."""
    return (
        template_environment()
        .get_template("report.html")
        .render(
            name=name,
            page=page(comparison),
            evidence=evidence,
            sections=[(section, section.figure_source()) for section in sections],
            version=__version__,
            machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        )
    )


def _read(run: Path) -> tuple[Comparison, EpisodeStore | None]:
    episodes = run / EPISODES_FOLDER
    store = EpisodeStore(episodes if episodes.is_dir() else run, create=False)
    file = run / COMPARISON_FILE
    if file.is_file():
        comparison = Comparison.from_json(file.read_text(encoding="utf-8"))
        return comparison, store if len(store) else None
    metas = store.metas()
    if not metas:
        raise DataError(
            f"{run} holds neither {COMPARISON_FILE} nor an episode: "
            "give a folder that 'failwise evaluate', 'failwise collect' or 'failwise generate' wrote"
        )
    return describe(metas), store
