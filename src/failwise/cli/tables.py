"""Tables on standard output: as wide as the screen for a person, whole for a program that reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_NO_SCREEN = 10_000  # columns: no table is that wide, so none is cut


def print_table(table: Table) -> None:
    """Print a table. Where the output is a file or a pipe, no cell is cut or wrapped, whatever COLUMNS says."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_NO_SCREEN)
    console.print(table)
