"""The one place that words verdicts. No sentence here says "better" or "worse" unless the exact test does.

The words follow ``p_adjusted``: with several arms (or several tasks of one arm) Holm's correction decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from failwise.evaluate.records import FIXED_TEST, ArmResult, Comparison, PairedResult
from failwise.evaluate.sequential import fewest_pairs
from failwise.evaluate.statistics import Interval


class Finding(StrEnum):
    """What the exact test allows to be said about an arm and the baseline."""

    BETTER = "better"
    WORSE = "worse"
    CANNOT_TELL = "cannot tell"
    TOO_FEW = "too few pairs"


def finding(result: PairedResult) -> Finding:
    """What ``result`` shows, at the level that its interval's confidence leaves."""
    level = 1 - result.difference.confidence
    if result.n < fewest_pairs(level, result.test != FIXED_TEST):
        return Finding.TOO_FEW
    if result.p_adjusted > level + 1e-12:
        return Finding.CANNOT_TELL
    return Finding.BETTER if result.won > result.lost else Finding.WORSE


@dataclass(frozen=True)
class Statement:
    """A verdict in words: what is claimed, and on what evidence."""

    claim: str
    evidence: str

    @property
    def text(self) -> str:
        """Both in one sentence."""
        return f"{self.claim}: {self.evidence}."


def verdict(arm: str, baseline: str, result: PairedResult) -> str:
    """One sentence on an arm against the baseline, with effect, interval, test and number of pairs."""
    return statement(arm, baseline, result).text


def statement(arm: str, baseline: str, result: PairedResult) -> Statement:
    """What ``verdict`` says of an arm against the baseline, claim and evidence apart."""
    found = finding(result)
    pairs = f"n = {result.n} pair{'' if result.n == 1 else 's'}"
    if found is Finding.TOO_FEW:
        least = fewest_pairs(1 - result.difference.confidence, result.test != FIXED_TEST)
        return Statement(
            f"Too few pairs to compare {arm} with {baseline}", f"{pairs}, and a verdict needs at least {least}"
        )
    evidence = f"{points(result.difference)}, {_test(result)}, {pairs}"
    if found is not Finding.CANNOT_TELL:
        return Statement(f"{arm} is {found} than {baseline}", evidence)
    plan = f"; {_plan(result)}" if result.test == FIXED_TEST else ""  # what is planned for is the fixed test
    return Statement(f"Cannot tell {arm} from {baseline}", f"{evidence}{plan}")


def verdicts(comparison: Comparison) -> list[str]:
    """One sentence for each arm against the baseline; where nothing is compared, each arm's success rate."""
    return [each.text for each in statements(comparison)]


def statements(comparison: Comparison) -> list[Statement]:
    """What ``verdicts`` says, claims and evidence apart, in the same order."""
    if comparison.baseline is None or not comparison.against:
        return [_rate_statement(arm) for arm in comparison.arms]
    return [statement(one.arm, comparison.baseline, one.pooled) for one in comparison.against]


def figures(comparison: Comparison) -> dict[str, float | str]:
    """A comparison in figures, for trackers: ``ARM/success`` with its interval, ``ARM/difference``, ``ARM/verdict``."""
    found: dict[str, float | str] = {}
    for arm in comparison.arms:
        found |= {f"{arm.arm}/episodes": float(arm.pooled.n), **_bounds(f"{arm.arm}/success", arm.pooled.rate)}
    for one, sentence in zip(comparison.against, verdicts(comparison) if comparison.against else (), strict=True):
        found |= _bounds(f"{one.arm}/difference", one.pooled.difference)
        found |= {f"{one.arm}/p_adjusted": one.pooled.p_adjusted, f"{one.arm}/verdict": sentence}
    return found


def rate_sentence(arm: ArmResult) -> str:
    """An arm's success rate in words, with its interval."""
    return _rate_statement(arm).text


def _rate_statement(arm: ArmResult) -> Statement:
    pooled = arm.pooled
    over = f" over {len(arm.tasks)} tasks" if len(arm.tasks) > 1 else ""
    episodes = f"{pooled.n} episode{'' if pooled.n == 1 else 's'}"
    return Statement(f"{arm.arm} succeeded in {pooled.successes} of {episodes}{over}", percent(pooled.rate))


def points(difference: Interval) -> str:
    """A difference of rates in percentage points: ``+12.3 points [+5.1, +19.4]``."""
    return f"{_signed(difference.point)} points [{_signed(difference.lower)}, {_signed(difference.upper)}]"


def percent(rate: Interval) -> str:
    """A rate in percent: ``61.7% [57.6, 65.6]``."""
    return f"{100 * rate.point:.1f}% [{100 * rate.lower:.1f}, {100 * rate.upper:.1f}]"


def p_text(p: float) -> str:
    """A p-value without its leading zero: ``= .0004``, ``< .0001``, ``= 1``."""
    if p < 0.0001:
        return "< .0001"
    rounded = f"{p:.4f}" if p < 0.01 else f"{p:.3f}"
    return f"= {'1' if rounded == '1.000' else rounded.removeprefix('0')}"


def _bounds(name: str, found: Interval) -> dict[str, float]:
    return {name: found.point, f"{name}_lower": found.lower, f"{name}_upper": found.upper}


def _test(result: PairedResult) -> str:
    holm = "" if result.family == 1 else f" (Holm over {result.family} tests)"
    return f"{result.test} p {p_text(result.p_adjusted)}{holm}"


def _plan(result: PairedResult) -> str:
    target = f"{100 * result.target_difference:.0f} points"
    if result.n >= result.pairs_needed:
        return f"these would show a true difference of {target} with power .8"
    needed = result.pairs_needed if result.pairs_needed < 100 else round(result.pairs_needed, -1)
    return f"about {needed} pairs would be needed to see {target} with power .8"


def _signed(rate: float) -> str:
    text = f"{100 * rate:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if text[1:] == "0.0" else text
