"""What a user writes to name a policy server: an address, and how to speak to it in its query string."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from failwise.errors import SetupError
from failwise.wire.keys import KeyMap

PREFIX = "openpi:"
TOKEN_VARIABLE = "FAILWISE_TOKEN"


@dataclass(frozen=True)
class Address:
    """A policy server: ``ws://HOST:PORT?keys=libero&actions=0:7&execute=5``.

    Attributes:
        url: without the query string.
        keys: which wire key stands for what; None asks the server, or takes the usual ones.
        actions: columns of the server's actions that the environment takes; None takes all.
        execute: actions of a chunk to execute; None asks the server, or takes 8.
        resize: pixels a side to which images are scaled and padded; None sends them as they are.
        timeout: seconds to wait for a reply: a server may compile its model at the first one.
        connect: seconds to wait for a server that is not there yet.
        token_file: holds the server's token; without it, the environment variable FAILWISE_TOKEN does.
    """

    url: str
    keys: KeyMap | None = None
    actions: slice | None = None
    execute: int | None = None
    resize: int | None = None
    timeout: float = 120.0
    connect: float = 5.0
    token_file: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises:
            SetupError: it is none, or an option is unknown or out of range.
        """
        parts = urlsplit(text)
        try:
            usable = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port is not None
        except ValueError:  # a port that is no number
            usable = False
        if not usable or parts.username is not None or parts.fragment:
            raise SetupError(f"{PREFIX}{text} is no address of a policy server; write {PREFIX}ws://HOST:PORT")
        options: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in _READ or name in options:
                again = "is given twice" if name in options else f"is unknown; choose {', '.join(_READ)}"
                raise SetupError(f"{PREFIX}{text}: the option {name!r} {again}")
            try:
                options[name] = _READ[name](value)
            except ValueError as error:
                raise SetupError(f"{PREFIX}{text}: {name}={value} is not {error}") from error
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path}", **options)

    def token(self) -> str:
        """The secret that the server wants to see, "" for none.

        Raises:
            SetupError: the file cannot be read.
        """
        if self.token_file is None:
            return os.environ.get(TOKEN_VARIABLE, "").strip()
        return read_token(self.token_file)


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        SetupError: it cannot be read, or holds none.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise SetupError(f"no token can be read from {path} ({error})") from error
    if not token or any(c.isspace() for c in token):
        raise SetupError(f"{path} must hold one token without spaces")
    return token


def _columns(text: str) -> slice:
    start, _, stop = text.partition(":")
    if not (start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise ValueError("two ascending numbers, START:STOP with STOP left out")
    return slice(int(start), int(stop))


def _at_least(least: float, kind: type[int] | type[float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = kind(-1)
        if not least <= number < 1e6:
            raise ValueError(f"a number from {least:g} on")
        return number

    return read


_READ: dict[str, Callable[[str], Any]] = {
    "keys": KeyMap.parse,
    "actions": _columns,
    "execute": _at_least(1, int),
    "resize": _at_least(8, int),
    "timeout": _at_least(0.1, float),
    "connect": _at_least(0, float),
    "token_file": Path,
}
