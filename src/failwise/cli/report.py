"""``failwise report``: the one-page HTML report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from failwise.cli.options import existing_folder, parse


@dataclass(frozen=True)
class Report:
    """Write the report of a run: one HTML file that needs nothing else."""

    run: Positional[Path]
    """Folder that 'failwise evaluate' or 'failwise collect' wrote. 'improve' and 'demo' write their own report."""


def main(argv: Sequence[str]) -> int:
    """Write the report and print where it is."""
    options = parse(Report, argv, "report")
    existing_folder(options.run, "run", "what 'failwise evaluate' or 'failwise collect' wrote")
    from failwise.report import write_report

    print(write_report(options.run))
    return 0
