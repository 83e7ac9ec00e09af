"""Processes that tests start: told to stop in the same way whoever runs the tests."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from typing import Any


def start(command: Sequence[str], ignoring: Sequence[signal.Signals] = (), **options: Any) -> subprocess.Popen[str]:
    """A process with default handlers, but for the signals that it is to ignore.

    A shell's background job, nohup and some runners of CI ignore SIGINT, and every process inherits that.
    """
    return subprocess.Popen(command, text=True, preexec_fn=partial(_signals, tuple(ignoring)), **options)


def _signals(ignoring: tuple[signal.Signals, ...]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number in ignoring else signal.SIG_DFL)
