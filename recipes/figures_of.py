"""What the figures of every experiment carry: where they were made, with which versions, in how many minutes."""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("failwise", "torch", "numpy", "mujoco", "metaworld", "mani-skill", "sapien")


def machine() -> dict[str, Any]:
    """The machine, and the versions of those packages that are installed."""
    installed = {d.name.lower().replace("_", "-"): d.version for d in distributions()}
    return {
        "machine": {"cores": os.cpu_count(), "processor": processor(), "python": platform.python_version()},
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
    }


def command(recipe: str, arguments: Sequence[str], but: Sequence[str] = ("--out",)) -> str:
    """How a recipe was called, but for where it worked and other options that change no figure."""
    told = list(arguments)
    for option in but:
        told = [argument for argument in told if not argument.startswith(f"{option}=")]
        if option in told:
            del told[told.index(option) : told.index(option) + 2]
    return shlex.join(["python", f"recipes/{recipe}.py", *told])


def without_seed_lists(comparison: dict[str, Any]) -> dict[str, Any]:
    """The comparison, with each list of seeds as its range and count: the lists are in the run folder."""
    for arm in comparison.get("against", []):
        arm.pop("seeds", None)
    seeds = comparison.get("seeds", {})
    comparison["seeds"] = {k: {"first": min(v), "last": max(v), "n": len(v)} for k, v in seeds.items() if v}
    return comparison


def processor() -> str:
    """The processor's name, as the kernel tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


class Minutes:
    """Minutes of each stage, added up over calls in a file, so that a resumed run counts every part once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Time a stage, also one that is stopped."""
        start = time.monotonic()
        try:
            yield
        finally:
            total = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
            total[stage] = round(total.get(stage, 0.0) + (time.monotonic() - start) / 60, 1)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(total, indent=1) + "\n", encoding="utf-8")
