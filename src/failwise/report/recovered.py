"""The section on arms with a recovery: how often somebody took over, what that mended, and where it was needless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from failwise.errors import DataError
from failwise.evaluate.recovered import (
    RecoveryResult,
    recovered_arm,
    recovery_by_task,
    recovery_result,
    recovery_sentences,
)
from failwise.evaluate.statistics import clopper_pearson
from failwise.report.section import Section
from failwise.report.templating import template_environment
from failwise.types import EpisodeMeta

ALL = "all tasks"


@dataclass(frozen=True)
class Share:
    """``k`` of ``n`` episodes."""

    k: int
    n: int

    @property
    def text(self) -> str:
        """The rate with its exact 95% interval, "40% [5, 85]"; "" of no episodes."""
        if not self.n:
            return ""
        rate = clopper_pearson(self.k, self.n)
        return f"{100 * rate.point:.0f}% [{100 * rate.lower:.0f}, {100 * rate.upper:.0f}]"


@dataclass(frozen=True)
class Row:
    """One task of an arm, or all. ``shares``: success without and with, taken over, recovered, needless, spoiled."""

    task: str
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Arm:
    """One arm with a recovery. ``modes``: mode -> recovered, in the tasks of ``rows``."""

    name: str
    rows: tuple[Row, ...]
    modes: tuple[tuple[str, tuple[Share, ...]], ...]


def recovered_sections(metas: Sequence[EpisodeMeta]) -> list[Section]:
    """One section on all arms that have a twin with a recovery; none where there is no such pair."""
    suffix = recovered_arm("")
    names = sorted({m.arm.removesuffix(suffix) for m in metas if "takeover" in m.extra and m.arm.endswith(suffix)})
    said, arms = "", []
    for name in names:
        try:
            whole = recovery_result(metas, name)
        except DataError:
            continue  # no plain twin: nothing to judge it by
        said += "".join(f"<li>{escape(sentence)}</li>" for sentence in recovery_sentences(whole))
        arms.append(arm_of(whole, recovery_by_task(metas, name)))
    if not arms:
        return []
    tables = template_environment().get_template("recovered.html").render(arms=arms)
    return [Section("With a recovery in the loop", f"<ul>{said}</ul>{tables}")]


def arm_of(whole: RecoveryResult, by_task: dict[str, RecoveryResult]) -> Arm:
    """The tables of one arm; all tasks together come first where there are several."""
    results = {**({ALL: whole} if len(by_task) > 1 else {}), **by_task}
    return Arm(
        name=recovered_arm(whole.arm),
        rows=tuple(Row(task, _shares(result)) for task, result in results.items()),
        modes=tuple(
            (mode.replace("_", " "), tuple(_recovered(result, mode) for result in results.values()))
            for mode in whole.by_mode
        ),
    )


def _shares(r: RecoveryResult) -> tuple[Share, ...]:
    return (
        Share(r.successes, r.pairs),
        Share(r.successes + r.mended - r.spoiled, r.pairs),
        Share(r.taken_over, r.pairs),
        Share(r.mended, r.failures),
        Share(r.needless, r.successes),
        Share(r.spoiled, r.successes),
    )


def _recovered(result: RecoveryResult, mode: str) -> Share:
    n, mended = result.by_mode.get(mode, (0, 0))
    return Share(mended, n)
