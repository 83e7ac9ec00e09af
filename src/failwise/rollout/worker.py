"""What runs inside a worker process: items off a pipe, answers onto it, and an end when the parent ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait

READY, FAILED_START, DONE, RAISED = "ready", "failed start", "done", "raised"


def work(pipe: Connection, initializer: Callable[[], None] | None) -> None:
    """Answer items until the pipe closes.

    Takes (function, item); answers (DONE, result, "") or (RAISED, exception, traceback). Before the first
    item, one (READY, None, "") or (FAILED_START, message, traceback).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if initializer is not None:
            initializer()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
    except Exception as error:
        pipe.send((FAILED_START, f"{type(error).__name__}: {error}", traceback.format_exc()))
        return
    try:
        pipe.send((READY, None, ""))
        while True:
            _answer(pipe)
    except (_PipeEndedError, BrokenPipeError):
        return


class _PipeEndedError(Exception):
    """The parent closed the pipe: a name of its own, as an item may raise EOFError for its own reasons."""


def _answer(pipe: Connection) -> None:
    try:
        received = pipe.recv()
    except (EOFError, ConnectionResetError) as end:
        raise _PipeEndedError from end
    except Exception as error:  # a function or class that cannot be imported here
        _send_error(pipe, error)
        return
    function, item = received
    try:
        result = function(item)
    except Exception as error:
        _send_error(pipe, error)
        return
    try:
        pipe.send((DONE, result, ""))
    except OSError as end:
        raise _PipeEndedError from end
    except Exception as error:
        _send_error(pipe, TypeError(f"the result of item {item!r} cannot be sent from its worker: {error}"))


def _send_error(pipe: Connection, error: Exception) -> None:
    """Send an exception as the nearest class that can be made again from its arguments on the other side."""
    trace = "".join(traceback.format_exception(error))
    kinds = [kind for kind in type(error).__mro__ if issubclass(kind, Exception)]
    candidates: list[Callable[[], Exception]] = [partial(kind, *error.args) for kind in kinds]
    candidates.append(partial(RuntimeError, f"{type(error).__name__}: {error}"))
    for make in candidates:
        try:
            copy: Exception = make()
            if str(copy) == str(error) or make is candidates[-1]:
                pipe.send((RAISED, copy, trace))
                return
        except OSError as end:
            raise _PipeEndedError from end
        except Exception:  # a class that takes or holds something that cannot travel: its base will do
            continue


def _end_with_parent() -> None:
    """End at once when the parent has ended, even in the middle of an item: nobody waits for it any more."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
