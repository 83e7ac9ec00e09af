"""Thresholds learned from costs: when to stop, when to ask for help, and how much of alpha to spend in which phase.

A fixed band spends its rate of false alarms wherever scores of successes happen to be largest. Here the episode is cut
into phases, each gets a share of alpha of its own, and a reaction: stop, or ask a person. Shares and reactions are what
costs least on tuning episodes of both outcomes, given what a missed failure, a false stop and a call for help cost.
(The idea of conformal abstention: act, ask or stop by calibrated confidence instead of one fixed alpha.)

The bound stays exact. Thresholds are conformal quantiles of the largest score *within* each phase, from successes that
took no part in the choice; a success raises an alarm in phase p with a probability of at most alpha_p, so in any phase
with at most their sum, which never exceeds ``alpha``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from failwise.detect.conformal import UNREACHABLE, Band, conformal_quantile, smallest_n
from failwise.errors import DataError, SetupError

GRID = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
SWEEPS = 3
NEVER, ALWAYS = UNREACHABLE, -UNREACHABLE  # thresholds that no score reaches, or that every score does


@dataclass(frozen=True)
class Costs:
    """What goes wrong costs, in any one unit."""

    missed: float = 1.0
    """A failure without an alarm."""
    false_stop: float = 0.5
    """An episode stopped that would have succeeded."""
    ask: float = 0.2
    """A call for help, whether it was needed or not; the person then decides rightly."""
    late: float = 0.5
    """Share of ``missed`` that an alarm at the very end of a failure still costs; an earlier one in proportion."""

    def __post_init__(self) -> None:
        for name in ("missed", "false_stop", "ask", "late"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SetupError(f"cost {name} must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True)
class Spending:
    """How alpha is spent.

    Attributes:
        starts: first step of each phase, the first one 0.
        alphas: rate of false alarms allowed in each phase.
        responses: "stop" or "ask" in each phase.
        cost: mean cost an episode on the tuning episodes, cross-validated.
        cost_of_none, cost_of_fixed: the same without any alarm, and for the whole alpha spent evenly on stopping.
    """

    starts: tuple[int, ...]
    alphas: tuple[float, ...]
    responses: tuple[str, ...]
    cost: float
    cost_of_none: float
    cost_of_fixed: float


Episode = tuple[NDArray[np.float64], bool]  # scores (T,), failed


def learn_spending(
    episodes: Sequence[Episode], costs: Costs, alpha: float, *, phases: int = 4, seed: int = 0
) -> Spending:
    """Shares and reactions of the least cost.

    Args:
        episodes: scores (T,) and whether it failed, both outcomes, none of them for calibration later.
        costs: what goes wrong costs.
        alpha: largest rate of false alarms of all phases together.
        phases: of equal length up to the median length of a success; what is longer belongs to one more phase.
        seed: of the halves on which thresholds and costs are estimated in turn.

    Raises:
        DataError: fewer than four successes or no failure. SetupError: alpha or phases out of range.
    """
    if not 0 < alpha < 1 or phases < 1:
        raise SetupError(f"alpha {alpha} must lie between 0 and 1, phases {phases} be at least 1")
    wins = [e for e in episodes if not e[1]]
    if len(wins) < 4 or len(wins) == len(episodes):
        raise DataError(
            f"learning thresholds needs at least 4 successes and 1 failure, got {len(wins)} and "
            f"{len(episodes) - len(wins)}; collect more episodes"
        )
    length = float(np.median([len(s) for s, _ in wins]))
    starts = tuple(sorted({round(length * p / phases) for p in range(phases)} | {round(length)}))
    largest = [_largest(s, starts) for s, _ in episodes]
    order = np.random.default_rng(seed).permutation(len(episodes))
    halves = [order[::2], order[1::2]]

    def cost(alphas: Sequence[float], responses: Sequence[str]) -> float:
        total = 0.0
        for half, other in (halves, halves[::-1]):
            bounds = _bounds([largest[i] for i in half if not episodes[i][1]], alphas)
            total += sum(_cost(episodes[i], starts, bounds, responses, costs) for i in other)
        return total / len(episodes)

    n = len(starts)
    alphas, responses = [0.0] * n, ["stop"] * n
    best = none = cost(alphas, responses)
    for _ in range(SWEEPS):
        for p in reversed(range(n)):  # late alarms are the surest; what is left of alpha goes to earlier ones
            for a, r in product(GRID, ("stop", "ask")):
                tried, reacting = [*alphas[:p], a, *alphas[p + 1 :]], [*responses[:p], r, *responses[p + 1 :]]
                if sum(tried) <= alpha + 1e-12 and (found := cost(tried, reacting)) < best - 1e-12:
                    best, alphas, responses = found, tried, reacting
    fixed = cost([alpha / n] * n, ["stop"] * n)
    return Spending(starts, tuple(alphas), tuple(responses), best, none, fixed)


def spending_band(successes: Sequence[NDArray[np.float64]], spending: Spending, task: str = "") -> Band:
    """The band of a spending: one threshold a phase, from successes that took no part in learning it.

    Raises:
        DataError: no successes.
    """
    if not successes:
        raise DataError("a band needs at least 1 success, got none; collect more episodes")
    bounds = _bounds([_largest(s, spending.starts) for s in successes], spending.alphas)
    steps = np.arange(spending.starts[-1] + 1)
    phase = np.searchsorted(spending.starts, steps, side="right") - 1
    reactions = tuple(zip(spending.starts, spending.responses, strict=True))
    alpha = float(sum(spending.alphas)) or 1e-9  # no alarm at all is a rate of zero
    return Band(np.array(bounds)[phase], np.ones(len(steps)), 0.0, alpha, len(successes), 0, task, reactions)


def fewest_successes(spending: Spending) -> int:
    """Successes that the smallest share needs for a threshold that can be crossed at all."""
    spent = [a for a in spending.alphas if a > 0]
    return max(map(smallest_n, spent), default=1)


def _largest(scores_T: NDArray[np.float64], starts: Sequence[int]) -> list[float]:
    """The largest score within each phase, -inf in one that the episode did not reach."""
    ends = [*starts[1:], max(len(scores_T), starts[-1] + 1)]
    return [float(scores_T[a:b].max(initial=-np.inf)) for a, b in zip(starts, ends, strict=True)]


def _bounds(largest_of_wins: Sequence[Sequence[float]], alphas: Sequence[float]) -> list[float]:
    """One threshold a phase."""
    out = []
    for p, a in enumerate(alphas):
        q = (
            conformal_quantile(np.array([row[p] for row in largest_of_wins]), a)
            if a > 0 and largest_of_wins
            else np.inf
        )
        out.append(float(np.clip(q, ALWAYS, NEVER)))
    return out


def _cost(
    episode: Episode, starts: Sequence[int], bounds: Sequence[float], responses: Sequence[str], costs: Costs
) -> float:  # fmt: skip
    """What one episode costs under these thresholds."""
    scores_T, failed = episode
    phase = np.searchsorted(starts, np.arange(len(scores_T)), side="right") - 1
    above = np.flatnonzero(scores_T > np.array(bounds)[phase])
    if not len(above):
        return costs.missed if failed else 0.0
    at = int(above[0])
    asked = responses[int(phase[at])] == "ask"
    if not failed:
        return costs.ask if asked else costs.false_stop
    return (costs.ask if asked else 0.0) + costs.late * costs.missed * at / len(scores_T)
