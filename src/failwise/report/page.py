"""A page of sections: for what is no comparison of arms. One file, no network, no script, as the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from failwise import __version__
from failwise.errors import SetupError
from failwise.report.section import Section, data_uri


def write_page(
    path: Path, title: str, sentences: Sequence[tuple[str, str]], facts: Mapping[str, str], sections: Sequence[Section]
) -> Path:
    """Write a page.

    Args:
        path: the file.
        title: its heading.
        sentences: claim and evidence of each finding, plain text.
        facts: label -> value, shown large.
        sections: what follows.

    Raises:
        SetupError: the file cannot be written.
    """
    from failwise.report.templating import template_environment

    text = (
        template_environment()
        .get_template("page.html")
        .render(
            title=title,
            sentences=sentences,
            facts=facts,
            sections=[(section, section.figure_source()) for section in sections],
            version=__version__,
        )
    )
    half = path.with_suffix(".html.tmp")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; name a folder you may write to") from error
    return path


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    """A table that scrolls on its own where the screen is narrow; the first column names the row."""
    head = "".join(f'<th scope="col"{_number(i)}>{escape(h)}</th>' for i, h in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{escape(cell)}</th>' if i == 0 else f'<td class="number">{escape(cell)}</td>'
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def picture_html(png: bytes, alt: str) -> str:
    """An embedded picture with its caption."""
    source, text = data_uri(png, "image/png"), escape(alt)
    return f'<figure><img class="figure" src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _number(column: int) -> str:
    return ' class="number"' if column else ""
