"""Items on a Ray cluster: one actor a worker, on one machine or on many. The only file that knows Ray.

What an item records goes to its store by itself, so with several machines the store must lie on a file system that all
of them see. Only items and their results (an episode's meta data) travel through Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from failwise.errors import SetupError
from failwise.rollout.pool import STARTED, Worker, WorkerLostError, WorkerPool


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


@dataclass(kw_only=True, eq=False)
class _RayWorker(Worker):
    actor: Any
    reference: Any  # of what it is doing: starting, or its job; None: nothing


class RayExecutor(WorkerPool[_RayWorker]):
    """Runs items on Ray actors of one core each; replaces an actor that dies or hangs, as ``ProcessPool`` does.

    Args:
        workers, initializer, item_timeout_s, max_attempts: as of ``WorkerPool``.
        address: of a running cluster ("auto", "HOST:PORT", "ray://HOST:PORT"); "" starts one on this machine, which
            ends with ``close``.

    Raises:
        SetupError: an argument is out of range, Ray is not installed, there is no cluster at the address, or (in
            ``map``) it has no room for a single worker.
    """

    called = "Ray workers"

    def __init__(
        self,
        workers: int,
        initializer: Callable[[], None] | None = None,
        item_timeout_s: float | None = None,
        max_attempts: int = 2,
        address: str = "",
    ) -> None:
        super().__init__(workers, initializer, item_timeout_s, max_attempts)
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
                # "local": never a cluster that happens to run here or that the environment names.
                self._ray.init(address="local", num_cpus=self._size, include_dashboard=False, **quiet)
        except Exception as error:  # Ray raises many kinds, from ConnectionError to ValueError
            where = f"to the Ray cluster at {address!r}" if address else "to a Ray cluster on this machine"
            raise SetupError(f"cannot connect {where}: {(str(error).splitlines() or [''])[0]}") from error

    def close(self) -> None:
        """End the workers, and the cluster where this executor started it or connected to it."""
        super().close()
        if self._owns:
            self._ray.shutdown()

    def _sendable(self, function: Callable[[Any], Any]) -> Any:
        try:
            return self._ray.put(function)  # once, not with each item
        except Exception as error:  # whatever its pickling raises
            raise SetupError(f"{function!r} cannot be sent to a Ray worker: {_last_line(error)}") from error

    def _start(self, deadline: float) -> _RayWorker:
        actor = self._kind.remote(self._initializer, str(Path.cwd()))
        return _RayWorker(actor=actor, reference=actor.ready.remote(), deadline=deadline)

    def _send(self, worker: _RayWorker, function: Any, item: Any) -> None:
        worker.reference = worker.actor.run.remote(function, item)

    def _wait(self, workers: list[_RayWorker], timeout: float | None) -> list[_RayWorker]:
        busy = {w.reference: w for w in workers if w.reference is not None}
        done, _ = self._ray.wait(list(busy), num_returns=1, timeout=timeout)
        return [busy[reference] for reference in done]

    def _receive(self, worker: _RayWorker) -> Any:
        errors = self._ray.exceptions
        reference, worker.reference = worker.reference, None
        try:
            result = self._ray.get(reference)
        except errors.RayTaskError as error:
            worker.job = None
            raise error.cause if isinstance(error.cause, Exception) else error from error
        except (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError) as error:
            if not worker.ready and (cause := _raised_at_start(error)):
                raise SetupError(f"Ray workers cannot be set up: {cause}") from error
            raise WorkerLostError("died") from error
        except errors.RayError as error:  # what was sent cannot be made again over there, or the actor not be placed
            worker.job = None
            raise SetupError(f"an item cannot be run by a Ray worker: {_last_line(error)}") from error
        return result if worker.ready else STARTED

    def _end(self, worker: _RayWorker) -> None:
        self._ray.kill(worker.actor, no_restart=True)

    def _start_advice(self) -> str:
        return "does the cluster have a free core, and is Failwise installed on its machines?"


def _raised_at_start(error: Exception) -> str:
    """What the initializer raised, or "" where the worker was lost in another way."""
    return _last_line(error) if getattr(error, "actor_init_failed", False) else ""


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise SetupError("--executor ray needs Ray: pip install 'failwise[ray]'") from error
    return ray
