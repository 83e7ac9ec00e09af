"""Made-up episodes in a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from traces import traces, write

from failwise.store import EpisodeStore


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("recorded")
    store = EpisodeStore(out)
    for number, task in enumerate(("tiny/reach", "tiny/push", "tiny/door", "tiny/lift")):
        for trace in traces(50, 1000 * number, task):
            write(store, trace)
    return out
