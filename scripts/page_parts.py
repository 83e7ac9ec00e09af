"""Parts of the results pages: tables and figures as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MEASURED_WITH = "measured_with.json"
IMAGES = {
    ("its own", "its own"): "every first image of an episode shows its own layout",
    ("another layout", "its own"): "[the first image](first_image.md) of an episode shows some bodies and markers in "
    "their default place",
    ("another layout", "that task's"): "[the first image](first_image.md) of an episode shows some bodies and markers "
    "in their default place, and is another task's after a change of task",
}


def measured_with(figures: Path) -> str:
    """One line on what the figures of a file were measured with, from ``measured_with.json`` beside it."""
    record = json.loads((figures.parent / MEASURED_WITH).read_text(encoding="utf-8"))[figures.name]
    base = f"base policy `{record['base']}`, whose training precision was not recorded; " if record["base"] else ""
    images = IMAGES[record["first_image"], record["after_another_task"]]
    trained = f"trainings in {record['precision']}"
    if record["precision"] == "not recorded":
        trained = "training precision not recorded (bfloat16 if the processor had AMX)"
    return f"**Measured with**: {base}{trained}; {images}."


def against(comparison: dict[str, Any]) -> str:
    """Every arm against a baseline: difference, interval, won, lost, p."""
    rows = []
    for one in comparison["against"]:
        p = one["pooled"]
        rows.append(
            [
                one["arm"],
                f"{100 * p['difference']['point']:+.1f}",
                f"[{100 * p['difference']['lower']:+.1f}, {100 * p['difference']['upper']:+.1f}]",
                p["won"],
                p["lost"],
                p["n"],
                small(p["p_value"]),
                small(p["p_adjusted"]),
            ]
        )
    return table(["arm", "points", "interval", "won", "lost", "pairs", "p", "p (Holm)"], rows)


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows])


def rate(value: float) -> str:
    """A success rate as .000."""
    return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else "1.000"


def interval(record: dict[str, float]) -> str:
    """An interval of rates."""
    return f"[{rate(record['lower'])}, {rate(record['upper'])}]"


def small(p: float) -> str:
    """A p-value."""
    return "< .0001" if p < 1e-4 else f"{p:.4f}".replace("0.", ".", 1) if p < 1 else "1"
