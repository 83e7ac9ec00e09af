"""``failwise report``: the one-page HTML report of a run, or a web page to browse its episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from failwise.cli.options import existing_folder, parse
from failwise.errors import SetupError


@dataclass(frozen=True)
class Report:
    """Write the report of a run: one HTML file that needs nothing else. Or serve its episodes to browse and label."""

    run: Positional[Path]
    """Folder that 'failwise evaluate' or 'failwise collect' wrote. 'improve' and 'demo' write their own report."""
    serve: bool = False
    """Serve the failure explorer on this machine instead: every episode at or below the folder, with video, curves and
    labels (pip install 'failwise[explorer]'). Ctrl-C ends it."""
    port: int = 8642
    """Of the explorer; 0 takes any free one."""


def main(argv: Sequence[str]) -> int:
    """Write the report and print where it is."""
    options = parse(Report, argv, "report")
    existing_folder(options.run, "run", "what 'failwise evaluate' or 'failwise collect' wrote")
    if options.serve:
        return _serve(options)
    from failwise.report import write_report

    print(write_report(options.run))
    return 0


def _serve(options: Report) -> int:
    if not 0 <= options.port < 65536:
        raise SetupError(f"--port {options.port} is no port: 0 to 65535")
    try:
        from failwise.report.explorer import serve
    except ImportError as error:
        raise SetupError("the explorer needs a web framework: pip install 'failwise[explorer]'") from error
    serve(options.run, options.port)
    return 0
