"""``failwise demo``: the whole job in small, on Meta-World."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failwise.cli.options import parse, worker_count, writable_folder


@dataclass(frozen=True)
class Demo:
    """Watch a small vision-language-action policy fail, learn from it, and fail less."""

    out: Path = Path("runs/demo")
    """Folder for episodes, models and the report. The same command resumes there."""
    workers: int = 2
    """Processes that run episodes."""
    threads: int = 2
    """Threads that train."""
    open_browser: bool = True
    """Open the report in a browser when there is a screen."""


def has_screen() -> bool:
    """Whether a browser could show a window: macOS and Windows always, else X11 or Wayland."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main(argv: Sequence[str]) -> int:
    """Run the demo, print where the report is, and open it where there is a screen."""
    options = parse(Demo, argv, "demo")
    writable_folder(options.out)
    from failwise.improve import demo

    report = demo(
        options.out, workers=worker_count(options.workers), threads=worker_count(options.threads, "--threads")
    )
    print(report.resolve())
    if options.open_browser and has_screen():
        subprocess.run([sys.executable, "-m", "webbrowser", report.resolve().as_uri()], check=False)
    return 0
