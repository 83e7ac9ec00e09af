"""What every pool of workers does: hands out items, notices workers that die or hang, has their items done again.

How a worker is started, spoken to and ended is its kind's: processes in ``executors.py``, Ray in ``ray_executor.py``.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

from failwise.errors import SetupError
from failwise.protocols import Item, Result

_START_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class WorkerFailure:
    """Takes the place of an item's result after the item lost its worker again and again.

    Attributes:
        item: what was to be done. reason: how its worker was lost, and how often; one line.
    """

    item: Any
    reason: str


class WorkerLostError(Exception):
    """A worker is gone; the message says how ("was killed by SIGKILL")."""


@dataclass
class Job:
    """An item on its way, and how many workers it has lost."""

    item: Any
    losses: int = 0


@dataclass(kw_only=True, eq=False)
class Worker:
    """What a pool knows of each of its workers."""

    deadline: float  # of its start or of its job, on the monotonic clock
    ready: bool = False
    job: Job | None = None

    @property
    def owes(self) -> bool:
        """Whether an answer of it is awaited."""
        return self.job is not None or not self.ready


STARTED = object()  # a worker's first answer
Kind = TypeVar("Kind", bound=Worker)


class Closing:
    """Lets an executor be used in a ``with`` statement."""

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WorkerPool(Closing, ABC, Generic[Kind]):
    """Runs items on workers of one kind, replaces those that die or hang, and has their items done again.

    Args:
        workers: how many, at least 1.
        initializer: runs once in each worker before its first item; must be importable there, as must the function.
        item_timeout_s: seconds after which an item's worker counts as hung; None waits for ever.
        max_attempts: how many workers an item may lose before it is given up as a ``WorkerFailure``.

    Raises:
        SetupError: an argument is out of range; in ``map``, workers cannot start or an item cannot be sent.
    """

    called: ClassVar[str]
    """Its workers, in messages."""

    def __init__(
        self,
        workers: int,
        initializer: Callable[[], None] | None = None,
        item_timeout_s: float | None = None,
        max_attempts: int = 2,
    ) -> None:
        if workers < 1 or max_attempts < 1 or (item_timeout_s is not None and item_timeout_s <= 0):
            raise SetupError(
                f"a pool needs workers >= 1, max_attempts >= 1 and item_timeout_s > 0 or None, "
                f"not {workers}, {max_attempts} and {item_timeout_s}"
            )
        self._size, self._initializer = workers, initializer
        self._timeout_s = float("inf") if item_timeout_s is None else item_timeout_s
        self._max_attempts = max_attempts
        self._workers: list[Kind] = []
        self._failed_starts = 0
        self._mapping = False

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Any]:
        """Yield one result, or one ``WorkerFailure``, per item, in the order in which they finish.

        What an item raises is raised here; other items under way are then lost.
        """
        if self._mapping:
            raise RuntimeError("one map at a time: exhaust or close the last iterator of this pool first")
        self._mapping = True
        jobs = deque(Job(item) for item in items)
        open_jobs = len(jobs)
        try:
            sendable = self._sendable(function) if jobs else None
            while open_jobs:
                while len(self._workers) < min(self._size, open_jobs):
                    self._workers.append(self._start(time.monotonic() + _START_TIMEOUT_S))
                for worker in self._workers:
                    if jobs and not worker.owes:
                        self._send(worker, sendable, jobs[0].item)
                        worker.job, worker.deadline = jobs.popleft(), time.monotonic() + self._timeout_s
                for answer in self._answers(jobs):
                    open_jobs -= 1
                    yield answer
        finally:
            self._mapping = False
            for worker in [w for w in self._workers if w.job is not None]:  # abandoned in the middle
                self._remove(worker)

    def close(self) -> None:
        """End all workers; a busy one is killed. The pool can be used again afterwards."""
        for worker in list(self._workers):
            self._remove(worker)

    def _answers(self, jobs: deque[Job]) -> Iterator[Any]:
        """Wait until something happens; yield what came back, return the jobs of lost workers to ``jobs``."""
        left = min((w.deadline for w in self._workers if w.owes), default=float("inf")) - time.monotonic()
        for worker in self._wait(self._workers, None if left == float("inf") else max(left, 0.0)):
            try:
                answer = self._receive(worker)
            except WorkerLostError as lost:
                yield from self._lose(worker, str(lost), jobs)
                continue
            if answer is STARTED:
                worker.ready, self._failed_starts = True, 0
            else:
                worker.job = None
                yield answer
        now = time.monotonic()
        for worker in [w for w in self._workers if w.owes and w.deadline <= now]:
            if list(self._wait([worker], 0.0)):
                continue  # the answer is there; it was this side that was slow to fetch it
            limit = self._timeout_s if worker.ready else _START_TIMEOUT_S
            yield from self._lose(worker, f"gave no answer within {limit:g} s", jobs)

    def _lose(self, worker: Kind, cause: str, jobs: deque[Job]) -> Iterator[WorkerFailure]:
        """Drop a worker; its job is done again first of all, or given up."""
        job = worker.job
        self._remove(worker)
        if not worker.ready:
            self._failed_starts += 1
            # Fewer workers than asked for will do, where a cluster has no room for more.
            if self._failed_starts >= self._max_attempts and not any(w.ready for w in self._workers):
                raise SetupError(
                    f"{self.called} cannot start: the last of {self._failed_starts} {cause} before its first item; "
                    f"{self._start_advice()}"
                )
        if job is None:
            return
        job.losses += 1
        if job.losses < self._max_attempts:
            jobs.appendleft(job)
        else:
            yield WorkerFailure(job.item, f"its worker {cause}; {job.losses} attempts in all")

    def _remove(self, worker: Kind) -> None:
        self._workers.remove(worker)
        self._end(worker)

    def _sendable(self, function: Callable[[Any], Any]) -> Any:
        """The function as ``_send`` wants it; once a map."""
        return function

    @abstractmethod
    def _start(self, deadline: float) -> Kind:
        """A new worker; its first answer will be ``STARTED``."""

    @abstractmethod
    def _send(self, worker: Kind, function: Any, item: Any) -> None:
        """Give an idle worker an item. A worker that died meanwhile shows in its next answer.

        Raises:
            SetupError: the item cannot be sent.
        """

    @abstractmethod
    def _wait(self, workers: list[Kind], timeout: float | None) -> Iterable[Kind]:
        """Those of the workers that have answered or died, after at most so many seconds."""

    @abstractmethod
    def _receive(self, worker: Kind) -> Any:
        """``STARTED``, or the result of its job; raises what the item raised.

        Raises:
            WorkerLostError: it is dead. SetupError: its initializer failed.
        """

    @abstractmethod
    def _end(self, worker: Kind) -> None:
        """Kill it and free what it holds."""

    @abstractmethod
    def _start_advice(self) -> str:
        """What to look at where no worker starts."""
