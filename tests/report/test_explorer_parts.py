"""What the explorer shows is what was recorded: risk and its order, curves, bars, thumbnails."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request

from failwise.report.explorer import make_app
from failwise.report.explorer.catalogue import Catalogue, Filter, highest_risk
from failwise.report.explorer.curves import HEIGHT, WIDTH, curves
from failwise.store import EpisodeStore, StoredEpisode, episode_id
from failwise.types import EpisodeMeta, FailureEvent, Outcome, StepRecord

STEPS = 10


def record(root: Path, seed: int, risk: list[float], scores: list[float] | None = None) -> StoredEpisode:
    """Ten steps, an inference at every other one; the object is held in steps 3 to 5; the last picture is white."""
    store, env_id = EpisodeStore(root), "tiny/push"
    name = episode_id(env_id, "base", seed)
    with store.begin(name) as writer:
        for step in range(STEPS):
            if step in (0, 8):
                writer.look(step, {"top": np.full((20, 20, 3), 255 if step else 0, np.uint8)})
            writer.step(
                StepRecord(
                    step, np.zeros(2, np.float32), np.zeros(2, np.float32), 0.0, {"held": 3 <= step < 6},
                    chunk_step=step % 2, info={"risk": risk[step // 2]} if step % 2 == 0 else {},
                    score=None if scores is None else scores[step],
                )
            )  # fmt: skip
        writer.commit(
            EpisodeMeta(
                episode_id=name, env_id=env_id, task="push", instruction="push", env_seed=seed, policy_seed=seed,
                arm="base", outcome=Outcome.TIMEOUT, n_steps=STEPS, step_limit=STEPS, control_hz=10.0,
                cameras=("top",), n_frames=2,
                failure_events=(FailureEvent(mode="slip", onset_step=5, source="injected"),),
            )
        )  # fmt: skip
    return store.read(name)


def test_the_risk_is_the_highest_and_a_detectors_score_goes_first(tmp_path):
    assert highest_risk(record(tmp_path, 0, [0.1, 0.7, 0.3, 0.2, 0.1])) == pytest.approx(0.7)
    scored = record(tmp_path, 1, [0.9] * 5, [0.5, 2.5, *[1.0] * 8])
    assert highest_risk(scored) == pytest.approx(2.5)


def test_the_riskiest_come_first(tmp_path):
    for seed, risk in enumerate((0.2, 0.9, 0.5)):
        record(tmp_path, seed, [risk] * 5)
    catalogue = Catalogue(tmp_path)
    while catalogue.unread:
        pass
    assert [row.seed for row in catalogue.select(Filter(sort="risk"))] == [1, 2, 0]
    catalogue.close()


def test_curves_go_up_with_their_values_and_bars_are_where_conditions_held(tmp_path):
    drawn = curves(record(tmp_path, 0, [0.0, 0.25, 0.5, 0.75, 1.0]))
    (line,) = drawn.lines
    points = [tuple(map(float, part.split())) for part in line.path[1:].split(" L")]
    assert points == [(WIDTH * k / 5, HEIGHT * (1 - k / 4)) for k in range(5)]
    (bar,) = drawn.bars
    assert bar.spans == ((WIDTH * 0.3, WIDTH * 0.3),)
    assert bar.ever
    (mark,) = drawn.marks
    assert (mark.x, mark.text) == (WIDTH * 0.5, "slip (injected)")


def test_the_thumbnail_is_the_last_thing_seen(tmp_path):
    episode = record(tmp_path, 0, [0.0] * 5)
    app = make_app(tmp_path)
    scope = {"type": "http", "method": "GET", "headers": [], "query_string": b"", "path": "/"}
    scope["path_params"] = {"store": 0, "episode": episode.id}
    answer = app.state.explorer.thumbnail(Request(scope))
    app.state.explorer.catalogue.close()
    assert np.asarray(Image.open(io.BytesIO(answer.body))).mean() > 250
