"""One registry for every kind of plugin, on entry points.

A distribution registers a plugin in its own ``pyproject.toml``::

    [project.entry-points."failwise.envs"]
    mysuite = "my_package.my_module:make"

Two distributions that claim one name raise; an unknown name lists the choices.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from failwise.errors import SetupError, UnknownNameError

GROUPS = {
    "env": "failwise.envs",
    "policy": "failwise.policies",
    "steering": "failwise.steering",
    "detector": "failwise.detectors",
}


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise SetupError(
                f"two plugins claim the name {entry.name!r} in {group}: {other.value} and {entry.value}; "
                "uninstall one of the two distributions"
            )
        found[entry.name] = entry
    return found


def names(kind: str) -> list[str]:
    """Sorted plugin names of a kind ("env", "policy", "steering", "detector")."""
    return sorted(_entries(GROUPS[kind]))


def load(kind: str, name: str) -> Any:
    """The object that a plugin name stands for.

    Raises:
        UnknownNameError: no plugin of that kind has that name.
        SetupError: the plugin is there but its module cannot be imported.
    """
    entries = _entries(GROUPS[kind])
    if name not in entries:
        raise UnknownNameError(kind, name, entries)
    try:
        return entries[name].load()
    except ImportError as error:
        raise SetupError(f"{kind} {name!r} cannot be loaded ({error}); run 'failwise doctor'") from error
