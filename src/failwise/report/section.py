"""A further part of the page that a caller brings along: a table, a figure, or both."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from failwise.errors import DataError

_MIME = {
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
_LOADS = re.compile(r"""(src|href|srcset|data|action)\s*=\s*["']?\s*(https?:)?//|url\(\s*["']?(https?:)?//""", re.I)


@dataclass(frozen=True)
class Section:
    """One further section of the page.

    Attributes:
        title: its heading, plain text.
        html: trusted markup of the caller's own, inserted as it is; escape foreign text in it.
        figure: an image file (png, svg, jpg, webp) that is embedded, or None.
        alt: what the figure shows, for those who cannot see it; required with a figure.
    """

    title: str
    html: str = ""
    figure: Path | None = None
    alt: str = ""

    def __post_init__(self) -> None:
        if not self.html and self.figure is None:
            raise DataError(f"report section {self.title!r} is empty: give it html or a figure")
        if self.figure is not None and not self.alt:
            raise DataError(f"report section {self.title!r}: say in alt what {self.figure} shows")
        found = _LOADS.search(self.html)
        if found:
            raise DataError(
                f"report section {self.title!r} would load something from outside ({found.group(0)!r}): "
                "embed it as data instead"
            )

    def figure_source(self) -> str:
        """Return the figure as a data URI, or an empty string.

        Raises:
            DataError: the file is missing or of an unknown kind.
        """
        if self.figure is None:
            return ""
        mime = _MIME.get(self.figure.suffix.lower())
        if mime is None:
            raise DataError(f"report figure {self.figure}: write it as one of {', '.join(_MIME)}")
        try:
            return data_uri(self.figure.read_bytes(), mime)
        except OSError as error:
            raise DataError(f"report figure {self.figure} cannot be read: {error.strerror}") from error


def data_uri(content: bytes, mime: str) -> str:
    """Return ``content`` as a data URI of type ``mime``."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
