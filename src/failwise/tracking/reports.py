"""Reports of a run, and the trackers that receive them: none, unless ``tracked`` has begun some.

A process has one set of trackers at a time, so that a training loop reports without being handed any. Worker processes
have none: their results are reported where they arrive. What fails in a tracker costs a warning, never the run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from failwise.errors import FailwiseError, MissingDependencyError, SetupError, UnknownNameError

TRACKERS = {
    "tensorboard": ("failwise.tracking.tensorboard_file", "TensorBoardFile"),
    "trackio": ("failwise.tracking.trackio_run", "TrackioRun"),
    "wandb": ("failwise.tracking.wandb_run", "WandbRun"),
}
"""Name -> module and class. The module imports the library, so that nothing is loaded unless it was asked for."""


@dataclass(frozen=True)
class Run:
    """What a tracker is told at the beginning.

    Attributes:
        name: what is done, e.g. "train bc".
        out: folder of the results.
        config: the options, as plain as JSON.
    """

    name: str
    out: Path
    config: Mapping[str, Any] = field(default_factory=dict)


class Tracker(Protocol):
    """Receives the reports of one run. It is made from a ``Run``, and may raise whatever it likes."""

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """Take values at a step; each series counts steps of its own."""
        ...

    def close(self, summary: Mapping[str, float | str], completed: bool) -> None:
        """Take the final figures and end; ``completed`` is False where the run was stopped or failed."""
        ...


@contextmanager
def tracked(names: Sequence[str], run: Run) -> Iterator[None]:
    """Pass what is reported meanwhile to the trackers of these names.

    Args:
        names: of ``TRACKERS``; none of them is fine.
        run: what they are told first.

    Raises:
        UnknownNameError: no tracker of that name.
        MissingDependencyError: its library is not installed.
        SetupError: it cannot begin.
    """
    global _current
    before, _current = _current, _begin(names, run)
    completed = False
    try:
        yield
        completed = True
    finally:
        ended, _current = _current, before
        for tracker in ended.trackers:
            tracker.close(ended.summary, completed)


@contextmanager
def within(part: str) -> Iterator[None]:
    """Put a part's name before the names of all series and figures that are reported meanwhile."""
    parts = _current.parts
    parts.append(part)
    try:
        yield
    finally:
        parts.pop()


def report(series: str, step: int, values: Mapping[str, float]) -> None:
    """Report values at a step, for instance the loss of a training; each series counts steps of its own."""
    if _current.trackers:
        plain = {name: float(value) for name, value in values.items()}
        for tracker in _current.trackers:
            tracker.log(_current.named(series), step, plain)


def summarise(figures: Mapping[str, float | str]) -> None:
    """Report final figures; a later one takes the place of an earlier one of the same name."""
    if _current.trackers:
        _current.summary |= {_current.named(name): value for name, value in figures.items()}


class _Guarded:
    """A tracker that is left alone after its first failure."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker, self._failed = name, tracker, False

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        if not self._failed:
            try:
                self._tracker.log(series, step, values)
            except Exception as error:
                self._give_up(error)

    def close(self, summary: Mapping[str, float | str], completed: bool) -> None:
        try:
            self._tracker.close(summary, completed)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            print(f"failwise: warning: {self._name} takes no reports any more: {_line(error)}", file=sys.stderr)


@dataclass
class _Reports:
    trackers: Sequence[_Guarded] = ()
    parts: list[str] = field(default_factory=list)
    summary: dict[str, float | str] = field(default_factory=dict)

    def named(self, name: str) -> str:
        return "/".join([*self.parts, name])


_current = _Reports()


def _begin(names: Sequence[str], run: Run) -> _Reports:
    wanted = list(dict.fromkeys(names))
    kinds = [_load(name) for name in wanted]  # all of them, before the first writes anything
    begun: list[_Guarded] = []
    try:
        for name, kind in zip(wanted, kinds, strict=True):
            begun.append(_Guarded(name, kind(run)))
    except Exception as error:
        for tracker in begun:
            tracker.close({}, completed=False)
        if isinstance(error, FailwiseError):
            raise
        raise SetupError(f"--track {name} cannot begin: {_line(error)}") from error
    return _Reports(begun)


def _load(name: str) -> Any:
    if name not in TRACKERS:
        raise UnknownNameError("tracker", name, TRACKERS)
    module, kind = TRACKERS[name]
    try:
        return getattr(import_module(module), kind)
    except ImportError as error:
        raise MissingDependencyError(f"--track {name} needs its library: pip install 'failwise[{name}]'") from error


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
