"""Tables on standard output: as wide as the screen for a person, whole for a program that reads them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_NO_SCREEN = 10_000  # columns: no table is that wide, so none is cut


def print_table(table: Table) -> None:
    """Print a table; in a file or a pipe no cell and no title is cut or wrapped, whatever COLUMNS or FORCE_COLOR say.

    Args:
        table: of the ``rich`` library.
    """
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=_NO_SCREEN)
    if table.title is not None:  # rich folds a title to the width of its table
        console.print(table.title, style="table.title", highlight=False, markup=False)
        table.title = None
    console.print(table)
