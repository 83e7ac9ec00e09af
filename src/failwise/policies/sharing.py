"""One copy of a policy's weights in memory, however many agents of a process act with it.

Candidates of one round differ in how they steer the same weights. Weights are the same where every file of the policy's
folder has the same content, wherever the folders lie.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from failwise.policies import load_policy, split_address, weights_folder
from failwise.protocols import SharesWeights

_first: WeakValueDictionary[str, Any] = WeakValueDictionary()
_lender: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # a twin keeps the policy whose weights it shares


def shared_policy(path: str | Path) -> Any:
    """As ``load_policy``, with the weights of a policy of the same content that this process still holds.

    What is returned has a state of its own. A policy without ``twin`` (``failwise.protocols.SharesWeights``), or one
    that is no folder, is loaded anew each time.

    Args:
        path: as for ``load_policy``.

    Raises:
        CheckpointError, UnknownNameError, SetupError: as ``load_policy``.
    """
    folder = weights_folder(path)
    if not folder.is_dir():
        return load_policy(path)
    kind, rest = split_address(path)
    key = f"{kind}:{rest.partition('?')[2] if kind else ''}:{content_sha256(folder)}"
    first = _first.get(key)
    if first is None:
        first = load_policy(path)
        if not isinstance(first, SharesWeights):
            return first
        _first[key] = first
    twin = first.twin()  # the first one itself stays as it was read
    _lender[twin] = first
    return twin


def content_sha256(folder: Path) -> str:
    """SHA-256, hex, of all files below a folder: their names and what is in them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    total = hashlib.sha256()
    for path in files:
        about = path.stat()
        total.update(f"{path.relative_to(folder)} {_file_sha256(path, about.st_mtime_ns, about.st_size)}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=256)
def _file_sha256(path: Path, mtime_ns: int, size: int) -> str:
    """Of one file; read again where its time or its size has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
