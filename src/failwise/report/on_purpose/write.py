"""Fill the template, write the page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from failwise import __version__
from failwise.errors import SetupError
from failwise.report.on_purpose.charts import HEIGHT, WIDTH, magnitudes_of, modes_of, times_of
from failwise.report.on_purpose.counts import (
    CELL_COLUMNS,
    cell_rows,
    coverage_of,
    own_rows,
    sentences_of,
    yields_of,
)
from failwise.report.on_purpose.gallery import BUDGET, EACH, gallery_of
from failwise.report.on_purpose.made import Made, is_made, read_made
from failwise.report.on_purpose.words import named, plural
from failwise.report.section import Section
from failwise.report.templating import template_environment

__all__ = ["is_made", "write_made"]


def write_made(folder: Path, path: Path, sections: Sequence[Section] = (), *, budget: int = BUDGET) -> Path:
    """Write one page about a folder that ``failwise generate`` wrote. It needs no other file and no network.

    A small script filters by task and mode; without it everything is shown.

    Args:
        folder: with ``attempts.jsonl``, ``episodes`` and ``recoveries``; no record in it is changed.
        path: the page.
        sections: further parts, shown at its end.
        budget: characters of all pictures and videos together, at most; the rest of the page is some 200 kB.

    Raises:
        DataError: no attempt was made yet. StoreError: a record is damaged. SetupError: the page cannot be written.
    """
    text = render_made(read_made(folder), folder.resolve().name, sections, budget)
    half = path.with_suffix(".html.tmp")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; make the folder writable") from error
    return path


def render_made(made: Made, name: str, sections: Sequence[Section], budget: int) -> str:
    """The page as HTML. ``name``: what the folder is called on it."""
    templates = template_environment()
    script = templates.get_template("on_purpose/filter.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    tasks = made.tasks
    # All tasks together first; a single task needs no part of its own.
    groups = [("", tasks), *(((task, (task,)) for task in tasks) if len(tasks) > 1 else ())]
    gallery = gallery_of(made, budget)
    return templates.get_template("on_purpose/page.html").render(
        name=name,
        script=script,
        digest=digest,
        sentences=sentences_of(made),
        tasks=tasks,
        modes=[(mode, named(mode)) for mode in modes_of(made)],
        coverage=[table for task in tasks if (table := coverage_of(made, task)).rows],
        known=bool(made.cells),
        cell_columns=CELL_COLUMNS,
        cells={task: cell_rows(made, task) for task in tasks},
        yields=[(task, yields_of([a for a in made.attempts if a.env_id in of])) for task, of in groups],
        magnitudes=[(task, charts) for task, of in groups if (charts := magnitudes_of(made, of))],
        times=[(task, charts) for task, of in groups if (charts := times_of(made, of))],
        width=WIDTH,
        height=HEIGHT,
        gallery=gallery,
        linked={(one.env_id, one.mode) for one in gallery.examples if not one.own},
        purposely=[one for one in gallery.examples if not one.own],
        own=[one for one in gallery.examples if one.own],
        own_rows=own_rows(made),
        tried_own=len(made.own),
        each=EACH,
        megabytes=f"{budget / 1e6:.2g}",
        plural=plural,
        named=named,
        sections=[(section, section.figure_source()) for section in sections],
        version=__version__,
    )
