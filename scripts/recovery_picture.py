"""The picture of the recovery experiment: success of every arm, task by task, with exact intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Of those that tell people with any kind of colour vision apart (Okabe and Ito).
STYLES = {
    "": ("as it is", "#000000", "o"),
    "+move": ("one corrective move", "#56b4e9", "v"),
    "+recover": ("its recovery takes over", "#d55e00", "s"),
    "+lent": ("the other's recovery takes over", "#cc79a7", "D"),
    "-replaced": ("its recovery policy alone", "#009e73", "^"),
}
BESIDE = 0.15  # between the arms of a task


def draw(path: Path, suite: str, comparisons: Mapping[str, Mapping[str, Any]]) -> None:
    """One panel a policy, tasks from left to right, "all" at the end.

    Args:
        path: of the picture.
        suite: its name.
        comparisons: policy -> its comparison, as in the files of figures.
    """
    width = sum(len(c["seeds"]) + 1 for c in comparisons.values())
    shares = [len(c["seeds"]) + 1 for c in comparisons.values()]
    figure, panels = plt.subplots(
        1,
        len(comparisons),
        figsize=(max(9.0, 1.5 + 1.25 * width), 3.6),
        sharey=True,
        squeeze=False,
        width_ratios=shares,
    )
    for panel, (policy, comparison) in zip(panels[0], comparisons.items(), strict=True):
        tasks = [*comparison["seeds"], "all"]
        arms = comparison["arms"]
        for i, arm in enumerate(arms):
            label, colour, marker = STYLES[arm["arm"].removeprefix(policy)]
            rates = [arm["pooled"]["rate"] if task == "all" else arm["tasks"][task]["rate"] for task in tasks]
            points = [r["point"] for r in rates]
            away = [[r["point"] - r["lower"] for r in rates], [r["upper"] - r["point"] for r in rates]]
            at = [x + (i - (len(arms) - 1) / 2) * BESIDE for x in range(len(tasks))]
            panel.errorbar(at, points, away, fmt=marker, color=colour, label=label, markersize=5, elinewidth=1.2)
        panel.axvline(len(tasks) - 1.5, color="#999999", linewidth=0.8, linestyle=":")
        panel.set_xticks(range(len(tasks)), [task.split("/")[-1].removesuffix("-v1") for task in tasks])
        panel.set_title(f"{suite}, the {policy} policy", fontsize=10)
        panel.set_ylim(-0.03, 1.03)  # markers at the ends are drawn whole
        panel.grid(axis="y", linewidth=0.4)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("success")
    told = {label: line for panel in panels[0] for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(told.values(), told.keys(), loc="lower center", ncols=len(told), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(path, dpi=110, metadata={"Software": None})  # the same bytes from the same figures
    plt.close(figure)
