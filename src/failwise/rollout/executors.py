"""Ways of running many idempotent items: in this process, or on worker processes that may die or hang.

What travels between parent and workers goes over a pipe between processes of one program and is never stored.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from failwise.errors import SetupError
from failwise.protocols import Item, Result
from failwise.rollout.pool import STARTED, Closing, Worker, WorkerLostError, WorkerPool
from failwise.rollout.worker import FAILED_START, RAISED, READY, work

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_STOP_TIMEOUT_S = 3.0


class InProcess(Closing):
    """Runs items one after another in this process; what an item raises reaches the caller."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield one result per item, in order."""
        return (function(item) for item in items)


@dataclass(kw_only=True, eq=False)
class _Process(Worker):
    process: SpawnProcess
    pipe: Connection


class ProcessPool(WorkerPool[_Process]):
    """Runs items on worker processes, each with one compute thread; replaces a worker that dies or hangs.

    Workers start at the first ``map``, keep what their items cached for the next one, ignore Ctrl-C (the parent
    decides), and end with their parent however it ends. What an item raises carries the worker's traceback as a note.

    Arguments and errors are those of ``WorkerPool``.
    """

    called = "worker processes"

    def close(self) -> None:
        """End all workers, the idle ones in peace; the pool can be used again afterwards."""
        for worker in self._workers:
            if worker.job is None:
                worker.pipe.close()  # an idle worker takes the end of its pipe as the end of its work
        until = time.monotonic() + _STOP_TIMEOUT_S
        for worker in self._workers:
            if worker.job is None:
                worker.process.join(max(until - time.monotonic(), 0.0))
        super().close()

    def __del__(self) -> None:
        if getattr(self, "_workers", None):
            self.close()

    def _start(self, deadline: float) -> _Process:
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(
            target=work, args=(theirs, self._initializer), name="failwise-worker", daemon=True
        )
        with _worker_environment():
            process.start()
        theirs.close()
        return _Process(process=process, pipe=ours, deadline=deadline)

    def _send(self, worker: _Process, function: Any, item: Any) -> None:
        try:
            worker.pipe.send((function, item))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died while idle: its end shows in the next answers, and the job goes back
        except Exception as error:
            raise SetupError(
                f"item {item!r} or its function cannot be sent to a worker ({error}); "
                "use a function of a module, and items of plain data"
            ) from error

    def _wait(self, workers: list[_Process], timeout: float | None) -> list[_Process]:
        speaking = wait([w.pipe for w in workers], timeout)
        return [w for w in workers if w.pipe in speaking]

    def _receive(self, worker: _Process) -> Any:
        try:
            kind, content, trace = worker.pipe.recv()
        except (EOFError, ConnectionResetError) as end:
            raise WorkerLostError(_cause_of_death(worker.process)) from end
        if kind == FAILED_START:
            raise SetupError(f"worker processes cannot be set up: {content}")
        if kind == RAISED:
            worker.job = None  # it is idle again, whatever the caller does with what is raised
            content.add_note(f"raised in a worker process:\n{trace}")
            raise content
        return STARTED if kind == READY else content

    def _end(self, worker: _Process) -> None:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        worker.process.close()

    def _start_advice(self) -> str:
        return "a script that uses workers needs its main part under: if __name__ == '__main__':"


def _cause_of_death(process: SpawnProcess) -> str:
    process.join(_STOP_TIMEOUT_S)
    code = process.exitcode
    if code is None:
        return "closed its pipe"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"


@contextmanager
def _worker_environment() -> Iterator[None]:
    """While a worker is started: one compute thread, and Ctrl-C held back; the worker inherits both."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    blocking = hasattr(signal, "pthread_sigmask")
    if blocking:
        resource_tracker.ensure_running()  # else the first start would launch it, and that lifts the block
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if blocking:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
