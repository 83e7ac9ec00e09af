"""What came of every attempt, one line each, and the coverage that follows from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from failwise.errors import StoreError
from failwise.generate.cells import Cell

FILE = "attempts.jsonl"
Result = Literal["kept", "unmended", "harmless", "inapplicable", "no_plan", "error", "succeeded"]


class Attempt(BaseModel):
    """What came of one perturbation of one layout.

    Attributes:
        env_id, cell, seed: which. draw: number of the perturbation among those of this layout, from 0.
        corrections: how many were verified. error: one line.
        policy: whose own failure it was, arm and checkpoint; "" for one made on purpose.
        result: "kept" failed, and has a verified recovery; "unmended" failed, and none was found; "harmless" succeeded
            all the same; "inapplicable" where the plan has no such stage, or nothing to change in it; "no_plan" where
            the expert itself fails; "error" where the simulator did; "succeeded" is a policy's own success.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    env_id: str
    cell: str
    seed: int
    draw: int = 0
    result: Result
    corrections: int = 0
    error: str = ""
    policy: str = ""


def append(out: Path, attempts: Sequence[Attempt]) -> None:
    """Write some attempts down."""
    with (out / FILE).open("a", encoding="utf-8") as file:
        file.write("".join(attempt.model_dump_json() + "\n" for attempt in attempts))


def read_attempts(out: Path, *, repair: bool = True) -> list[Attempt]:
    """Every attempt written down in a folder. A line cut off by a kill is dropped: its layout is tried again.

    The lines of a layout are written at once, so the harmless ones that a cut-off line may have followed go with it.

    Args:
        out: the folder.
        repair: drop such a line from the file too; without, nothing is written, as somebody may be writing there now.

    Raises:
        StoreError: a line is no attempt.
    """
    path = out / FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    cut = bool(lines) and not lines[-1].endswith("\n")
    try:
        attempts = [Attempt.model_validate(json.loads(line)) for line in lines[: len(lines) - cut]]
    except (ValueError, ValidationError) as error:
        raise StoreError(f"{path} holds a line that is no attempt ({' '.join(str(error).split())[:120]})") from error
    if cut:
        last = attempts[-1] if attempts else None
        while last is not None and attempts and _unfinished(attempts[-1], last):
            attempts.pop()
        if repair:
            path.write_text("".join(lines[: len(attempts)]), encoding="utf-8")
    return attempts


def _unfinished(attempt: Attempt, last: Attempt) -> bool:
    same = (attempt.env_id, attempt.cell, attempt.seed) == (last.env_id, last.cell, last.seed)
    return same and attempt.result == "harmless"


def coverage(cells: Sequence[Cell], attempts: Sequence[Attempt]) -> list[tuple[Cell, Mapping[str, int]]]:
    """How often each result came of each cell, and under "corrections" how many were verified."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for attempt in attempts:
        tally = counts.setdefault((attempt.env_id, attempt.cell), Counter())
        tally[attempt.result] += 1
        tally["corrections"] += attempt.corrections
    return [(cell, counts.get((cell.env_id, cell.name), Counter())) for cell in cells]
