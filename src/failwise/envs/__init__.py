"""Where a policy acts: one file a simulator, pictures that render when looked at, and a conformance check."""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from typing import cast

from failwise import registry
from failwise.envs.dropping import VARIANT, Dropping
from failwise.envs.lazy import LazyImages, StaleObservationError
from failwise.errors import SetupError, UnknownNameError
from failwise.protocols import Environment

__all__ = ["LazyImages", "StaleObservationError", "list_tasks", "make_env", "parse_env_ids"]


def make_env(env_id: str, **options: object) -> Environment:
    """Make one environment.

    Args:
        env_id: "suite/task", for example "tiny/reach". "@drop" behind it drops what is carried, in every suite whose
            robots carry things: see ``failwise.envs.dropping``.
        options: what the suite's ``make(task, **options)`` takes.

    Raises:
        UnknownNameError: no such suite or task; the message lists the nearest names.
        SetupError: ``env_id`` is not of that form, or the suite does not take one of the options.
    """
    suite, slash, task = env_id.partition("/")
    if not (suite and slash and task):
        raise SetupError(f"environment {env_id!r} is not of the form SUITE/TASK; for example: tiny/reach")
    make = registry.load("env", suite)
    plain, _, variant = task.rpartition("@")
    try:
        if variant == VARIANT and plain:
            return Dropping(make(plain, **options))
        return cast(Environment, make(task, **options))
    except TypeError as error:
        if options and "unexpected keyword argument" in str(error):
            raise SetupError(f"environment {env_id!r} does not take one of its options ({error})") from error
        raise


def list_tasks(suite: str) -> list[str]:
    """The tasks of a suite: ``TASKS`` of the module that its entry point names.

    Raises:
        UnknownNameError: no such suite.
        SetupError: the suite cannot be imported, or its module has no ``TASKS``.
    """
    registry.load("env", suite)  # refuses unknown names, and imports the module
    entry = next(iter(entry_points(group=registry.GROUPS["env"], name=suite)))
    tasks = getattr(sys.modules[entry.module], "TASKS", None)
    if tasks is None:
        raise SetupError(f"suite {suite!r} lists no tasks: give {entry.module} a tuple TASKS beside 'make'")
    return list(tasks)


def parse_env_ids(text: str) -> list[str]:
    """Read a list of environments as people write it.

    "metaworld/pick-place,peg-insert-side" carries the suite over; "tiny/*" stands for all tasks of a suite,
    "metaworld/door-*" for those that begin so, "libero/libero_spatial:0-9" for the tasks 0 to 9 of a numbered group.
    What stands behind an "@" is a variant of a task, which its suite knows.

    Returns:
        Environment ids in the order written, each once.

    Raises:
        UnknownNameError: no such suite or task.
        SetupError: nothing is named, or the first name has no suite.
    """
    suite, ids = "", []
    for part in (p for p in (piece.strip() for piece in text.split(",")) if p):
        head, slash, task = part.rpartition("/")
        suite = head if slash else suite
        if not (suite and task):
            raise SetupError(f"environment {part!r} is not of the form SUITE/TASK; for example: tiny/reach,push")
        ids += [f"{suite}/{name}" for name in _expand(task, suite)]
    if not ids:
        raise SetupError("no environment named; write SUITE/TASK, for example: tiny/reach,push")
    return list(dict.fromkeys(ids))


def _expand(pattern: str, suite: str) -> list[str]:
    """The tasks of a suite that a name, a name with a "*", or a range of numbered ones stands for."""
    tasks = list_tasks(suite)
    name, at, variant = pattern.partition("@")
    if "*" in name:
        found = [task for task in tasks if fnmatchcase(task, name)]
    elif numbers := re.fullmatch(r"(.+:)(\d{1,4})-(\d{1,4})", name):
        group, first, last = numbers[1], int(numbers[2]), int(numbers[3])
        if first > last:
            raise SetupError(f"environments {suite}/{name}: a range goes upwards, for example {group}{last}-{first}")
        found = [f"{group}{number}" for number in range(first, last + 1)]
    else:
        found = [name]
    for task in found or [name]:
        if task not in tasks:
            raise UnknownNameError(f"{suite} task", task, tasks)
    return [task + at + variant for task in found]
