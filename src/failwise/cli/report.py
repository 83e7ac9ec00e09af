"""``failwise report``: the one-page HTML report of a run, or a web page to browse its episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from failwise.cli.options import existing_folder, parse
from failwise.errors import DataError, SetupError


@dataclass(frozen=True)
class Report:
    """Write the report of a run: one HTML file that needs nothing else. Or serve its episodes to browse and label."""

    run: Positional[Path]
    """Folder that 'failwise evaluate', 'collect' or 'generate' wrote. 'improve' and 'demo' write their own report."""
    serve: bool = False
    """Serve the failure explorer on this machine instead: every episode at or below the folder, with video, curves and
    labels (pip install 'failwise[explorer]'). Ctrl-C ends it."""
    rerun: str = ""
    """Id of an episode to export for the rerun viewer instead, or 'all' (pip install 'failwise[rerun]')."""
    out: Path | None = None
    """Folder for what is exported. Default: rerun/ in the run folder."""
    port: int = 8642
    """Of the explorer; 0 takes any free one."""


def main(argv: Sequence[str]) -> int:
    """Write the report and print where it is."""
    options = parse(Report, argv, "report")
    existing_folder(options.run, "run", "what 'failwise evaluate', 'collect' or 'generate' wrote")
    if options.serve:
        return _serve(options)
    if options.rerun:
        return _export(options)
    from failwise.report import write_report

    print(write_report(options.run))
    return 0


def _export(options: Report) -> int:
    from rich.progress import track

    from failwise.report.rerun_export import export_rerun
    from failwise.store import EpisodeStore, stores_under

    stores = [EpisodeStore(path, create=False) for path in stores_under(options.run)]
    asked = [(s, name) for s in stores for name in s.ids() if options.rerun in (name, "all")]
    if not asked:
        raise DataError(
            f"no episode {options.rerun!r} in {options.run}; 'failwise report {options.run} --serve' lists them"
        )
    out = options.out or options.run / "rerun"
    for store, name in track(asked, description="rerun"):
        # By store as well: ids tell task, arm and seed, which two runs may share.
        inside = store.path.relative_to(options.run)
        export_rerun(store.read(name), out / inside / f"{name}.rrd")
    print(f"{out}: {len(asked)} recording{'' if len(asked) == 1 else 's'}; open one with: rerun FILE")
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
