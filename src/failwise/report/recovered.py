"""The section on arms with a recovery: how often somebody took over, what that mended, and where it was needless."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from failwise.errors import DataError
from failwise.evaluate.recovered import (
    RecoveryResult,
    recovered_arm,
    recovery_by_task,
    recovery_result,
    recovery_sentences,
)
from failwise.evaluate.statistics import Interval
from failwise.report.page import table_html
from failwise.report.section import Section
from failwise.types import EpisodeMeta

ALL = "all tasks"
LEAD = (
    "Each episode with a recovery beside the same task and layout without. <strong>Taken over</strong>: of all pairs. "
    "<strong>Recovered</strong>: of the episodes that fail without it. <strong>Needless</strong>: of the episodes that "
    "succeed without it, those with a takeover; <strong>spoiled</strong>: those that then did not succeed. "
    "In brackets exact intervals, 95%."
)
BY_MODE = (
    "Episodes that fail without a recovery and were taken over, by the mode that was named at the first takeover; that "
    "says what was believed, not what it was."
)


def recovered_sections(metas: Sequence[EpisodeMeta]) -> list[Section]:
    """One section on all arms that have a twin with a recovery; none where there is no such pair."""
    suffix = recovered_arm("")
    arms = sorted({m.arm.removesuffix(suffix) for m in metas if "takeover" in m.extra and m.arm.endswith(suffix)})
    said, rows, modes = [], [], []
    for arm in arms:
        try:
            whole = recovery_result(metas, arm)
        except DataError:
            continue  # no plain twin: nothing to judge it by
        said += recovery_sentences(whole)
        tasks = recovery_by_task(metas, arm)
        for task, result in {**({ALL: whole} if len(tasks) > 1 else {}), **tasks}.items():
            rows.append(_row(task, result))
            modes += [
                [recovered_arm(arm), task, mode.replace("_", " "), str(n), str(mended), rate_text(rate)]
                for (mode, (n, mended)), rate in zip(result.by_mode.items(), result.mode_rates.values(), strict=True)
            ]
    if not rows:
        return []
    heads = [
        "arm",
        "task",
        "pairs",
        "success without",
        "success with",
        "taken over",
        "recovered",
        "needless",
        "spoiled",
    ]
    html = f"<ul>{''.join(f'<li>{escape(s)}</li>' for s in said)}</ul><p class='lead'>{LEAD}</p>"
    html += table_html(heads, rows, "With and without recovery, by arm and task")
    if modes:
        html += f"<h3>By mode</h3><p class='lead'>{BY_MODE}</p>"
        columns = ["arm", "task", "mode", "failing, taken over", "recovered", "rate"]
        html += table_html(columns, modes, "Recovered, by the mode named first")
    return [Section("With a recovery in the loop", html)]


def rate_text(rate: Interval | None) -> str:
    """A rate with its interval in per cent, or a dash where there was nothing to count."""
    if rate is None:
        return "\N{EN DASH}"
    return f"{100 * rate.point:.0f}% [{100 * rate.lower:.0f}, {100 * rate.upper:.0f}]"


def _row(task: str, result: RecoveryResult) -> list[str]:
    counts = (
        (result.taken_over, result.pairs, result.intervention_rate),
        (result.mended, result.failures, result.recovery_rate),
        (result.needless, result.successes, result.needless_rate),
        (result.spoiled, result.successes, result.spoiled_rate),
    )
    after = result.successes + result.mended - result.spoiled
    told = [f"{n} of {of}, {rate_text(rate)}" if of else rate_text(rate) for n, of, rate in counts]
    return [recovered_arm(result.arm), task, str(result.pairs), str(result.successes), str(after), *told]
