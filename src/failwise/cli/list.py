"""``failwise list``: what is there to choose from, plugins of other distributions included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from failwise import registry
from failwise.cli.options import parse
from failwise.errors import SetupError


@dataclass(frozen=True)
class List:
    """Name the environments, the kinds of policy, or the methods that this installation offers."""

    what: Positional[Literal["envs", "policies", "methods", "detectors"]]
    """envs: one "suite/task" a line, as --env takes them. policies: what a policy folder may hold.
    methods: what trains, and what steers sampling. detectors: what notices that an episode is failing."""


def _summary(plugin: object) -> str:
    return ((plugin.__doc__ or "").strip() or "(no description)").splitlines()[0]


def _environments() -> Iterator[str]:
    from failwise.envs import list_tasks

    for suite in registry.names("env"):
        try:
            yield from (f"{suite}/{task}" for task in list_tasks(suite))
        except SetupError as error:
            yield f"{suite}/*  (not available: {error})"


def _plugins(kind: str) -> Iterator[tuple[str, str]]:
    for name in registry.names(kind):
        try:
            yield name, _summary(registry.load(kind, name))
        except SetupError as error:
            yield name, f"(not available: {error})"


def _methods() -> Iterator[tuple[str, str]]:
    from failwise.cli.train import METHODS

    for name, method in METHODS.items():
        yield f"train {name}", method.summary
    for name, summary in _plugins("steering"):
        yield f"steer {name}", summary


def main(argv: Sequence[str]) -> int:
    """Print one name a line, with a one-line summary where there is one."""
    what = parse(List, argv, "list").what
    if what == "envs":
        print("\n".join(_environments()))
        return 0
    kinds = {"policies": "policy", "detectors": "detector"}
    rows = list(_plugins(kinds[what]) if what in kinds else _methods())
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        print(f"{name:<{width}}  {summary}")
    return 0
