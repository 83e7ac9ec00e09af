"""Ways of running many idempotent items: in this process, or on worker processes that may die or hang.

What travels between parent and workers goes over a pipe between processes of one program and is never stored.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self

from failwise.errors import SetupError
from failwise.protocols import Item, Result
from failwise.rollout.jobs import Job, WorkerFailure, check_pool
from failwise.rollout.worker import FAILED_START, RAISED, READY, work

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 3.0


class InProcess:
    """Runs items one after another in this process; what an item raises reaches the caller."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield one result per item, in order."""
        return (function(item) for item in items)

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    deadline: float
    ready: bool = False
    job: Job | None = None


class ProcessPool:
    """Runs items on worker processes, each with one compute thread; replaces a worker that dies or hangs.

    Workers start at the first ``map``, keep what their items cached for the next one, ignore Ctrl-C (the parent
    decides), and end with their parent however it ends.

    Args:
        workers: how many processes, at least 1.
        initializer: runs once in each worker before its first item; must be importable, as must the function.
        item_timeout_s: seconds after which an item's worker counts as hung; None waits for ever.
        max_attempts: how many workers an item may lose before it is given up as a ``WorkerFailure``.

    Raises:
        SetupError: an argument is out of range; in ``map``, workers cannot start or an item cannot be sent.
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[[], None] | None = None,
        item_timeout_s: float | None = None,
        max_attempts: int = 2,
    ) -> None:
        check_pool(workers, item_timeout_s, max_attempts)
        self._size, self._initializer = workers, initializer
        self._timeout_s, self._max_attempts = item_timeout_s, max_attempts
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._mapping = False

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Any]:
        """Yield one result, or one ``WorkerFailure``, per item, in the order in which they finish.

        What an item raises is raised here, with the worker's traceback as a note; other items under way
        are then lost.
        """
        if self._mapping:
            raise RuntimeError("one map at a time: exhaust or close the last iterator of this pool first")
        self._mapping = True
        jobs = deque(Job(item) for item in items)
        open_jobs = len(jobs)
        try:
            while open_jobs:
                self._staff(open_jobs)
                for worker in self._workers:
                    if jobs and worker.ready and worker.job is None:
                        self._assign(worker, function, jobs.popleft())
                for answer in self._answers(jobs):
                    open_jobs -= 1
                    yield answer
        finally:
            self._mapping = False
            for worker in [w for w in self._workers if w.job is not None]:
                self._remove(worker)

    def close(self) -> None:
        """End all workers; a busy one is killed. The pool can be used again afterwards."""
        for worker in self._workers:
            if worker.job is None:
                worker.pipe.close()  # an idle worker takes the end of its pipe as the end of its work
        until = time.monotonic() + _STOP_TIMEOUT_S
        for worker in list(self._workers):
            if worker.job is None:
                worker.process.join(max(until - time.monotonic(), 0.0))
            self._remove(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_workers", None):
            self.close()

    def _staff(self, wanted: int) -> None:
        """Start workers until there is one an open item, up to the pool's size."""
        while len(self._workers) < min(self._size, wanted):
            ours, theirs = get_context("spawn").Pipe()
            process = get_context("spawn").Process(
                target=work, args=(theirs, self._initializer), name="failwise-worker", daemon=True
            )
            with _worker_environment():
                process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours, time.monotonic() + _START_TIMEOUT_S))

    def _assign(self, worker: _Worker, function: Callable[[Any], Any], job: Job) -> None:
        try:
            worker.pipe.send((function, job.item))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died while idle: its end shows in the next answers, and the job goes back
        except Exception as error:
            raise SetupError(
                f"item {job.item!r} or its function cannot be sent to a worker ({error}); "
                "use a function of a module, and items of plain data"
            ) from error
        worker.job = job
        worker.deadline = float("inf") if self._timeout_s is None else time.monotonic() + self._timeout_s

    def _answers(self, jobs: deque[Job]) -> Iterator[Any]:
        """Wait until something happens; yield what came back, return the jobs of lost workers to ``jobs``."""
        by_pipe = {w.pipe: w for w in self._workers}
        waiting = [w.deadline for w in self._workers if w.job is not None or not w.ready]
        left = min(waiting) - time.monotonic()
        for pipe in wait(list(by_pipe), None if left == float("inf") else max(left, 0.0)):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                kind, content, trace = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                yield from self._lose(worker, _cause_of_death(worker.process), jobs)
                continue
            if kind == FAILED_START:
                raise SetupError(f"worker processes cannot be set up: {content}")
            if kind == READY:
                worker.ready, self._failed_starts = True, 0
                continue
            worker.job = None
            if kind == RAISED:
                content.add_note(f"raised in a worker process:\n{trace}")
                raise content
            yield content
        now = time.monotonic()
        late = [w for w in self._workers if w.deadline <= now and (w.job is not None or not w.ready)]
        for worker in late:
            if worker.pipe.poll():
                continue  # the answer is there; it was this side that was slow to fetch it
            limit = self._timeout_s if worker.ready else _START_TIMEOUT_S
            yield from self._lose(worker, f"gave no answer within {limit:g} s", jobs)

    def _lose(self, worker: _Worker, cause: str, jobs: deque[Job]) -> Iterator[WorkerFailure]:
        """Drop a worker; its job is done again first of all, or given up."""
        job, ready = worker.job, worker.ready
        self._remove(worker)
        if not ready:
            self._failed_starts += 1
            if self._failed_starts >= self._max_attempts:
                raise SetupError(
                    f"worker processes cannot start: the last of {self._failed_starts} {cause} before its first "
                    "item; a script that uses workers needs its main part under: if __name__ == '__main__':"
                )
        if job is not None:
            if failure := job.lost_again(cause, self._max_attempts):
                yield failure
            else:
                jobs.appendleft(job)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        worker.process.close()


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
