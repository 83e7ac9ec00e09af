"""How a command is told to stop: Ctrl-C, SIGTERM and SIGHUP all end it the same way, and the same command resumes.

What was ignored when the process began stays ignored: ``nohup`` and the background jobs of a shell do that to SIGINT
or SIGHUP, because a Ctrl-C or a closed terminal is not meant for them. SIGTERM stops them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):  # no error: somebody asked for it
    """The process was asked to end. It passes wherever Ctrl-C would.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """While it lasts, SIGTERM and SIGHUP raise ``Stopped`` in the main thread; a second one ends the process at once.

    Does nothing outside the main thread, and leaves alone what somebody ignores or handles already.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _SIGNALS if signal.getsignal(number) == signal.SIG_DFL]

    def stop(number: int, frame: FrameType | None) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 plus the signal's number, as shells tell it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
