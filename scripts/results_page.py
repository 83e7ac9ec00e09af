"""Make the results pages from the figures in docs/results/, so that no figure is typed by hand.

python scripts/results_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_parts import against, interval, measured_with, rate, table
from recovery_page import SUITES, write_recovery

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {  # page -> title, figures, notes
    "results.md": ("Results", "metaworld_improve.json", "notes.md"),
    "results_second_run.md": (
        "Results of the second run",
        "metaworld_improve_second_run.json",
        "notes_second_run.md",
    ),
    "results_third_run.md": (
        "Results of the third run",
        "metaworld_improve_third_run.json",
        "notes_third_run.md",
    ),
    "results_first_run.md": ("Results of the first run", "metaworld_improve_first_run.json", "notes_first_run.md"),
}
DETECTION = {
    "results_detection.md": ("Results of failure detection", "detect.json", "notes_detection.md"),
    "results_detection_all.md": (
        "Results of failure detection on all tasks",
        "detect_all.json",
        "notes_detection_all.md",
    ),
}
MEANING = {  # in the order of the tables
    "base": "behaviour cloning on 39 mixed-quality demonstrations a task",
    "extra": "control: as many further training steps on the same demonstrations",
    "extra-1": "control: as many further training steps on the same demonstrations as one round took",
    "c2": "control: self-imitation of own successes, no failure used",
    "c1": "control: negative guidance by a head that learned successes",
    "fixed": "F: AFIL, constant strength",
    "adaptive": "A: AFIL, strength follows the heads' cosine divergence",
    "gated": "AFIL, strength gated by the risk 1 - V(o)",
    "recovery": "own successes and verified recoveries imitated, unguided",
    "best-of": "best of N chunks by the critic",
    "improved-1": "the agent of round 1",
    "improved-2": "the agent of round 2",
    "improved-3": "the agent of round 3",
}
ORDER = tuple(MEANING)
KINDS, PARTS = ("roc_auc", "within_tasks"), ("seen", "unseen")


def main() -> None:
    """Write the pages whose figures are there."""
    for page, (title, figures, notes) in PAGES.items():
        if (DOCS / "results" / figures).is_file():
            write(DOCS / page, title, DOCS / "results" / figures, DOCS / "results" / notes)
    for page, (title, figures, notes) in DETECTION.items():
        if (DOCS / "results" / figures).is_file():
            write_detection(DOCS / page, title, DOCS / "results" / figures, DOCS / "results" / notes)
    if any((DOCS / "results" / name).is_file() for name in SUITES):
        write_recovery(DOCS / "results_recovery.md", DOCS / "results", DOCS / "results" / "notes_recovery.md")


def write_detection(page: Path, title: str, figures: Path, notes: Path) -> None:
    """The page of the detection experiment."""
    results = json.loads(figures.read_text(encoding="utf-8"))
    machine, alpha = results["machine"], results["alpha"]
    order = sorted(results["detectors"].items(), key=lambda one: -one[1]["unseen"]["earliest"]["roc_auc"]["point"])
    aucs, bands = [], []
    for name, row in order:
        aucs.append([name, *(auc(row[part]["earliest"][kind]) for kind in KINDS for part in PARTS)])
        gained = [row[part]["earliest"]["over_length"] for part in PARTS]
        aucs[-1] += [f"{one['point']:+.2f} [{one['lower']:+.2f}, {one['upper']:+.2f}]" for one in gained]
        aucs[-1] += [rate(row[part]["final"]["roc_auc"]["point"]) for part in PARTS]
        bands.append([name])
        for part in PARTS:
            held = [r for r in row["alarms"] if (r["kind"], r["alpha"], r["part"]) == ("functional", alpha, part)]
            false, wins = sum(r["false_alarms"] for r in held), sum(r["successes"] for r in held)
            found, lost = sum(r["detected"] for r in held), sum(r["failures"] for r in held)
            rates = row["rates"]["functional"][part]
            bands[-1] += [
                f"{rate(false / wins)} {interval(rates['false_alarms'])} ({false}/{wins})",
                f"{rate(found / lost)} {interval(rates['detected'])} ({found}/{lost})",
            ]
    known, rate_alone = results["reference"], results["task_rate"]["roc_auc"]
    parts = [
        f"# {title}",
        f"Made by `python scripts/results_page.py` from [results/{figures.name}](results/{figures.name}); "
        f"the experiment is `{results['command']}`.",
        f"Machine: {machine['cores']} cores, {machine['processor']}, Python {machine['python']}; "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items())
        + f". {results['episodes']} episodes of the compact VLA on {len(results['tasks'])} tasks, "
        f"seeds {results['seeds'][0]} to {results['seeds'][1]}, {results['failures']} failures, "
        f"{results['outcomes'].get('timeout', 0)} of them timeouts; "
        f"{len(results['folds'])} folds, in each of which "
        f"{' or '.join(map(str, sorted({len(fold) for fold in results['folds']})))} tasks are unseen. "
        + left_out(results)
        + "Features: "
        + "; ".join(f"`{kind}`: {', '.join(names)}" for kind, names in by_features(results["features"]).items())
        + ".",
        measured_with(figures),
        "## ROC-AUC",
        "[95% interval over tasks and episodes]. *Pooled* ranks the episodes of all tasks together, as papers do; "
        "*within* is the mean of each task's own figure.",
        table(
            [
                "detector",
                "pooled, seen",
                "unseen",
                "within, seen",
                "unseen",
                "pooled, over length, seen",
                "unseen",
                "pooled at the final end, seen",
                "unseen",
            ],
            aucs,
        ),
        "All but the last two columns are by earliest stop; *over length* is the difference to the steps so far, which "
        "are then one number a task, on the same resamples. For comparison, what the simulator's own success "
        f"conditions tell at that step, which no detector may read: pooled {auc(known['roc_auc'])}, within "
        f"{auc(known['within_tasks'])}. Knowing nothing but how often each seen task failed before: pooled "
        f"{auc(rate_alone)}.",
        f"![every detector](results/{figures.stem}.png)",
        f"## Alarms of the functional band at alpha = {alpha:g}",
        f"Calibrated on {', '.join(map(str, results['calibration_successes']))} successes of seen tasks.",
        table(["detector", "false alarms, seen", "detected, seen", "false alarms, unseen", "detected, unseen"], bands),
        "## Success by task",
        table(
            ["task", "successes"], [[task.split("/")[1], count] for task, count in results["success_by_task"].items()]
        ),
    ]
    if notes.is_file():
        parts.append(notes.read_text(encoding="utf-8").strip())
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def left_out(results: dict[str, Any]) -> str:
    """The tasks that never failed, or never succeeded."""
    names = [f"{task.split('/')[1]} ({results['success_by_task'][task]})" for task in results["left_out"]]
    return f"Left out, as every episode ended alike: {', '.join(names)}. " if names else ""


def by_features(features: dict[str, str]) -> dict[str, list[str]]:
    """Kind of features -> the detectors that read it; the largest group is said to be all others."""
    out: dict[str, list[str]] = {}
    for name, kind in features.items():
        out.setdefault(kind, []).append(f"`{name}`")
    most = max(out, key=lambda kind: len(out[kind]))
    return {**{kind: names for kind, names in out.items() if kind != most}, most: ["all others"]}


def auc(estimate: dict[str, float]) -> str:
    """A figure with its interval."""
    return f"{rate(estimate['point'])} {interval(estimate)}"


def write(page: Path, title: str, figures: Path, notes: Path) -> None:
    """One page from its figures and notes."""
    results = json.loads(figures.read_text(encoding="utf-8"))
    machine, minutes = results["machine"], results["minutes"]
    parts = [
        f"# {title}",
        f"Made by `python scripts/results_page.py` from [results/{figures.name}](results/{figures.name}); "
        f"the experiment is `{results['command']}`.",
        f"Machine: {machine['cores']} cores, {machine['processor']}, Python {machine['python']}; "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items())
        + (f". Minutes: {', '.join(f'{k} {v:g}' for k, v in minutes.items())}" if minutes else "")
        + "."
        + f" Base policy: SHA-256 `{results['base_sha256'][:16]}`.",
        measured_with(figures),
        section("Six tasks", results["six_tasks"]),
    ]
    if results.get("tasks_that_no_choice_saw"):
        text = (
            "The improved agent of the six tasks, run once on two further tasks: no own episode of theirs was "
            "collected, and they took part in no choice. The base was cloned on them like on the others."
        )
        parts.append(section("Two tasks that no choice saw", results["tasks_that_no_choice_saw"], text))
    if notes.is_file():
        parts.append(notes.read_text(encoding="utf-8").strip())
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def section(title: str, run: dict[str, Any], text: str = "") -> str:
    """Arms, tasks, comparisons with base and with each control, and what was chosen."""
    comparison = run["comparison"]
    arms = sorted(comparison["arms"], key=lambda a: ORDER.index(a["arm"]) if a["arm"] in ORDER else 99)
    seeds = comparison["seeds"]
    first = next(iter(seeds.values()))
    lines = [f"## {title}"]
    if text:
        lines += [text]
    lines += [
        f"{first['n']} test seeds a task ({first['first']} to {first['last']}), the same for every arm; "
        f"intervals at {comparison['confidence']:.0%}, exact McNemar, two-sided, Holm over the arms of a table.",
        table(
            ["arm", "what it is", "success", "n", "interval"],
            [
                [
                    a["arm"],
                    MEANING.get(a["arm"], ""),
                    rate(a["pooled"]["rate"]["point"]),
                    a["pooled"]["n"],
                    interval(a["pooled"]["rate"]),
                ]
                for a in arms
            ],
        ),
        table(
            ["success by task", *(a["arm"] for a in arms)],
            [[t.split("/")[1], *(rate(a["tasks"][t]["rate"]["point"]) for a in arms)] for t in seeds],
        ),
        "### Against the base",
        against(comparison),
    ]
    for control in ("extra", "extra-1", "c2", "c1"):
        if f"against_{control}" in run:
            lines += [f"### Against {control} ({MEANING[control]})", against(run[f"against_{control}"])]
    for name, choice in run["choices"].items():
        got, critic = choice["collected"], choice["critic"]
        lines += [
            f"### {name}: collected and chosen",
            f"{got['episodes']} own episodes, {got['successes']} successes, "
            f"{got.get('verified_recoveries', 0)} verified recoveries; held-out AUC of the value model "
            f"{critic['held_out_auc_value']:.3f}; mean divergence of the heads {choice['divergence']:.3f}; chosen: "
            f"`{choice['chosen']}`.",
        ]
        if standings := choice["standings"]:
            rows = [[s["name"], f"{s['successes']}/{s['n']}", rate(s["successes"] / s["n"])] for s in standings]
            lines += [table(["candidate", "validation", "rate"], rows)]
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
