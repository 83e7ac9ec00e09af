"""Pages and pictures of detectors and of watched episodes: right numbers, and nothing loaded from outside."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from failwise.agent import PolicyAgent
from failwise.cli import main
from failwise.detect import Trace, calibrate, make_detector
from failwise.envs import make_env
from failwise.report import write_report
from failwise.report.scored import as_recorded, draw_episode, draw_video, known_onset
from failwise.report.watched import telling
from failwise.rollout import RolloutItem, RolloutOptions, run_episode
from failwise.rollout.watching import Watch
from failwise.store import EpisodeStore
from failwise.types import FailureEvent, Outcome
from rollout.test_watching import LENGTHS, Seeing, made_up


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six episodes of tiny/reach, unwatched and watched."""
    wins = [made_up(n, n) for n in LENGTHS]
    monitor = calibrate(make_detector("length").fit(wins), wins, 0.1, kind="constant")
    store = EpisodeStore(tmp_path_factory.mktemp("watched"))
    env = make_env("tiny/reach")
    for seed in range(3):
        for arm, watch in (("plain", None), ("plain+stop", Watch(monitor, "stop"))):
            item = RolloutItem("tiny/reach", seed, seed, arm, "x")
            with store.begin(item.episode_id) as writer:
                writer.commit(run_episode(env, PolicyAgent(Seeing()), item, writer, RolloutOptions(), watch))
    return store


def test_a_watched_run_shows_what_the_alarms_came_to(store):
    page = write_report(store.path).read_text()
    assert "Watched: plain+stop" in page
    assert "3 of 3 episodes that do not succeed unwatched" in page and "true alarms saved" in page
    assert page.count('<img class="figure"') == 2, "some of each kind, not all"
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page) and "<script" not in page


def test_the_picture_and_the_video_show_the_alarm(store, tmp_path):
    scored = as_recorded(next(store.read(m.episode_id) for m in store.metas() if m.arm == "plain+stop"))
    assert scored.alarm == scored.episode.meta.failure_events[0].onset_step and scored.delay is None
    assert f"alarm at step {scored.alarm}" in scored.title
    assert len(scored.scores) == scored.alarm + 1 == scored.episode.meta.n_steps + 1, "also what was not executed"
    assert scored.scores[-1] > scored.band[-1] and (scored.scores[:-1] <= scored.band[:-1]).all()
    picture = np.asarray(Image.open(io.BytesIO(draw_episode(scored))).convert("RGB")).astype(int)
    red = (np.abs(picture - (179, 54, 47)).sum(-1) < 30).sum(0)
    assert picture.shape[1] >= 900 and red.max() > 100, "a column of the alarm's line"
    video = draw_video(scored, tmp_path / "one.mp4")
    import av

    with av.open(str(video)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == scored.episode.meta.n_frames
    framed = [np.abs(f[2, 10:-10].astype(int) - (179, 54, 47)).mean() < 30 for f in frames]
    assert framed[-1] and not framed[0], "from the alarm on, the picture is framed in red"


def test_an_episode_that_was_lost_does_not_cost_the_page(store, tmp_path):
    """What ended in an error before anybody watched it stands in the same arm."""
    folder = tmp_path / "watched"
    shutil.copytree(store.path, folder)
    own = EpisodeStore(folder)
    meta = next(m for m in own.metas() if m.arm == "plain+stop")
    about = {"episode_id": "lost", "env_seed": 99, "outcome": Outcome.ERROR, "n_steps": 0, "error": "gone", "extra": {}}
    about |= {"failure_events": (), "n_frames": 0, "cameras": ()}
    with own.begin("lost") as writer:
        writer.commit(meta.model_copy(update=about))
    assert "Watched: plain+stop" in write_report(folder).read_text()


def test_the_delay_is_from_a_known_onset_only(store):
    scored = as_recorded(next(store.read(m.episode_id) for m in store.metas() if m.arm == "plain+stop"))
    meta = scored.episode.meta
    assert known_onset(meta) is None, "an alarm is no known onset"
    events = [FailureEvent(mode="slip", onset_step=n, source="injected") for n in (9, 5)]
    assert known_onset(meta.model_copy(update={"failure_events": (*meta.failure_events, *events)})) == 5


def test_telling_takes_some_of_each_kind(store):
    every = [as_recorded(store.read(m.episode_id)) for m in store.metas() if m.arm == "plain+stop"]
    assert len(telling(every, each=1)) == 1 and len(telling(every, each=5)) == 3


def test_scores_become_a_page_and_videos(store, tmp_path, capsys):
    runs = tmp_path / "runs"
    own = EpisodeStore(runs)
    for meta in store.metas():
        if meta.arm == "plain":
            (runs / meta.episode_id).symlink_to(store.path / meta.episode_id)
    assert len(own.metas()) == 3
    wins = [
        Trace(t.meta.model_copy(update={"provenance": own.metas()[0].provenance}), t.actions, t.asked, t.features)
        for t in (made_up(n, n) for n in LENGTHS)
    ]
    calibrate(make_detector("length").fit(wins), wins, 0.1, kind="constant").save(tmp_path / "detector")
    line = ["detect", "score", "--episodes", str(runs), "--detector", str(tmp_path / "detector")]
    line += ["--page", str(tmp_path / "page.html"), "--videos", str(tmp_path / "videos")]
    assert main([*line, "--out", str(tmp_path / "lines.jsonl")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "3 of 3" in page and page.count("data:image/png") == 2 and "<script" not in page
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 2
    assert len([json.loads(row) for row in (tmp_path / "lines.jsonl").read_text().splitlines()]) == 3
    assert "page.html" in capsys.readouterr().out
