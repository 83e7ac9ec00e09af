"""A training progress bar: steps, loss, rate, time left; plain lines where there is no terminal; trackers are told."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from failwise.tracking import report


class TrainingProgress:
    """Shows how far a training run is, and reports its loss to the trackers, if there are any.

    Args:
        steps: in all. start: done before (resumed). title: what is trained. quiet: show nothing.
    """

    def __init__(self, steps: int, start: int, title: str, quiet: bool) -> None:
        self.steps, self.start, self.title, self.quiet = steps, start, title, quiet
        self._bar: Progress | None = None
        self._begun = self._told = time.monotonic()

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[rate]:.1f} steps/s"),
                TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task(self.title, total=self.steps, completed=self.start, loss="", rate=0.0)
            self._bar.start()
        return self

    def update(
        self, step: int, loss: float | None = None, *, raw: float | None = None, learning_rate: float | None = None
    ) -> None:
        """Report that ``step`` steps are done, and the loss where something is trained.

        Args:
            step: how many are done.
            loss: what is shown.
            raw: this step's own loss, where ``loss`` is smoothed: trackers smooth for themselves.
            learning_rate: at this step.
        """
        told = {"loss": loss if raw is None else raw, "learning_rate": learning_rate}
        if values := {name: value for name, value in told.items() if value is not None}:
            report(self.title, step, values)
        if self.quiet:
            return
        now = time.monotonic()
        rate = (step - self.start) / max(now - self._begun, 1e-6)
        shown = "" if loss is None else f"loss {loss:.4f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, loss=shown, rate=rate)
        elif now - self._told > 15 or step == self.steps:
            self._told = now
            left = (self.steps - step) / max(rate, 1e-6)
            print(
                f"{self.title}: {step}/{self.steps} steps, {shown + ', ' if shown else ''}{rate:.1f} steps/s, "
                f"{left:.0f} s left",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
