"""Weights & Biases: one run a command, online or offline as ``WANDB_MODE`` says; nobody is logged in from here."""

from __future__ import annotations

import os
from collections.abc import Mapping

import wandb

from failwise.errors import SetupError
from failwise.tracking.reports import Run

UPLOAD_S = 300.0
"""How long the end waits for an upload; what is left then stays on disk for ``wandb sync``."""


class WandbRun:
    """A run whose series have steps of their own, because a command may train several things.

    Raises:
        SetupError: nobody is logged in, or the server does not answer.
    """

    def __init__(self, run: Run) -> None:
        settings = wandb.Settings(console="off", finish_timeout=UPLOAD_S)  # the progress bar is not for a log
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "failwise"),
                name=os.environ.get("WANDB_NAME", f"{run.name} {run.out}"),
                config=dict(run.config),
                settings=settings,
            )
        except wandb.Error as error:
            remedy = "log in with 'wandb login', or keep the run on this machine with WANDB_MODE=offline"
            raise SetupError(f"--track wandb cannot begin ({error}): {remedy}") from error
        self._known: set[str] = set()

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """``series/name`` over ``series/step``."""
        count = f"{series}/step"
        named = {f"{series}/{name}": value for name, value in values.items()}
        for name in named.keys() - self._known:
            self._run.define_metric(name, step_metric=count)
        self._known |= named.keys()
        self._run.log({**named, count: step})

    def close(self, summary: Mapping[str, float | str], completed: bool) -> None:
        """The final figures, as the run's summary."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if completed else 1)
