"""The figures of the recovery experiment, from what its stages left on disk."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from failwise.errors import DataError
from failwise.evaluate.recovered import recovered_arm, recovery_result
from failwise.generate import Attempt, read_attempts
from failwise.store import EpisodeStore
from failwise.types import EpisodeMeta, Outcome
from figures_of import REPOSITORY, command, machine, without_seed_lists


def write_results(name: str, out: Path, settings: Mapping[str, Any], arms: Sequence[str]) -> None:
    """docs/results/NAME.json: yields by mode, figures of the diagnosis, and the pairs with and without recovery."""
    minutes, asked = out / "minutes.json", out / "asked.json"
    if settings["stage"] == "all" or not asked.is_file():  # a later look at the figures is not how they were made
        asked.write_text(
            json.dumps({"command": command("failures_on_purpose", sys.argv[1:]), "settings": settings}, indent=1) + "\n"
        )
    results: dict[str, Any] = {
        "experiment": "failures_on_purpose",
        "command": read(asked)["command"],
        **machine(),
        "minutes": read(minutes),
        "settings": read(asked)["settings"],
        "failures": yields(read_attempts(out / "failures")),
        "diagnosis": {
            path.parent.name.removeprefix("recovery-"): read(path)["notes"]
            for path in sorted(out.glob("recovery-*/recovery.json"), reverse=True)  # the weak one first
        },
        "arms": [name for arm in arms for name in (arm, recovered_arm(arm))],
        "takeovers": validation(out / "validation"),
        "chosen": read(out / "chosen.json"),
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


def choose(tried: Mapping[str, tuple[int, int]]) -> str:
    """The takeover that did best on validation seeds, of equals the shyest: POLICY@THRESHOLD@STEPS or ...@move."""

    def worth(arm: str) -> tuple[int, float, int]:
        _, threshold, steps = arm.split("@")
        return tried[arm][0], float(threshold), 0 if steps == "move" else -int(steps)

    return max(tried, key=worth)


def note_chosen(out: Path, name: str, remedy: str, arm: str) -> None:
    """Write down which takeover of a policy was chosen, for the report."""
    path = out / "chosen.json"
    told = read(path) if path.is_file() else {}
    told.setdefault(name, {})[remedy] = arm
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def claim(out: Path, name: str, folder: str) -> None:
    """Say of which recovery a folder's episodes are.

    Raises:
        DataError: they are of an earlier one, and would be taken for this one's.
    """
    path = out / f"{folder}.of-{name}.json"
    digest = hashlib.sha256((out / f"recovery-{name}" / "recovery.safetensors").read_bytes()).hexdigest()
    if path.is_file() and read(path) != digest:
        raise DataError(f"{out / folder} holds episodes of an earlier recovery of {name!r}; remove them and {path}")
    path.write_text(json.dumps(digest) + "\n", encoding="utf-8")


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
