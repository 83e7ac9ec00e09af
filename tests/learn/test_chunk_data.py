"""Episodes as samples, against the episodes themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from chunk_data import made_up

from failwise.errors import DataError
from failwise.learn.data import balanced_weights, concatenate, load_chunks, masked_mean, shifted
from failwise.store import EpisodeStore


def test_each_sample_is_a_look_and_what_followed(demos):
    data = load_chunks(demos, 4)
    store = EpisodeStore(demos)
    assert len(data.episodes) == 40 and len(data) == sum(len(store.read(i).look_steps()) for i in store.ids())
    for m in range(0, len(data), 37):
        meta, step = data.episodes[data.episode[m]], int(data.step[m])
        episode = store.read(meta.episode_id)
        actions = episode.actions()
        last = len(actions) - 1
        assert np.array_equal(data.actions[m], actions[[min(step + h, last) for h in range(4)]])
        assert data.valid[m].tolist() == [step + h <= last for h in range(4)]
        assert np.array_equal(data.states[m], episode.states()[step])
        look = episode.look_steps().tolist().index(step)
        for camera in ("robot", "top"):
            assert np.array_equal(data.images[camera][m], episode.frames(camera, [look])[0])
        assert data.success[m] == (meta.outcome == "success")
        assert data.sentences[data.sentence[m]] == meta.instruction
    assert not data.valid.all() and data.valid[:, 0].all()


def test_only_what_is_kept_is_read(demos, failures):
    data = load_chunks(demos, 4, lambda m: m.env_seed < 3, cameras=("top",))
    assert [m.env_seed for m in data.episodes] == [0, 1, 2] and set(data.images) == {"top"}
    both = load_chunks([demos, failures], 4, lambda m: m.env_seed < 2)
    assert [m.env_id for m in both.episodes] == ["tiny/reach"] * 2 + ["tiny/push"] * 2
    assert len(both.sentences) == 2
    for m in (0, len(both) - 1):
        assert both.sentences[both.sentence[m]] == both.episodes[both.episode[m]].instruction


def test_looks_of_the_policy_are_marked(failures):
    data = load_chunks(failures, 4)
    assert data.inferred.all() and set(data.step.tolist()) <= {0, 8, 16}


def test_the_order_of_the_parts_is_kept():
    one = made_up([("reach", "success", [0, 4]), ("reach", "timeout", [0])])
    other = replace(made_up([("push", "failure", [0, 4, 8])], seed=1), sentences=("another sentence",))
    both = concatenate([one, other, one])
    assert both.episode.tolist() == [0, 0, 1, 2, 2, 2, 3, 3, 4]
    assert [both.sentences[i] for i in both.sentence] == [one.sentences[0]] * 3 + ["another sentence"] * 3 + [
        one.sentences[0]
    ] * 3
    assert np.array_equal(both.states, np.concatenate([one.states, other.states, one.states]))
    assert both.success.tolist() == [True, True, False, False, False, False, True, True, False]


def test_taking_keeps_every_part_in_step():
    data = made_up([("reach", "success", [0, 4, 8]), ("push", "timeout", [0, 2])])
    mask = np.array([False, True, True, False, True])
    part = data.take(mask)
    assert len(part) == 3 and part.episodes == data.episodes
    assert part.episode.tolist() == [0, 0, 1] and part.step.tolist() == [4, 8, 2]
    for name in ("states", "actions", "valid", "sentence", "inferred"):
        assert np.array_equal(getattr(part, name), getattr(data, name)[mask])
    assert all(np.array_equal(part.images[c], data.images[c][mask]) for c in data.images)


def test_parts_that_do_not_fit_are_refused():
    data = made_up([("reach", "success", [0, 4])])
    one_camera = replace(data, images={"top": data.images["top"]})
    small = replace(data, images={c: x[:, :16] for c, x in data.images.items()})
    for other in (one_camera, small):
        with pytest.raises(DataError, match="other cameras or image sizes"):
            concatenate([data, other])
    for other in (replace(data, states=data.states[:, 1:]), replace(data, actions=data.actions[:, :3])):
        with pytest.raises(DataError, match="another number of state or action dims"):
            concatenate([data, other])


def test_what_cannot_be_read_is_told(demos, tmp_path):
    with pytest.raises(DataError, match=r"no episode store at .*nothing; make one with: failwise collect"):
        load_chunks(tmp_path / "nothing", 4)
    with pytest.raises(DataError, match="no usable episode with pictures"):
        load_chunks(demos, 4, lambda m: False)
    with pytest.raises(DataError, match=r"has no camera 'wrist', only \['top', 'robot'\]"):
        load_chunks(demos, 4, cameras=("top", "wrist"))


def test_every_task_gets_the_same_share():
    data = made_up(
        [
            ("reach", "success", range(7)),
            ("push", "timeout", [0]),
            ("reach", "failure", [0, 4]),
            ("lift", "success", [0, 4]),
        ]
    )
    weights = balanced_weights(data)
    counts = {"tiny/reach": 9, "tiny/push": 1, "tiny/lift": 2}
    slow = [1 / 3 / counts[data.episodes[e].env_id] for e in data.episode]
    np.testing.assert_allclose(weights, slow)
    assert weights.sum() == pytest.approx(1)


def test_the_masked_mean_counts_real_steps_only():
    generator = torch.Generator().manual_seed(0)
    error, valid = torch.rand(3, 2, 4, 5, generator=generator), torch.rand(3, 4, generator=generator) > 0.4
    total, count = 0.0, 0
    for b in range(3):
        for n in range(2):
            for h in range(4):
                for a in range(5):
                    if valid[b, h]:
                        total, count = total + float(error[b, n, h, a]), count + 1
    assert 0 < count < 120
    assert float(masked_mean(error, valid)) == pytest.approx(total / count, rel=1e-5)
    assert float(masked_mean(error, torch.ones(3, 4, dtype=torch.bool))) == pytest.approx(float(error.mean()), rel=1e-5)
    assert float(masked_mean(error, torch.zeros(3, 4, dtype=torch.bool))) == 0.0


def test_shifted_images_are_the_image_moved():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 8, 9, 3), np.uint8)
    moved = shifted(images, 2, np.random.default_rng(1))
    seen = set()
    for image, got in zip(images, moved, strict=True):
        fits = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if np.array_equal(got, slow_shift(image, y, x))]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 12, "each image gets a shift of its own"
    assert shifted(images, 0, random) is images


def slow_shift(image, dy, dx):
    h, w, _ = image.shape
    out = np.empty_like(image)
    for y in range(h):
        for x in range(w):
            out[y, x] = image[min(max(y + dy, 0), h - 1), min(max(x + dx, 0), w - 1)]
    return out
