"""How far a run of episodes is: done of total, success rate so far, rate, time left; and each arm's, for trackers."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from failwise.tracking import report
from failwise.types import EpisodeMeta, Outcome

T = TypeVar("T")
_LINE_EVERY_S = 15.0


def track(
    results: Iterable[T],
    *,
    total: int,
    done: int = 0,
    title: str = "",
    quiet: bool = False,
    successes: int = 0,
    outcomes: bool = True,
) -> Iterator[T]:
    """Pass results through and show progress: a bar on a terminal, else a line about every 15 s, on stderr.

    Args:
        results: a result with an ``outcome`` equal to "success" counts as a success.
        total: items in all.
        done: how many of them were done before.
        title: what is being run.
        quiet: show nothing.
        successes: how many of those done before were successes.
        outcomes: whether the results are episodes, whose share of successes is worth showing.
    """
    if quiet:
        yield from results
        return
    count = _Count(total, done, successes, outcomes)
    shown = _bar(results, count, title) if sys.stderr.isatty() else _lines(results, count, title)
    yield from shown


class Tally:
    """How the episodes of each arm ended, reported to the trackers as they end.

    Args:
        done: the episodes that the store holds already. Steps count on from them, so that a run that is resumed
            draws on the same curve.
    """

    def __init__(self, done: Iterable[EpisodeMeta] = ()) -> None:
        self._counts: dict[str, Counter[Outcome]] = defaultdict(Counter)
        for meta in done:
            self._counts[meta.arm][meta.outcome] += 1

    def add(self, meta: EpisodeMeta) -> None:
        """Count an episode. A step is one episode of its arm."""
        counts = self._counts[meta.arm]
        counts[meta.outcome] += 1
        n = counts.total()
        ended = {str(outcome): counts[outcome] for outcome in Outcome}
        report(f"episodes/{meta.arm}", n, {"success_rate": counts[Outcome.SUCCESS] / n, **ended})


class _Count:
    def __init__(self, total: int, done: int, successes: int, outcomes: bool) -> None:
        self.outcomes = outcomes
        self.total, self.before, self.done, self.successes = total, done, done, successes
        self.begun = time.monotonic()

    def add(self, result: Any) -> None:
        self.done += 1
        self.successes += getattr(result, "outcome", None) == "success"

    @property
    def rate(self) -> float:
        """Items a second in this run, without those done before."""
        return (self.done - self.before) / max(time.monotonic() - self.begun, 1e-6)

    @property
    def success(self) -> str:
        if not self.outcomes:
            return ""
        return f"success {100 * self.successes / self.done:.0f}%" if self.done else "success -"

    @property
    def speed(self) -> str:
        return f"{self.rate:.2f}/s" if self.rate >= 0.1 or not self.rate else f"{1 / self.rate:.0f} s each"

    @property
    def left(self) -> str:
        if self.rate == 0.0:
            return "-:-- left"
        minutes, seconds = divmod(round((self.total - self.done) / self.rate), 60)
        hours, minutes = divmod(minutes, 60)
        return (f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}") + " left"


def _bar(results: Iterable[T], count: _Count, title: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(f"{{task.fields[{name}]}}") for name in ("success", "speed", "left")]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(
            title,
            total=count.total,
            completed=count.done,
            success=count.success,
            speed="-/s",
            left="-:-- left",
        )
        for result in results:
            count.add(result)
            progress.update(bar, completed=count.done, success=count.success, speed=count.speed, left=count.left)
            yield result


def _lines(results: Iterable[T], count: _Count, title: str) -> Iterator[T]:
    told = time.monotonic()
    for result in results:
        count.add(result)
        if time.monotonic() - told >= _LINE_EVERY_S or count.done == count.total:
            told = time.monotonic()
            parts = (f"{count.done}/{count.total}", count.success, count.speed, count.left)
            print(f"{title}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)
        yield result
