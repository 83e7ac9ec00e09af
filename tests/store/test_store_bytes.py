"""The same episode gives the same bytes, whatever is recorded comes back, and recording is cheap."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from failwise.store import EpisodeStore, check
from failwise.types import Actor, StepRecord

from .samples import CAMERAS, images, meta_for, record, step_record

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NAMES = st.text("abcxyz_ é:/", min_size=1, max_size=5)


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("frames", ["png", "video"])
def test_the_same_episode_twice_is_the_same_bytes(tmp_path, frames):
    first = contents(record(EpisodeStore(tmp_path / "a", frames=frames), 4))
    time.sleep(1.1)  # a date in seconds, anywhere, would show
    second = contents(record(EpisodeStore(tmp_path / "b", frames=frames), 4))
    assert first == second
    assert len(first) == (7 if frames == "png" else 9)


def test_the_order_of_a_mapping_changes_no_byte(tmp_path):
    paths = []
    for name, order in (("a", 1), ("b", -1)):
        writer = EpisodeStore(tmp_path / name).begin("e")
        for step in range(2):
            writer.look(step, dict(list(images(0, step).items())[::order]))
            writer.snapshot(step, dict([("p", np.ones(2)), ("q", np.zeros(1))][::order]))
            writer.step(step_record(step, chunk_step=0, info=dict([("u", 1.0), ("v", 2.0)][::order])))
        extra = dict([("k", 1), ("l", 2)][::order])
        paths.append(writer.commit(meta_for("e", n_steps=2, n_frames=2, first_success_step=1, extra=extra)))
    assert contents(paths[0]) == contents(paths[1])


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_video_frames_are_close_and_found_by_their_look(tmp_path, size):
    store = EpisodeStore(tmp_path, frames="video")
    writer = store.begin("e")
    rows, columns = np.mgrid[: size[0], : size[1]]
    truth = [
        np.stack([rows * 4 + 3 * step, columns * 3, 0 * rows + 5 * step], -1).astype(np.uint8) for step in range(40)
    ]
    for step, image in enumerate(truth):
        writer.look(step, dict.fromkeys(CAMERAS, image))
        writer.step(step_record(step))
    writer.commit(meta_for("e", n_steps=40, n_frames=40))
    episode = store.read("e")
    looks = [37, 0, 13, 12, 11, 13]
    got = episode.frames("wrist", looks)
    assert got.shape == (6, *size, 3) and episode.frames("wrist").shape == (40, *size, 3)
    for place, look in enumerate(looks):
        error = [np.abs(got[place].astype(int) - image).mean() for image in truth]
        assert np.argmin(error) == look and error[look] < 6
    assert check(store, every_image=True).sound
    (episode.path / "frames.wrist.mp4").unlink()
    assert [problem.what for problem in check(store).problems] == ["frames.wrist.mp4 is missing"]


@st.composite
def episodes(draw):
    steps, states, actions = draw(st.integers(0, 6)), draw(st.integers(0, 3)), draw(st.integers(1, 4))
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    infos = st.dictionaries(NAMES, FINITE, max_size=3)
    records = []
    for step in range(steps):
        chunk_step = draw(st.integers(0, 2))
        records.append(
            StepRecord(
                step=step,
                state=draw(arrays(np.float32, states, elements=FINITE)),
                action=draw(arrays(np.float32, actions, elements=FINITE)),
                reward=draw(st.floats(allow_nan=False, allow_infinity=False)),
                conditions={name: draw(st.booleans()) for name in names},
                actor=draw(st.sampled_from(Actor)),
                chunk_step=chunk_step,
                info=draw(infos) if chunk_step == 0 else {},
                score=draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
            )
        )
    shape = (*draw(st.tuples(st.integers(1, 9), st.integers(1, 9))), 3)
    looks = draw(st.lists(st.integers(0, steps), max_size=3, unique=True).map(sorted))
    frames = {look: draw(arrays(np.uint8, shape)) for look in looks}
    dtypes = st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.int16])
    shapes = st.just(()) | array_shapes(max_dims=3, max_side=3)
    snapshots = {
        step: draw(st.dictionaries(NAMES, arrays(dtypes, shapes), min_size=1, max_size=2))
        for step in draw(st.sets(st.integers(0, steps), max_size=2))
    }
    return records, frames, snapshots


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(episodes())
def test_any_small_episode_comes_back_as_it_was(tmp_path_factory, drawn):
    records, frames, snapshots = drawn
    store = EpisodeStore(tmp_path_factory.mktemp("store"))
    writer = store.begin("e")
    for look, image in frames.items():
        writer.look(look, {"corner": image})
    for step, arrays_ in snapshots.items():
        writer.snapshot(step, arrays_)
    for step in records:
        writer.step(step)
    writer.commit(
        meta_for(
            "e",
            outcome="timeout",
            success_once=False,
            success_at_end=False,
            first_success_step=None,
            n_steps=len(records),
            n_frames=len(frames),
            cameras=("corner",),
        )
    )
    episode = store.read("e")
    for got, expected in zip(episode.steps(), records, strict=True):
        np.testing.assert_array_equal(got.state, expected.state)
        np.testing.assert_array_equal(got.action, expected.action)
        for name in ("step", "reward", "conditions", "actor", "chunk_step", "info", "score"):
            assert getattr(got, name) == getattr(expected, name)
    assert episode.look_steps().tolist() == list(frames)
    for place, image in enumerate(frames.values()):
        np.testing.assert_array_equal(episode.frames("corner", [place])[0], image)
    assert episode.snapshot_steps() == sorted(snapshots)
    for step, arrays_ in snapshots.items():
        got_arrays = episode.snapshot(step)
        assert got_arrays.keys() == arrays_.keys()
        for name, array in arrays_.items():
            assert got_arrays[name].dtype == array.dtype and got_arrays[name].shape == array.shape
            np.testing.assert_array_equal(got_arrays[name], array)
    assert check(store, every_image=True).sound


def test_recording_costs_at_most_two_milliseconds_a_step(tmp_path):
    store = EpisodeStore(tmp_path)
    record(store)  # the first use of a library is not the recorder's cost
    steps = 160
    looks = [images(0, step, 128, 128) for step in range(0, steps, 8)]
    spent = time.process_time()
    writer = store.begin("e")
    for step in range(steps):
        if step % 8 == 0:
            writer.look(step, looks[step // 8])
            writer.features(step, np.zeros(256))
            writer.snapshot(step, {"qpos": np.zeros(50)})
        writer.step(step_record(step))
    writer.commit(meta_for("e", n_steps=steps, n_frames=len(looks), step_limit=steps))
    spent = time.process_time() - spent  # of this process, so that other work on the machine does not count
    assert spent / steps <= 2e-3
