"""Made-up episodes in a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from traces import traces

from failwise.store import EpisodeStore
from failwise.types import StepRecord


def write(store: EpisodeStore, trace) -> None:
    with store.begin(trace.meta.episode_id) as writer:
        rows = {int(step): row for row, step in enumerate(trace.asked)}
        for step, action in enumerate(trace.actions):
            if step in rows:
                writer.features(step, trace.features[rows[step]])
            info = {k: float(v[rows[step]]) for k, v in trace.info.items()} if step in rows else {}
            start = int(trace.asked[trace.asked <= step].max())
            writer.step(
                StepRecord(
                    step, np.zeros(2, np.float32), action, 0.0, {"done": False}, chunk_step=step - start, info=info
                )
            )
        writer.commit(trace.meta)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("recorded")
    store = EpisodeStore(out)
    for number, task in enumerate(("tiny/reach", "tiny/push", "tiny/door", "tiny/lift")):
        for trace in traces(50, 1000 * number, task):
            write(store, trace)
    return out
