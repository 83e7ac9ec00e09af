"""What LIBERO offers: suites, how many tasks each has, and how many steps an episode may take. Imports no simulator.

A task is written suite:index, "libero_spatial:0", with the benchmark's own order of tasks. Suites with a suffix are
LIBERO-PRO's (arXiv 2510.03827), each with one change of the suite that it is named after.
"""

from __future__ import annotations

import re

from failwise.errors import SetupError, UnknownNameError

BASE = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
PERTURBATIONS = {
    "lan": "the instruction in other words",
    "object": "the things of the task look different",
    "swap": "things have changed places",
    "task": "another task in the same scene",
}
PERTURBED = tuple(suite for suite in BASE if suite != "libero_90")
SUITES: dict[str, int] = BASE | {f"{suite}_{change}": 10 for suite in PERTURBED for change in PERTURBATIONS}

TASKS: tuple[str, ...] = tuple(f"{suite}:{index}" for suite, n in SUITES.items() for index in range(n))

# As in openpi's evaluation on LIBERO: the longest demonstration of each suite and some reserve.
_STEP_LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}


def parse_task(task: str) -> tuple[str, int]:
    """Suite and index of a task such as "libero_spatial:0".

    Raises:
        UnknownNameError: no such suite.
        SetupError: it is not of that form, or the index is out of range.
    """
    suite, colon, index = task.partition(":")
    if suite not in SUITES:
        raise UnknownNameError("libero suite", suite, SUITES)
    last = SUITES[suite] - 1
    if not colon or not re.fullmatch(r"\d{1,3}", index):
        raise SetupError(f"libero task {task!r} is not of the form SUITE:INDEX; for example: {suite}:0")
    if int(index) > last:
        raise SetupError(f"libero suite {suite} has the tasks 0 to {last}, not {int(index)}")
    return suite, int(index)


def base_of(suite: str) -> tuple[str, str]:
    """The suite that a perturbed one changes, and the change; the suite itself and "" for the others."""
    stem, _, change = suite.rpartition("_")
    return (stem, change) if stem in BASE and change in PERTURBATIONS else (suite, "")


def steps_of(suite: str) -> int:
    """Steps until truncation; a perturbed suite has those of the suite that it changes."""
    return _STEP_LIMITS[base_of(suite)[0]]
