"""TensorBoard: an event file in the folder of the results.

Written in this thread, not by ``SummaryWriter``, whose own thread would print a traceback when the disk is full.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import RecordWriter
from torch.utils.tensorboard.summary import scalar, text

from failwise.tracking.reports import Run

FOLDER = "tensorboard"
FLUSH_EVERY_S = 2.0


class TensorBoardFile:
    """Scalars by step; options, and of the final figures those in words, as text.

    A command that is resumed writes a further file beside the first; TensorBoard shows both as one run.
    """

    def __init__(self, run: Run) -> None:
        folder = run.out / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((folder / name).open("xb"))
        self._flushed = 0.0
        self._write(file_version="brain.Event:2")
        # Indented by four, Markdown shows it as it is.
        listed = json.dumps(dict(run.config), indent=1).replace("\n", "\n    ")
        self._write(step=0, summary=text("options", f"{run.name}\n\n    {listed}"))  # type: ignore[no-untyped-call]

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """One scalar each, ``series/name``."""
        for name, value in values.items():
            self._write(step=step, summary=scalar(f"{series}/{name}", value))  # type: ignore[no-untyped-call]

    def close(self, summary: Mapping[str, float | str], completed: bool) -> None:
        """The final figures at step 0, below ``summary/``."""
        try:
            for name, value in summary.items():
                kind: Any = text if isinstance(value, str) else scalar
                self._write(step=0, summary=kind(f"summary/{name}", value))
        finally:
            self._records.close()

    def _write(self, **event: Any) -> None:
        now = time.time()
        self._records.write(Event(wall_time=now, **event).SerializeToString())
        if now - self._flushed >= FLUSH_EVERY_S:
            self._records.flush()
            self._flushed = now
