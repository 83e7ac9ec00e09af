"""What a store gives back, and what it refuses to record."""

import numpy as np
import pytest

from failwise.errors import DataError, EpisodeError, SetupError, StoreError
from failwise.store import EpisodeStore, check, episode_id
from failwise.types import Outcome

from .samples import (
    CAMERAS,
    STEPS,
    features,
    fill,
    images,
    meta_for,
    record,
    sample_id,
    snapshot,
    step_record,
)


@pytest.fixture
def store(tmp_path):
    return EpisodeStore(tmp_path / "runs" / "base")


def test_what_was_recorded_is_read_back(store):
    path = record(store, seed=3)
    episode = store.read(sample_id(3))
    assert path == episode.path == store.path / "tiny.reach--base--000003"
    assert episode.meta == meta_for(sample_id(3), 3)
    expected = [step_record(step) for step in range(STEPS)]
    np.testing.assert_array_equal(episode.actions(), np.stack([step.action for step in expected]))
    np.testing.assert_array_equal(episode.states(), np.stack([step.state for step in expected]))
    np.testing.assert_array_equal(episode.rewards(), [step.reward for step in expected])
    assert episode.actions().dtype == episode.states().dtype == np.float32
    assert list(episode.conditions()) == ["near", "done"]
    np.testing.assert_array_equal(episode.conditions()["near"], np.arange(STEPS) > 3)
    assert episode.actors().tolist() == ["policy"] * 16 + ["recovery"] * 4
    assert episode.chunk_starts().tolist() == [0, 8, 16]
    assert episode.info()["late"].tolist() == [0, 8, 16]
    assert np.isnan(episode.scores()[:3]).all()
    assert episode.scores()[3:].tolist() == [step / 7 for step in range(3, STEPS)]
    for got, step in zip(episode.steps(), expected, strict=True):
        np.testing.assert_array_equal(got.action, step.action)
        np.testing.assert_array_equal(got.state, step.state)
        assert (got.reward, got.conditions, got.actor, got.chunk_step, got.info, got.score) == (
            step.reward,
            step.conditions,
            step.actor,
            step.chunk_step,
            step.info,
            step.score,
        )


def test_images_features_and_snapshots_are_read_back_exactly(store):
    record(store, seed=3)
    episode = store.read(sample_id(3))
    assert episode.cameras() == CAMERAS
    assert episode.look_steps().tolist() == [0, 8, 16]
    for camera in CAMERAS:
        everything = np.stack([images(3, step)[camera] for step in (0, 8, 16)])
        np.testing.assert_array_equal(episode.frames(camera), everything)
        np.testing.assert_array_equal(episode.frames(camera, [2, 0, 2]), everything[[2, 0, 2]])
        assert episode.frames(camera, []).shape == (0, 12, 16, 3)
    steps, vectors = episode.features()
    assert steps.tolist() == [0, 8, 16]
    np.testing.assert_array_equal(vectors, np.stack([features(3, step) for step in (0, 8, 16)]))
    assert episode.snapshot_steps() == [0, 8, 16]
    for name, array in snapshot(3, 8).items():
        got = episode.snapshot(8)[name]
        assert got.dtype == array.dtype and got.shape == array.shape
        np.testing.assert_array_equal(got, array)


def test_action_chunk_repeats_the_last_action_beyond_the_end(store):
    record(store)
    episode = store.read(sample_id(0))
    actions = episode.actions()
    chunk, valid = episode.action_chunk(STEPS - 3, 8)
    np.testing.assert_array_equal(chunk, np.concatenate([actions[-3:], np.repeat(actions[-1:], 5, 0)]))
    assert valid.tolist() == [True] * 3 + [False] * 5
    for step, horizon in ((-1, 4), (STEPS, 4), (0, 0)):
        with pytest.raises(DataError, match=f"steps: {STEPS}"):
            episode.action_chunk(step, horizon)


def test_what_is_handed_out_is_the_callers_own(store):
    record(store)
    episode = store.read(sample_id(0))
    episode.actions()[:] = 9
    episode.action_chunk(0, 4)[0][:] = 9
    assert episode.actions().max() < 9


def test_arrays_may_be_reused_after_recording(store):
    writer = store.begin("reused")
    action, image = np.zeros(3, np.float32), np.zeros((4, 4, 3), np.uint8)
    writer.look(0, {"corner": image})
    writer.step(step_record(0, action=action))
    action[:], image[:] = 1, 255
    writer.commit(meta_for("reused", n_steps=1, n_frames=1, cameras=("corner",), first_success_step=0))
    episode = store.read("reused")
    assert episode.actions().max() == 0 and episode.frames("corner").max() == 0


def test_action_chunks_open_no_image(store):
    path = record(store)
    (path / "frames.parquet").unlink()
    episode = store.read(sample_id(0))
    assert episode.action_chunk(0, 8)[0].shape == (8, 3)
    assert len(list(episode.steps())) == STEPS
    assert episode.snapshot(8) and len(episode.features()[0]) == 3
    with pytest.raises(StoreError, match=r"frames\.parquet: is missing; run 'failwise store repair"):
        episode.frames("corner")


def test_only_the_frames_that_are_asked_for_are_decoded(store, monkeypatch):
    writer = store.begin("long")
    for step in range(60):
        writer.look(step, images(0, step))
        writer.step(step_record(step))
    writer.commit(meta_for("long", n_steps=60, n_frames=60, step_limit=60))
    decoded = []
    from failwise.store import frames

    real = frames.decode_png
    monkeypatch.setattr(frames, "decode_png", lambda png: decoded.append(1) or real(png))
    np.testing.assert_array_equal(store.read("long").frames("wrist", [57])[0], images(0, 57)["wrist"])
    assert len(decoded) == 1


def test_an_episode_without_steps_images_or_proprioception(store):
    store.begin("empty").commit(
        meta_for(
            "empty",
            outcome=Outcome.ERROR,
            error="the simulator did not start",
            success_once=False,
            success_at_end=False,
            first_success_step=None,
            n_steps=0,
            n_frames=0,
        )
    )
    episode = store.read("empty")
    assert episode.actions().shape == (0, 0) and episode.conditions() == {} and list(episode.steps()) == []
    assert episode.look_steps().shape == (0,) and episode.features()[1].shape == (0, 0)
    assert episode.snapshot_steps() == [] and episode.info() == {}
    with store.begin("blind") as writer:
        writer.step(step_record(0, state=np.zeros(0)))
        writer.commit(meta_for("blind", n_steps=1, n_frames=0, first_success_step=0))
    assert store.read("blind").states().shape == (1, 0)


def test_asking_for_what_was_not_recorded_is_one_line(store):
    record(store)
    episode = store.read(sample_id(0))
    with pytest.raises(DataError, match="no camera 'top' was recorded; recorded: corner, wrist"):
        episode.frames("top")
    with pytest.raises(DataError, match=r"looks are 0\.\.2, asked for -1\.\.3"):
        episode.frames("wrist", [-1, 3])
    with pytest.raises(DataError, match="no snapshot at step 4"):
        episode.snapshot(4)
    with pytest.raises(StoreError, match="no episode 'nothing'"):
        store.read("nothing")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"state": np.zeros(3)}, r"state has shape \(3,\), before it was \(2,\)"),
        ({"action": np.zeros(2)}, r"action has shape \(2,\), before it was \(3,\)"),
        ({"action": np.zeros((1, 3))}, r"action has shape \(1, 3\), expected one dimension"),
        ({"action": np.array([0, np.nan, 0])}, r"action\[1\] is not finite"),
        ({"state": np.array([0, 1e300])}, r"state\[1\] is not finite"),
        ({"reward": float("inf")}, "reward is inf"),
        ({"score": float("nan")}, "score is nan"),
        ({"conditions": {"near": True}}, "conditions are"),
        ({"step": 5}, "out of order, expected step 1"),
        ({"chunk_step": 1, "info": {"strength": 1.0}}, "this is chunk_step 1"),
        ({"chunk_step": -1, "info": {}}, "chunk_step is -1"),
    ],
)
def test_steps_that_cannot_be_recorded_leave_the_episode_as_it_was(store, changes, complaint):
    writer = store.begin("e")
    writer.step(step_record(0))
    with pytest.raises(EpisodeError, match=complaint) as caught:
        writer.step(step_record(1, **changes))
    assert "\n" not in str(caught.value)
    writer.step(step_record(1))
    writer.commit(meta_for("e", n_steps=2, n_frames=0, first_success_step=1))
    assert store.read("e").meta.n_steps == 2


@pytest.mark.parametrize(
    ("step", "wrong", "complaint"),
    [
        (0, {"corner": np.zeros((4, 4, 3), np.uint8)}, "the last look was at step 0"),
        (1, {"corner": np.zeros((4, 5, 3), np.uint8)}, r"has size \(4, 5\), before it was \(4, 4\)"),
        (1, {"corner": np.zeros((4, 4, 3), np.float32)}, r"gave float32 \(4, 4, 3\), expected uint8"),
        (1, {"corner": np.zeros((3, 4, 4), np.uint8)}, r"gave uint8 \(3, 4, 4\)"),
        (1, {"wrist": np.zeros((4, 4, 3), np.uint8)}, "cameras are"),
        (1, {}, "at least one camera"),
    ],
)
def test_looks_that_cannot_be_recorded(store, step, wrong, complaint):
    writer = store.begin("e")
    writer.look(0, {"corner": np.zeros((4, 4, 3), np.uint8)})
    with pytest.raises(EpisodeError, match=complaint):
        writer.look(step, wrong)


def test_sampled_chunks_are_read_back_and_must_be_alike(store):
    writer = store.begin("drawn")
    drawn = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    writer.features(0, np.zeros(3), drawn)
    with pytest.raises(EpisodeError, match=r"samples have shape \(3, 4, 3\)"):
        writer.features(1, np.zeros(3), np.zeros((3, 4, 3)))
    with pytest.raises(EpisodeError, match="samples have shape None"):
        writer.features(1, np.zeros(3))
    with pytest.raises(EpisodeError, match="must be finite and"):
        writer.features(1, np.zeros(3), drawn * np.nan)
    writer.features(1, np.zeros(3), drawn + 1)
    for step in range(2):
        writer.step(step_record(step))
    writer.commit(meta_for("drawn", n_steps=2, n_frames=0, first_success_step=0))
    np.testing.assert_array_equal(store.read("drawn").samples(), np.stack([drawn, drawn + 1]))
    assert check(store).sound


def test_features_snapshots_and_cameras_that_cannot_be_recorded(store):
    writer = store.begin("e")
    writer.features(0, np.zeros(3))
    writer.snapshot(0, {"q": np.zeros(1)})
    with pytest.raises(EpisodeError, match="once each"):
        writer.features(0, np.zeros(3))
    with pytest.raises(EpisodeError, match=r"features have shape \(4,\)"):
        writer.features(1, np.zeros(4))
    with pytest.raises(EpisodeError, match="once each"):
        writer.snapshot(0, {"q": np.zeros(1)})
    with pytest.raises(EpisodeError, match="snapshot 'q' is of dtype object"):
        writer.snapshot(1, {"q": np.array([None])})
    with pytest.raises(EpisodeError, match=r"camera name '\.\./x'"):
        writer.look(0, {"../x": np.zeros((4, 4, 3), np.uint8)})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_steps": 3}, "n_steps is 3, recorded were 20"),
        ({"n_frames": 0}, "n_frames is 0, recorded were 3 looks"),
        ({"cameras": ("corner",)}, "cameras are"),
        ({"episode_id": "other"}, "episode_id is 'other'"),
        ({"first_success_step": None}, "success_once is True, first step None"),
        ({"first_success_step": 20}, "first_success_step is 20 of 20 steps"),
        ({"success_once": False, "first_success_step": None}, "success_at_end without success_once"),
        (
            {"success_once": False, "success_at_end": False, "first_success_step": None},
            "the outcome is success, but the success condition never held",
        ),
        ({"outcome": "error"}, "no error is named"),
        ({"extra": {"x": float("nan")}}, "are no JSON"),
        ({"extra": {"x": object()}}, "are no JSON"),
    ],
)
def test_meta_data_that_contradict_the_record_are_not_committed(store, changes, complaint):
    writer = store.begin(sample_id(0))
    fill(writer, 0)
    with pytest.raises(StoreError, match=complaint):
        writer.commit(meta_for(writer.id, **changes))
    assert len(store) == 0
    assert writer.commit(meta_for(writer.id)).is_dir()


def test_a_writer_is_done_after_commit_and_abandon(store):
    writer = store.begin("a")
    fill(writer, 0)
    writer.commit(meta_for("a"))
    with pytest.raises(StoreError, match="begin a new one"):
        writer.step(step_record(STEPS))
    with pytest.raises(RuntimeError), store.begin("b") as writer:
        fill(writer, 0)
        raise RuntimeError
    with pytest.raises(StoreError, match="begin a new one"):
        writer.commit(meta_for("b"))
    assert store.ids() == ["a"]


@pytest.mark.parametrize("bad", ["", "a/b", "../a", ".hidden", "a b", "é", "x" * 201, "quarantine", "a\n"])
def test_bad_ids_are_refused(store, bad):
    with pytest.raises(SetupError, match="cannot name an episode") as caught:
        store.begin(bad)
    assert "\n" not in str(caught.value)
    assert bad not in store


def test_episode_ids_are_readable_safe_and_distinct():
    assert episode_id("metaworld/pick-place", "base", 123) == "metaworld.pick-place--base--000123"
    arms = ["a/b", "a-b", "a//b", "a b", "a--b", "/a/b", "é", "x" * 300, "a"]
    ids = {episode_id("tiny/reach", arm, 1) for arm in arms}
    assert len(ids) == len(arms)
    assert ids == {episode_id("tiny/reach", arm, 1) for arm in arms}
    with pytest.raises(SetupError, match="needs an environment id and an arm"):
        episode_id("tiny/reach", "", 1)


def test_opening_a_store_that_is_not_there(tmp_path):
    with pytest.raises(SetupError, match="no episode store at"):
        EpisodeStore(tmp_path / "nothing", create=False)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SetupError, match="cannot make the episode store"):
            EpisodeStore(path)
