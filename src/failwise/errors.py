"""What stops a run before it starts, what is recorded as a failed episode, and what halts everything.

Three families, by what the caller must do:

* ``SetupError`` (and its children): raised before any episode starts. The command line prints it as one line and
  exits with code 2. Every message says what was wrong, where, and what to do.
* ``EpisodeError``: one episode cannot go on (a simulator diverged, a policy returned NaN). The rollout records the
  episode with the outcome ``error`` and goes on with the next item.
* ``StoreError``: what is on disk is not what was written, or nothing can be written. Halts everything, because going
  on could lose data.
"""

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 60  # names in a message; a line that nobody reads to its end hides what it has to say


class FailwiseError(Exception):
    """Base of every error that Failwise raises on purpose."""


class SetupError(FailwiseError):
    """The request cannot run as asked. Nothing has been done yet."""


class UnknownNameError(SetupError):
    """A name that no plugin answers to. The message lists the choices, nearest first."""

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        known = sorted(choices)
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        shown = known if len(known) <= _LISTED else [*known[:_LISTED], f"and {len(known) - _LISTED} more"]
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(shown) or 'none'}.")
        self.kind, self.name, self.choices = kind, name, known


class CheckpointError(SetupError):
    """A policy, critic or agent folder is missing, incomplete, or of another architecture."""


class DataError(SetupError):
    """Recorded data is not fit for the request: no failures, no successes, too few episodes, other shapes."""


class MissingDependencyError(SetupError):
    """An optional package or system library is absent. The message carries the exact line that installs it."""


class UnreachableError(SetupError):
    """A server that is needed does not answer. It stops a run before it starts; later it costs the episodes only."""


class EpisodeError(FailwiseError):
    """This episode cannot go on; it is recorded with the outcome ``error`` and the run continues."""


class WireError(FailwiseError):
    """A message from the other end of a connection is not what the protocol allows. It ends that connection only."""


class StoreError(FailwiseError):
    """The episode store is damaged or cannot be written; going on could lose data."""
