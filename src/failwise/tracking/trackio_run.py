"""Trackio: one run a command, in its database on this machine, or where ``TRACKIO_SPACE_ID`` says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout

import trackio

from failwise.tracking.reports import Run

PROJECT = "failwise"


class TrackioRun:
    """A run of the project ``failwise``. What Trackio says goes to stderr: stdout is for a verb's results."""

    def __init__(self, run: Run) -> None:
        with redirect_stdout(sys.stderr):
            self._run = trackio.init(project=PROJECT, name=f"{run.name} {run.out}", config=dict(run.config))

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """``series/name`` at a step."""
        self._run.log({f"{series}/{name}": value for name, value in values.items()}, step=step)

    def close(self, summary: Mapping[str, float | str], completed: bool) -> None:
        """The final figures at step 0, below ``summary/``: Trackio has no other place for them."""
        if summary:
            self._run.log({f"summary/{name}": value for name, value in summary.items()}, step=0)
        with redirect_stdout(sys.stderr):
            trackio.finish()
