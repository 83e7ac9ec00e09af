"""One table and one picture of all detectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from failwise.report.page import table_html, write_page
from failwise.report.section import Section

if TYPE_CHECKING:
    from rich.table import Table

GREY, BLUE, ORANGE, RED = "#9aa3ad", "#2f6db3", "#d9822b", "#b3362f"


def table(results: Mapping[str, Any]) -> Table:
    """ROC-AUC at both ends, and what the functional band's alarms came to, as a table for a console.

    Args:
        results: what ``failwise.evaluate.detector_bench.bench`` returns.
    """
    from rich.table import Table

    out = Table(
        "detector", "seen", "unseen", "seen, pooled", "unseen, pooled", "unseen, pooled, final", "false alarms seen",
        "false alarms unseen", "detected unseen",
        title=f"{results['episodes']} episodes, {len(results['tasks'])} tasks; ROC-AUC [95% over tasks] within tasks, "
        "or pooled over them, by earliest stop",
    )  # fmt: skip
    for name, row in _ranked(results):
        seen, unseen = row["seen"], row["unseen"]
        cells = [_auc(part["earliest"][kind]) for kind in ("within_tasks", "roc_auc") for part in (seen, unseen)]
        cells.append(_auc(unseen["final"]["roc_auc"]))
        here, there = (_alarms(row, part, results["alpha"]) for part in ("seen", "unseen"))
        out.add_row(name, *cells, f"{here[0]}/{here[1]}", f"{there[0]}/{there[1]}", f"{there[2]}/{there[3]}")
    return out


def draw(results: Mapping[str, Any], path: Path) -> Path:
    """Write the picture: ranking with intervals, accuracy against detection time, and coverage against its nominal."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ranked = _ranked(results)
    figure, (left, middle, right) = pyplot.subplots(
        1, 3, figsize=(17, 0.34 * len(ranked) + 2.8), width_ratios=(1.5, 1, 1), layout="constrained"
    )
    for y, (_, row) in enumerate(reversed(ranked)):
        for part, colour, shift in (("seen", GREY, 0.14), ("unseen", BLUE, -0.14)):
            auc = row[part]["earliest"]["within_tasks"]
            left.plot([auc["lower"], auc["upper"]], [y + shift] * 2, color=colour, lw=2.2, solid_capstyle="round")
            left.plot(auc["point"], y + shift, "o", color=colour, ms=6, label=f"{part} tasks" if y == 0 else None)
    left.axvline(0.5, color=GREY, lw=1, ls=":")
    left.set_yticks(range(len(ranked)), [name for name, _ in reversed(ranked)])
    left.set_title("ROC-AUC within tasks, by earliest stop, 95% over tasks")
    left.legend(frameon=False, loc="lower right")
    best = [name for name, _ in ranked[:4]] + [name for name, _ in ranked if name == "length"]
    colours = [BLUE, ORANGE, RED, "#4c8c4a", GREY]
    for name, colour in zip(dict.fromkeys(best), colours, strict=False):
        rows = _by_alpha(results["detectors"][name], "unseen")
        accuracy = [_mean([r["balanced_accuracy"] for r in rows[a]]) for a in rows]
        when = [_mean([r["mean_detection"] for r in rows[a]]) for a in rows]
        middle.plot(when, accuracy, "-o", color=colour, ms=4, label=name)
        rate = [sum(r["false_alarms"] for r in rows[a]) / max(1, sum(r["successes"] for r in rows[a])) for a in rows]
        seen = _by_alpha(results["detectors"][name], "seen")
        held = [sum(r["false_alarms"] for r in seen[a]) / max(1, sum(r["successes"] for r in seen[a])) for a in seen]
        right.plot(list(rows), rate, "-o", color=colour, ms=4, label=name)
        right.plot(list(seen), held, "--", color=colour, lw=1.2)
    middle.set(
        title="unseen tasks: accuracy against time of alarm", xlabel="mean time of alarm, share of the episode",
        ylabel="balanced accuracy",
    )  # fmt: skip
    middle.legend(frameon=False)
    right.plot([0, 0.5], [0, 0.5], color=GREY, lw=1, ls=":")
    right.set(
        title="false alarms: unseen (solid), seen (dashed)", xlabel="nominal rate alpha", ylabel="measured rate",
        xlim=(0, 0.52), ylim=(0, 1),
    )  # fmt: skip
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def write_bench_page(results: Mapping[str, Any], picture: Path, path: Path) -> Path:
    """The comparison as one page: findings, the picture, every detector, every task."""
    ranked = _ranked(results)
    name, best = ranked[0]
    seen, unseen = (best[part]["earliest"]["within_tasks"] for part in ("seen", "unseen"))
    sentences = [
        (
            f"{name} tells failures from successes best on tasks that it was not fitted on.",
            f"ROC-AUC within tasks by earliest stop {_auc(unseen)}, on seen tasks {_auc(seen)}.",
        )
    ]
    if "length" in results["detectors"] and name != "length":
        length = results["detectors"]["length"]["unseen"]["earliest"]
        apart = unseen["lower"] > length["within_tasks"]["upper"]
        sentences.append(
            (
                f"{'It' if apart else 'It cannot be said that it'} knows more than the length of the episode.",
                f"The length alone: {_auc(length['within_tasks'])} within tasks, {_auc(length['roc_auc'])} pooled.",
            )
        )
    for part in ("seen", "unseen"):
        false, successes, detected, failures = _alarms(best, part, results["alpha"])
        sentences.append(
            (
                f"{part.capitalize()} tasks: {false} of {successes} successes raised an alarm, nominal "
                f"{results['alpha']:.0%}; {detected} of {failures} failures did.",
                f"Functional band of {name}, all folds together; rates with intervals: "
                f"{_rate(best, part, 'false_alarms')} and {_rate(best, part, 'detected')}.",
            )
        )
    ranking, in_time, alarmed = [], [], []
    timed = any(row["delay"]["functional"]["unseen"]["n"] for _, row in ranked)  # onsets are known
    for label, row in ranked:
        seen, unseen = row["seen"]["earliest"], row["unseen"]["earliest"]
        ranking.append([label, *(_auc(end[kind]) for kind in ("within_tasks", "roc_auc") for end in (seen, unseen))])
        ranking[-1].append(_auc(unseen["pr_auc"]))
        early = [_auc(row["unseen"]["early"][share]) for share in ("0.25", "0.5", "0.75")]
        in_time.append([label, *early, _auc(unseen["roc_auc"]), _auc(row["unseen"]["timestep_accuracy"])])
        rates = [_rate(row, part, name) for name in ("false_alarms", "detected") for part in ("seen", "unseen")]
        alarmed.append([label, *rates, *([_delay(row)] if timed else [])])
    top = ranked[:5]
    tasks = [
        [task, *(f"{row['unseen']['by_task'].get(task, float('nan')):.3f}" for _, row in top)]
        for task in results["tasks"]
    ]
    lead = (
        "<p class='lead'>Each task is unseen in one fold. By earliest stop: every episode is read only for as long as "
        "the shortest one of its task ran, so that no score gains from the length of failures. Within tasks: ROC-AUC "
        "among the episodes of a task, averaged over tasks; pooled: of all episodes of a fold. Intervals are 95%, "
        "by resampling tasks and episodes. In time: when a share of the shortest episode has been seen; accuracy a "
        "step is that of the best threshold on these very episodes.</p>"
    )
    sections = [
        Section(
            "Ranking, time of alarm, coverage", lead, picture, "Ranking of detectors; accuracy against time; coverage"
        ),
        Section(
            "Every detector",
            table_html(
                ["detector", "within, seen", "unseen", "pooled, seen", "unseen", "PR-AUC, unseen"], ranking, "ROC-AUC"
            ),
        ),
        Section(
            "In time, unseen",
            table_html(["detector", "at 25%", "50%", "75%", "100%", "accuracy a step"], in_time, "Pooled ROC-AUC"),
        ),
        Section(
            f"Alarms at {100 * results['alpha']:g}%",
            table_html(
                ["detector", "false, seen", "unseen", "detected, seen", "unseen", *["from the onset"] * timed],
                alarmed,
                "Rates of alarms of the functional band",
            ),
        ),
        Section("Every task, unseen", table_html(["task", *(n for n, _ in top)], tasks, "ROC-AUC of each task")),
    ]
    facts = {
        "episodes": str(results["episodes"]),
        "failures": str(results["failures"]),
        "of them timeouts": str(results["outcomes"].get("timeout", 0)),
        "tasks": str(len(results["tasks"])),
        "calibration successes a fold": ", ".join(map(str, results["calibration_successes"])),
    }
    if any("apart" in row["unseen"] for _, row in ranked):
        apart_rows = [
            [label, *(_auc(row["unseen"]["apart"][kind]) for kind in ("failure", "timeout"))] for label, row in ranked
        ]
        heads = ["detector", "failures against successes", "timeouts against successes"]
        sections.append(Section("Failures and timeouts apart, unseen", table_html(heads, apart_rows, "Kinds of end")))
    return write_page(path, "Failure detectors compared", sentences, facts, sections)


def _ranked(results: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Best first, by unseen tasks and earliest stop."""

    def worth(item: tuple[str, Any]) -> float:
        return -float(np.nan_to_num(item[1]["unseen"]["earliest"]["within_tasks"]["point"]))

    return sorted(results["detectors"].items(), key=worth)


def _by_alpha(row: Mapping[str, Any], part: str) -> dict[float, list[Any]]:
    out: dict[float, list[Any]] = {}
    for one in row["alarms"]:
        if one["kind"] == "functional" and one["part"] == part:
            out.setdefault(one["alpha"], []).append(one)
    return dict(sorted(out.items()))


def _alarms(row: Mapping[str, Any], part: str, alpha: float) -> tuple[int, int, int, int]:
    """False alarms, successes, detected, failures of the functional band over all folds."""
    rows = _by_alpha(row, part)[alpha]
    names = ("false_alarms", "successes", "detected", "failures")
    first, second, third, fourth = (sum(r[name] for r in rows) for name in names)
    return first, second, third, fourth


def _rate(row: Mapping[str, Any], part: str, name: str) -> str:
    """A rate of alarms of the functional band with its interval over tasks."""
    found = row["rates"]["functional"][part].get(name)
    return "none" if found is None else _auc(found)


def _delay(row: Mapping[str, Any]) -> str:
    """When alarms came after an onset that is known."""
    found = row["delay"]["functional"]["unseen"]
    if not found["n"]:
        return "none known"
    after = f"median {found['median_steps']:g} steps ({found['median_s']:g} s), " if "median_s" in found else ""
    return f"{after}{found['before_onset']} of {found['n']} before it"


def _auc(figure: Mapping[str, float]) -> str:
    return f"{figure['point']:.3f} [{figure['lower']:.2f}, {figure['upper']:.2f}]"


def _mean(values: list[float]) -> float:
    kept = [v for v in values if not np.isnan(v)]
    return float(np.mean(kept)) if kept else float("nan")
