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
from failwise.types import EpisodeMeta, Outcome
from figures_of import REPOSITORY, machine, without_seed_lists


def write_results(name: str, out: Path, settings: Mapping[str, Any], arms: Sequence[str]) -> None:
    """docs/results/NAME.json: yields by mode, figures of the diagnosis, and the pairs with and without recovery."""
    minutes = out / "minutes.json"
    results: dict[str, Any] = {
        "experiment": "failures_on_purpose",
        "command": f"python recipes/failures_on_purpose.py --suite {settings['suite']}",
        **machine(),
        "minutes": read(minutes),
        "settings": settings,
        "failures": yields(read_attempts(out / "failures")),
        "diagnosis": {name: read(out / f"recovery-{name}" / "recovery.json")["notes"] for name in arms},
        "arms": [name for arm in arms for name in (arm, recovered_arm(arm))],
        "takeovers": (tried := validation(out / "validation")),
        "chosen": {name: chosen(tried, name) for name in arms},
        "recovery": {name: pairs(out / f"proof-{name}", name) for name in arms},
        "comparison": {name: compared(out / f"proof-{name}") for name in arms},
    }
    if (data := out / "data").is_dir():
        results["recoveries_as_data"] = compared(data)
    if (variants := out / "variants").is_dir():
        results["variants"] = {"recovery": pairs(variants, arms[-1]), "comparison": compared(variants)}
    path = REPOSITORY / "docs" / "results" / f"{name}.json"
    path.write_text(json.dumps(results, indent=1).replace(f"{out}/", "") + "\n", encoding="utf-8")
    print(path)


def read(path: Path) -> Any:
    """A file of JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def compared(folder: Path) -> dict[str, Any]:
    """A comparison that was written to a folder."""
    return without_seed_lists(read(folder / "comparison.json"))


def validation(folder: Path) -> dict[str, tuple[int, int]]:
    """Policy, threshold and steps -> (successes, episodes) on validation seeds."""
    return tallied(EpisodeStore(folder, create=False).metas())


def tallied(metas: Sequence[EpisodeMeta]) -> dict[str, tuple[int, int]]:
    """Arm -> (successes, episodes)."""
    won = Counter(m.arm for m in metas if m.outcome == Outcome.SUCCESS)
    return {arm: (won[arm], n) for arm, n in sorted(Counter(m.arm for m in metas).items())}


def chosen(tried: Mapping[str, tuple[int, int]], name: str) -> dict[str, str]:
    """The takeovers of a policy that did best on validation seeds, by remedy; of equals the shyest."""
    best = {}
    for remedy in ("policy", "correct"):
        mine = {arm: won for arm, (won, _) in tried.items() if arm.split("@")[0] == name and remedy_of(arm) == remedy}
        if mine:
            best[remedy] = max(mine, key=lambda arm: (mine[arm], *shyness(arm)))
    return best


def remedy_of(arm: str) -> str:
    """POLICY@THRESHOLD@move is one corrective move, POLICY@THRESHOLD@STEPS its recovery policy for so many steps."""
    return "correct" if arm.endswith("@move") else "policy"


def shyness(arm: str) -> tuple[float, int]:
    """Higher thresholds, then fewer steps."""
    _, threshold, steps = arm.split("@")
    return float(threshold), 0 if steps == "move" else -int(steps)


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
