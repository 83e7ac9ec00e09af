"""Items on a Ray cluster: one actor a worker, on one machine or on many. The only file that knows Ray.

What an item records goes to its store by itself, so with several machines the store must lie on a file system that all
of them see. Only items and their results (an episode's meta data) travel through Ray.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from failwise.errors import SetupError
from failwise.protocols import Item, Result
from failwise.rollout.jobs import Job, WorkerFailure, check_pool

_START_TIMEOUT_S = 300.0


class _Actor:
    """Runs in a Ray worker. What an item raises travels back as Ray does it."""

    def __init__(self, initializer: Callable[[], None] | None, folder: str) -> None:
        os.chdir(folder)  # relative paths mean the same here as where the run was started
        if initializer is not None:
            initializer()

    def ready(self) -> bool:
        return True

    def run(self, function: Callable[[Any], Any], item: Any) -> Any:
        return function(item)


@dataclass
class _Worker:
    actor: Any
    reference: Any  # of what it is doing: starting, or its job
    deadline: float
    job: Job | None = None


class RayExecutor:
    """Runs items on Ray actors of one core each; replaces an actor that dies or hangs, as ``ProcessPool`` does.

    Args:
        workers: how many actors, at least 1.
        initializer: runs once in each actor before its first item.
        item_timeout_s: seconds after which an item's actor counts as hung; None waits for ever.
        max_attempts: how many actors an item may lose before it is given up as a ``WorkerFailure``.
        address: of a running cluster ("auto", "HOST:PORT", "ray://HOST:PORT"); "" starts one on this machine, which
            ends with ``close``.

    Raises:
        SetupError: an argument is out of range, Ray is not installed, there is no cluster at the address, or (in
            ``map``) it has no room for a single worker.
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[[], None] | None = None,
        item_timeout_s: float | None = None,
        max_attempts: int = 2,
        address: str = "",
    ) -> None:
        check_pool(workers, item_timeout_s, max_attempts)
        self._size, self._initializer = workers, initializer
        self._timeout_s, self._max_attempts = item_timeout_s, max_attempts
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._mapping = False
        self._ray = _import_ray()
        self._owns = not self._ray.is_initialized()
        if self._owns:
            self._connect(address)
        self._kind = self._ray.remote(_Actor).options(num_cpus=1, max_restarts=0, max_task_retries=0)

    def _connect(self, address: str) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address:
                self._ray.init(address=address, **quiet)
            else:
                self._ray.init(num_cpus=self._size, include_dashboard=False, **quiet)
        except Exception as error:  # Ray raises many kinds, from ConnectionError to ValueError
            where = f"to the Ray cluster at {address!r}" if address else "to a Ray cluster on this machine"
            raise SetupError(f"cannot connect {where}: {(str(error).splitlines() or [''])[0]}") from error

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Any]:
        """Yield one result, or one ``WorkerFailure``, per item, in the order in which they finish.

        What an item raises is raised here; other items under way are then lost.
        """
        if self._mapping:
            raise RuntimeError("one map at a time: exhaust or close the last iterator of this executor first")
        self._mapping = True
        jobs = deque(Job(item) for item in items)
        open_jobs = len(jobs)
        try:
            sent = self._sent(function)  # once, not with each item
            while open_jobs:
                self._employ(jobs, sent)
                for result in self._wait(jobs):
                    open_jobs -= 1
                    yield result
        finally:
            self._mapping = False
            for worker in [w for w in self._workers if w.job is not None]:  # abandoned in the middle
                self._remove(worker)

    def _sent(self, function: Callable[..., Any]) -> Any:
        try:
            return self._ray.put(function)
        except Exception as error:  # whatever its pickling raises
            raise SetupError(f"{function!r} cannot be sent to a Ray worker: {_last_line(error)}") from error

    def _employ(self, jobs: deque[Job], function: Any) -> None:
        """Give idle workers something to do, and start new ones while there is more to do than workers."""
        for worker in self._workers:
            if worker.reference is None and jobs:
                worker.job = jobs.popleft()
                worker.reference = worker.actor.run.remote(function, worker.job.item)
                worker.deadline = time.monotonic() + (self._timeout_s or float("inf"))
        starting = sum(w.job is None and w.reference is not None for w in self._workers)
        while len(self._workers) < self._size and starting < len(jobs):
            actor = self._kind.remote(self._initializer, str(Path.cwd()))
            self._workers.append(_Worker(actor, actor.ready.remote(), time.monotonic() + _START_TIMEOUT_S))
            starting += 1

    def _wait(self, jobs: deque[Job]) -> Iterator[Any]:
        """Results that are there, after waiting for at least one, or for a worker that is late."""
        busy = {w.reference: w for w in self._workers if w.reference is not None}
        patience = max(0.0, min(w.deadline for w in busy.values()) - time.monotonic())
        timeout = None if patience == float("inf") else patience
        done, _ = self._ray.wait(list(busy), num_returns=1, timeout=timeout)
        for reference in done:
            yield from self._finish(busy[reference], jobs)
        now = time.monotonic()
        for worker in [w for w in self._workers if w.reference is not None and w.deadline <= now]:
            if self._ray.wait([worker.reference], timeout=0)[0]:
                continue  # the answer is there; it was this side that was slow to fetch it
            limit = _START_TIMEOUT_S if worker.job is None else self._timeout_s
            yield from self._lose(worker, f"gave no answer within {limit:g} s", jobs)

    def _finish(self, worker: _Worker, jobs: deque[Job]) -> Iterator[Any]:
        errors = self._ray.exceptions
        try:
            result = self._ray.get(worker.reference)
        except errors.RayTaskError as error:
            worker.job, worker.reference = None, None
            raise error.cause if isinstance(error.cause, Exception) else error from error
        except (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError) as error:
            if worker.job is None and (cause := _raised_at_start(error)):
                raise SetupError(f"Ray workers cannot be set up: {cause}") from error
            yield from self._lose(worker, "died", jobs)
            return
        except errors.RayError as error:  # what was sent cannot be made again over there, or the actor not be placed
            worker.job, worker.reference = None, None
            raise SetupError(f"an item cannot be run by a Ray worker: {_last_line(error)}") from error
        job, worker.job, worker.reference = worker.job, None, None
        self._failed_starts = 0
        if job is not None:
            yield result

    def _lose(self, worker: _Worker, cause: str, jobs: deque[Job]) -> Iterator[WorkerFailure]:
        """Drop a worker; its job is done again first of all, or given up."""
        job = worker.job
        self._remove(worker)
        if job is None:
            self._failed_starts += 1
            if self._failed_starts >= self._max_attempts and not self._workers:
                raise SetupError(
                    f"no Ray worker could be started: the last of {self._failed_starts} {cause}; does the cluster have "
                    "a free core, and is Failwise installed on its machines?"
                )
            return
        if failure := job.lost_again(cause, self._max_attempts):
            yield failure
        else:
            jobs.appendleft(job)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._ray.kill(worker.actor, no_restart=True)

    def close(self) -> None:
        """End the workers, and the cluster where this executor started it or connected to it."""
        for worker in list(self._workers):
            self._remove(worker)
        if self._owns:
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _raised_at_start(error: Exception) -> str:
    """What the initializer raised, or "" where the worker was lost in another way."""
    if "creation task" not in str(error):
        return ""
    return _last_line(error)


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise SetupError("--executor ray needs Ray: pip install 'failwise[ray]'") from error
    return ray
