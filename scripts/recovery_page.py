"""The page of the recovery experiments, from the files of docs/results/ named in ``SUITES``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from page_parts import against, interval, measured_with, rate, small, table
from recovery_picture import draw

SUITES = {
    "failsafe.json": "ManiSkill3",
    "failsafe_more.json": "ManiSkill3, three times the failures",
    "failsafe_most.json": "ManiSkill3, five times the failures",
    "failsafe_metaworld.json": "Meta-World",
}
PAPER = {"binary": 0.909, "kind": 0.837, "cosine": 0.652}
JUDGED = {
    "figures": "failures on purpose",
    "own": "own episodes of the policies",
    "mended": "failures that somebody led out of",
}
FIGURES = {
    "binary": "failing or not",
    "auc": "AUC",
    "kind": "mode and axis",
    "type": "type and axis",
    "cosine": "cosine of dA",
    "gripper": "gripper",
    "stage": "sub-task",
}


def write_recovery(page: Path, folder: Path, notes: Path) -> None:
    """One section a suite whose figures are there."""
    parts = [
        "# Results of failures on purpose and recovery",
        "Made by `python scripts/results_page.py` from the files of [results](results) that are named below.",
    ]
    for name, suite in SUITES.items():
        if (folder / name).is_file():
            results = json.loads((folder / name).read_text(encoding="utf-8"))
            picture = page.parent / "images" / f"{Path(name).stem}.png"
            draw(picture, suite, results["comparison"])
            heading, machine, *rest = suite_parts(suite, name, results, f"images/{picture.name}")
            parts += [heading, machine, measured_with(folder / name), *rest]
    if notes.is_file():
        parts.append(notes.read_text(encoding="utf-8").strip())
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def suite_parts(suite: str, name: str, results: Mapping[str, Any], picture: str) -> list[str]:
    """What was made, what is known of it, and what it is worth."""
    machine, minutes = results["machine"], results["minutes"]
    return [
        f"## {suite}",
        f"[results/{name}](results/{name}); `{results['command']}`. Machine: {machine['cores']} cores, "
        f"{machine['processor']}, Python {machine['python']}; "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items())
        + (f". Minutes: {', '.join(f'{k} {v:g}' for k, v in minutes.items())}" if minutes else "")
        + ".",
        "### Failures on purpose",
        made(results["failures"]),
        "### What the recovery actor knows",
        "On layouts that it was not trained on; failing and not failing weigh alike. The paper's model, on its own "
        f"benchmark: failing or not {rate(PAPER['binary'])}, type and axis {rate(PAPER['kind'])}, cosine "
        f"{rate(PAPER['cosine'])}.",
        diagnosis(results["diagnosis"]),
        f"![Success of every arm by task, with its 95% interval]({picture})",
        *(part for policy in results["recovery"] for part in in_the_loop(policy, results)),
        *as_data(results.get("recoveries_as_data")),
        *variants(results.get("variants")),
    ]


def made(failures: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Kept of tried, and verified recoveries, by mode and task."""
    tasks = list(failures)
    modes = sorted({mode for of_task in failures.values() for mode in of_task})
    rows = [[f"`{mode}`", *(tally(failures[task].get(mode)) for task in tasks)] for mode in modes]
    rows.append(["on purpose, all", *(tally(summed(failures[task])) for task in tasks)])
    head = "Kept of those tried, and the verified recoveries that they have; `own` are failures of the policies."
    return f"{head}\n\n" + table(["mode and axis", *(task.split("/")[1] for task in tasks)], rows)


def tally(counts: Mapping[str, int] | None) -> str:
    """What was kept of a mode, tried, and recovered; a dash where the task has none of it."""
    if not counts:
        return "–"
    tried = sum(n for result, n in counts.items() if result not in ("recoveries", "succeeded"))
    return f"{counts.get('kept', 0)} of {tried}, {counts['recoveries']}"


def summed(modes: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The counts of all modes together, without the policies' own failures."""
    out: dict[str, int] = {}
    for counts in (counts for mode, counts in modes.items() if mode != "own"):
        for result, n in counts.items():
            out[result] = out.get(result, 0) + n
    return out


def diagnosis(by_policy: Mapping[str, Mapping[str, Any]]) -> str:
    """Figures of every recovery actor on each kind of episodes."""
    rows = [
        [f"`{policy}`", meaning, *(known(notes[key], name) for name in FIGURES), notes[key]["moments"],
         notes[key]["moves"], notes[key].get("layouts", "")]
        for policy, notes in by_policy.items()
        for key, meaning in JUDGED.items()
        if key in notes
    ]  # fmt: skip
    return table(["eyes of", "on", *FIGURES.values(), "moments", "moves", "layouts"], rows)


def known(figures: Mapping[str, Any], name: str) -> str:
    """A figure, with its interval over layouts where it has one."""
    if math.isnan(figures[name]):
        return "–"  # nothing to judge
    low, high = figures.get("intervals", {}).get(name, (None, None))
    return rate(figures[name]) + (f" [{rate(low)}, {rate(high)}]" if low is not None else "")


def in_the_loop(policy: str, results: Mapping[str, Any]) -> list[str]:
    """Success without, with, and replaced; what the takeovers came to."""
    comparison, recovery = results["comparison"][policy], results["recovery"][policy]
    arms = {a["arm"]: a for a in comparison["arms"]}
    seeds = next(iter(comparison["seeds"].values()))
    rows = []
    for task in [*comparison["seeds"], "all"]:
        of_task = {arm: a["pooled"] if task == "all" else a["tasks"][task] for arm, a in arms.items()}
        rows.append(
            [task.split("/")[-1], *(f"{rate(x['rate']['point'])} {interval(x['rate'])}" for x in of_task.values())]
        )
        rows[-1] += takeovers(recovery[task])
    tried = {arm: counts for arm, counts in results["takeovers"].items() if arm.split("@")[0] == policy}
    taken = results["chosen"][policy].values()
    grid = "; ".join(
        f"{'**' * (arm in taken)}{', '.join(arm.split('@')[1:])}: {won}/{n}{'**' * (arm in taken)}"
        for arm, (won, n) in tried.items()
    )
    by_mode = recovery["all"]["by_mode"]
    modes = ", ".join(f"`{mode}` {mended}/{n}" for mode, (n, mended) in by_mode.items() if n)
    return [
        f"### The {policy} policy with and without its recovery",
        f"{seeds['n']} test seeds a task ({seeds['first']} to {seeds['last']}), the same for every arm; intervals at "
        f"{comparison['confidence']:.0%}. On validation seeds, by threshold and steps of a takeover "
        f"(in bold what was then used; of equals the shyest): {grid}.",
        table(["task", *arms, "taken over", "needless, of successes", "mended, of failures", "spoiled"], rows),
        against(comparison),
        f"Mended of those that fail without it, by the mode that was named at the first takeover: {modes or 'none'}.",
    ]


def takeovers(result: Mapping[str, Any]) -> list[str]:
    """Taken over, needless, mended, spoiled."""
    return [
        f"{result['taken_over']}/{result['pairs']}",
        f"{result['needless']}/{result['successes']}",
        f"{result['mended']}/{result['failures']}",
        str(result["spoiled"]),
    ]


def as_data(comparison: Mapping[str, Any] | None) -> list[str]:
    """Recoveries against further demonstrations, where that was run."""
    if comparison is None:
        return []
    return [
        "### Recoveries as data",
        "The good policy trained on with verified recoveries, against the same number of pictures of further "
        "demonstrations.",
        against(comparison),
    ]


def variants(results: Mapping[str, Any] | None) -> list[str]:
    """What carries over to changed tasks, where that was run."""
    if results is None:
        return []
    rows = []
    for one in results["comparison"]["against"]:
        for task, found in one["tasks"].items():
            gain = found["difference"]
            rows.append([task.split("/")[1], f"{100 * gain['point']:+.1f}",
                         f"[{100 * gain['lower']:+.1f}, {100 * gain['upper']:+.1f}]", found["n"],
                         small(found["p_value"]), *takeovers(results["recovery"][task])])  # fmt: skip
    return [
        "### On variants of the tasks",
        "Other places, another camera view, another object, another arm; nothing was trained on them.",
        table(
            ["task", "points", "interval", "pairs", "p", "taken over", "needless", "mended", "spoiled"],
            rows,
        ),
    ]
