"""Choosing among candidates by successive halving on validation seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from failwise.types import EpisodeMeta, Outcome

Run = Callable[[Sequence[str], Sequence[int]], Sequence[EpisodeMeta]]
"""Runs the named candidates on seeds and returns their episodes (``arm`` is the candidate's name)."""


@dataclass(frozen=True)
class Standing:
    """How a candidate did: successes out of n episodes over all rungs that it took part in."""

    name: str
    successes: int
    n: int

    @property
    def rate(self) -> float:
        """Success rate with one success and one failure added, so that 3 of 3 does not beat 90 of 100."""
        return (self.successes + 1) / (self.n + 2)


def successive_halving(names: Sequence[str], rungs: Sequence[Sequence[int]], run: Run) -> list[Standing]:
    """Run all candidates on the first rung's seeds, the better half also on the next rung's, and so on.

    Args:
        names: candidates; earlier ones win ties, so put the simplest first.
        rungs: seeds of each rung, disjoint.
        run: runs candidates on seeds.

    Returns:
        All standings, best first: by the rung reached, then by rate over all seeds seen.
    """
    counts: dict[str, tuple[int, int]] = dict.fromkeys(names, (0, 0))
    reached = dict.fromkeys(names, 0)
    alive = list(names)
    for i, seeds in enumerate(rungs):
        for meta in run(alive, seeds):
            won, n = counts[meta.arm]
            counts[meta.arm] = (won + (meta.outcome == Outcome.SUCCESS), n + 1)
        for name in alive:
            reached[name] = i
        alive = _ranked(alive, counts, reached, names)[: max(1, ceil(len(alive) / 2))]
    return [Standing(name, *counts[name]) for name in _ranked(names, counts, reached, names)]


def _ranked(
    alive: Sequence[str],
    counts: Mapping[str, tuple[int, int]],
    reached: Mapping[str, int],
    order: Sequence[str],
) -> list[str]:
    def key(name: str) -> tuple[int, float, int]:
        return (-reached[name], -Standing(name, *counts[name]).rate, order.index(name))

    return sorted(alive, key=key)
