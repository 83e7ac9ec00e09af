"""The figures of the recovery experiment, from what its stages left on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from failwise.evaluate.recovered import recovered_arm, recovery_result
from failwise.generate import Attempt, read_attempts
from failwise.store import EpisodeStore
from figures_of import REPOSITORY, machine


def write_results(name: str, out: Path, settings: Mapping[str, Any], arms: Sequence[str]) -> None:
    """docs/results/NAME.json: yields by mode, figures of the diagnosis, and the pairs with and without recovery."""
    minutes = out / "minutes.json"
    about = json.loads((out / "recovery" / "recovery.json").read_text(encoding="utf-8"))
    results: dict[str, Any] = {
        "experiment": "failures_on_purpose",
        "command": f"python recipes/failures_on_purpose.py --suite {settings['suite']}",
        **machine(),
        "minutes": json.loads(minutes.read_text(encoding="utf-8")),
        "settings": settings,
        "failures": yields(read_attempts(out / "failures")),
        "diagnosis": about["notes"],
        "arms": [name for arm in arms for name in (arm, recovered_arm(arm))],
        "recovery": {name: pairs(out / "proof", name) for name in arms},
        "comparison": json.loads((out / "proof" / "comparison.json").read_text(encoding="utf-8")),
    }
    if (data := out / "data" / "comparison.json").is_file():
        results["recoveries_as_data"] = json.loads(data.read_text(encoding="utf-8"))
    if (variants := out / "variants" / "comparison.json").is_file():
        results["variants"] = {
            "recovery": pairs(variants.parent, arms[-1]),
            "comparison": json.loads(variants.read_text(encoding="utf-8")),
        }
    path = REPOSITORY / "docs" / "results" / f"{name}.json"
    path.write_text(json.dumps(results, indent=1).replace(f"{out}/", "") + "\n", encoding="utf-8")
    print(path)


def pairs(folder: Path, arm: str) -> dict[str, Any]:
    """What taking over came to for an arm, over all tasks and for each."""
    metas = EpisodeStore(folder / "episodes", create=False).metas()
    by_task = {task: [m for m in metas if m.env_id == task] for task in sorted({m.env_id for m in metas})}
    return {
        "all": asdict(recovery_result(metas, arm)),
        **{task: asdict(recovery_result(mine, arm)) for task, mine in by_task.items()},
    }


def yields(attempts: list[Attempt]) -> dict[str, dict[str, dict[str, int]]]:
    """Task -> mode -> what came of its attempts, and how many recoveries were verified."""
    out: dict[str, dict[str, Counter[str]]] = {}
    for attempt in attempts:
        mode = attempt.cell.split(".")[0]  # with its axis, as FailSafe counts failure types
        tally = out.setdefault(attempt.env_id, {}).setdefault(mode, Counter())
        tally[attempt.result] += 1
        tally["recoveries"] += attempt.corrections
    return {task: {mode: dict(tally) for mode, tally in sorted(modes.items())} for task, modes in out.items()}
