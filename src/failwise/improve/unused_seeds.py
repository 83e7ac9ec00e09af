"""Test seeds that nobody has looked at: drawn once for a run folder, and kept in it.

A seed whose results were seen, in this folder or in the published ones, can show no improvement any more: what was
tried until it worked there may work there only.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from failwise.errors import SetupError
from failwise.seeds import TEST, WIDTH
from failwise.store import EpisodeStore
from failwise.store.naming import SHARDS

FILE = "test_seeds.json"
PUBLISHED = 1000
"""The first seeds of the test range: published results and earlier demos used them."""


def unused_test_offset(out: Path, n: int) -> int:
    """Where in the test range the ``n`` test seeds of a run folder begin; the same for every later call.

    Args:
        out: the run folder. What it drew is written to ``test_seeds.json`` in it.
        n: how many seeds in a row.

    Returns:
        The offset for ``SeedRange.claim``: beyond the published seeds, and away from every test seed that an episode
        of the folder has.

    Raises:
        SetupError: the record in the folder is damaged or of another number of seeds, or the folder cannot be written.
    """
    path = out / FILE
    if path.is_file():
        return _recorded(path, n)
    used = _used_in(out)
    generator = np.random.default_rng()
    while True:
        offset = int(generator.integers(PUBLISHED, WIDTH - n + 1))
        if used.isdisjoint(TEST.claim(n, offset)):
            break
    record = json.dumps({"offset": offset, "seeds": n}) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".tmp")
        half.write_text(record, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise SetupError(f"cannot write {path} ({error.strerror}); choose another --out") from error
    return offset


def _recorded(path: Path, n: int) -> int:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        offset, seeds = int(record["offset"]), int(record["seeds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{path} does not tell the test seeds of this run ({error}); choose another --out") from error
    if seeds != n:
        raise SetupError(f"{path.parent} drew {seeds} test seeds, and {n} are asked for; choose another --out")
    return offset


def _used_in(out: Path) -> set[int]:
    """Test seeds of all episodes that are stored somewhere below a folder."""
    if not out.is_dir():
        return set()
    stores = {meta.parent.parent for meta in out.rglob("meta.json")} | {s.parent for s in out.rglob(SHARDS)}
    metas = (meta for store in sorted(stores) for meta in EpisodeStore(store, create=False).metas())
    return {meta.env_seed for meta in metas if meta.env_seed in TEST}
