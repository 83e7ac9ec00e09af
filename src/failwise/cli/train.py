"""``failwise train``: recorded episodes become a policy or another model, one method a sub-verb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from failwise.cli.options import existing_folder, parse_with, writable_folder
from failwise.errors import UnknownNameError


@dataclass(frozen=True)
class Method:
    """A training method: where it lives, so that naming it loads no torch.

    ``function(episodes, out, options)`` returns the folder that it wrote; ``options`` is a dataclass's name.
    """

    summary: str
    module: str
    function: str
    options: str


METHODS = {
    "bc": Method(
        "behaviour cloning: a policy from successful demonstrations",
        "failwise.learn.bc",
        "train_bc",
        "BCOptions",
    ),
}


@dataclass(frozen=True)
class Train:
    """What every training method takes."""

    episodes: Path
    """Folder of recorded episodes, as 'failwise collect' wrote it."""
    out: Path
    """Folder for what is trained. The same command resumes there."""


def help_text() -> str:
    """The methods, one a line."""
    rows = "\n".join(f"  {name:<8} {method.summary}" for name, method in METHODS.items())
    usage = "usage: failwise train METHOD [OPTIONS]"
    return f"{usage}\n\nmethods:\n{rows}\n\n'failwise train METHOD --help' shows its options."


def main(argv: Sequence[str]) -> int:
    """Train, and print the folder that holds the result."""
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        return 0 if argv else 2
    name, *rest = argv
    if name not in METHODS:
        raise UnknownNameError("training method", name, METHODS)
    method = METHODS[name]
    module: Any = import_module(method.module)
    common, options = parse_with(
        Train, getattr(module, method.options), rest, f"train {name}", method.summary
    )
    existing_folder(common.episodes, "--episodes", "episodes that 'failwise collect' wrote")
    writable_folder(common.out)
    print(getattr(module, method.function)(common.episodes, common.out, options))
    return 0
