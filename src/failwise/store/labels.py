"""What people say of episodes afterwards. Episodes never change, so it lies beside them: one line a label, appended."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from failwise.errors import StoreError
from failwise.store.naming import LABELS
from failwise.types import FailureEvent


class Labels:
    """The labels of a store: added and taken back by appending, so that nothing said is lost.

    Several processes may write at once. A line that a crash tore is left out.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / LABELS
        self._seen: tuple[int, int] = (-1, -1)
        self._events: dict[str, list[FailureEvent]] = {}
        self._ever: dict[str, list[FailureEvent]] = {}  # those that were taken back too

    def of(self, episode_id: str) -> tuple[FailureEvent, ...]:
        """The labels of an episode, oldest first."""
        self._catch_up()
        return tuple(self._events.get(episode_id, ()))

    def add(self, episode_id: str, event: FailureEvent) -> None:
        """Label an episode. Saying the same twice is saying it once."""
        if event not in self.of(episode_id):
            self._append({"episode": episode_id, "event": event.model_dump(mode="json")})

    def adopt(self, episode_id: str, event: FailureEvent) -> None:
        """Take a label over from another store, unless it was said here before: what was taken back stays so."""
        self._catch_up()
        if event not in self._ever.get(episode_id, ()):
            self._append({"episode": episode_id, "event": event.model_dump(mode="json")})

    def remove(self, episode_id: str, event: FailureEvent) -> None:
        """Take a label back."""
        if event in self.of(episode_id):
            self._append({"episode": episode_id, "event": event.model_dump(mode="json"), "removed": True})

    def _append(self, line: dict[str, object]) -> None:
        try:
            with self._path.open("ab", buffering=0) as file:
                torn = file.tell() > 0 and not self._path.read_bytes().endswith(b"\n")
                content = (b"\n" if torn else b"") + json.dumps(line).encode() + b"\n"
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"cannot write {self._path}: {error.strerror or error}; make the folder writable"
            ) from error

    def _catch_up(self) -> None:
        try:
            status = self._path.stat()
            stamp = (status.st_size, status.st_mtime_ns)
            if stamp == self._seen:
                return
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            self._seen, self._events, self._ever = (-1, -1), {}, {}
            return
        except OSError as error:
            raise StoreError(f"cannot read {self._path}: {error.strerror or error}") from error
        events: dict[str, list[FailureEvent]] = {}
        ever: dict[str, list[FailureEvent]] = {}
        for line in lines:
            with suppress(ValueError, KeyError, TypeError, ValidationError):
                said = json.loads(line)
                event = FailureEvent.model_validate(said["event"])
                ever.setdefault(str(said["episode"]), []).append(event)
                known = events.setdefault(str(said["episode"]), [])
                if said.get("removed"):
                    with suppress(ValueError):
                        known.remove(event)
                elif event not in known:
                    known.append(event)
        self._seen, self._events, self._ever = stamp, events, ever
