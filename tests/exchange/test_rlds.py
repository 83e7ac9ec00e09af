"""RLDS datasets come in exactly, once, without TensorFlow, and only if it is known how their episodes ended."""

from __future__ import annotations

import io
import json
import struct
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image

from failwise.cli import main
from failwise.exchange import RldsOptions, import_rlds
from failwise.store import EpisodeStore, check, episode_id

from .foreign_files import (
    SIZE,
    STEPS,
    encoded,
    episode,
    example,
    features_dict,
    features_json,
    frame,
    image,
    masked,
    picture,
    tensor,
    write_rlds,
)

pytest.importorskip("google_crc32c", reason="pip install 'failwise[rlds]'")

SHARD = "mugs-train.tfrecord-00000-of-00001"


@pytest.fixture
def dataset(tmp_path):
    """Five episodes: two files of train, one of val."""
    train = [[episode(0), episode(1, steps=4)], [episode(2, words="Open the drawer.")]]
    return write_rlds(tmp_path / "mugs", {"train": train, "val": [[episode(3), episode(4)]]})


def single(tmp_path, features=None, name="mugs", **changes):
    return write_rlds(tmp_path / name, {"train": [[episode(0), episode(1, **changes)]]}, features)


def stored(folder, **options):
    import_rlds(folder, folder.parent / "store", RldsOptions(**options))
    store = EpisodeStore(folder.parent / "store", create=False)
    return sorted((store.read(name) for name in store.ids()), key=lambda one: one.meta.env_seed)


def refused(capsys, *command: object) -> str:
    """The one line that a refused import says."""
    assert main(["store", "import", *map(str, command)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    return said[0]


def test_episodes_come_in_exactly(dataset, tmp_path):
    done = import_rlds(dataset, tmp_path / "store")
    assert done.outcomes == {"success": 5} and done.depth_cameras == ["depth"]
    store = EpisodeStore(tmp_path / "store", create=False)
    assert check(store, every_image=True).sound
    found = sorted((store.read(name) for name in store.ids()), key=lambda one: one.meta.env_seed)
    for seed, one in enumerate(found):
        steps = 4 if seed == 1 else STEPS
        wrote = episode(seed, steps=steps)
        np.testing.assert_array_equal(one.actions(), wrote["steps/action"], strict=True)
        np.testing.assert_array_equal(one.states(), wrote["steps/observation/state"], strict=True)
        np.testing.assert_array_equal(one.rewards(), wrote["steps/reward"])
        assert one.cameras() == ("image", "wrist_image")
        np.testing.assert_array_equal(one.frames("image"), np.stack([picture(seed, s, 0) for s in range(steps)]))
        jpegs = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in wrote["steps/observation/wrist_image"]]
        np.testing.assert_array_equal(one.frames("wrist_image"), np.stack(jpegs))
        meta = one.meta
        assert (meta.env_seed, meta.n_steps, meta.arm, meta.control_hz) == (seed, steps, "mugs", 10.0)
        assert (meta.outcome, meta.first_success_step) == ("success", steps - 1)
    assert found[0].id == episode_id("rlds/pick-up-the-mug", "mugs", 0)
    assert found[0].meta.instruction == "Pick up the mug." and found[2].meta.instruction == "Open the drawer."
    assert found[4].meta.provenance.agent == "rlds mugs-val.tfrecord-00000-of-00001: record 1"


def test_a_second_run_reads_nothing_again(dataset, tmp_path):
    import_rlds(dataset, tmp_path / "store")
    for file in dataset.glob("*.tfrecord*"):  # content that is read is noticed, and this is not
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
    done = import_rlds(dataset, tmp_path / "store")
    assert (done.outcomes, done.present) == ({}, 5)


def test_what_was_stopped_goes_on_where_it_was(dataset, tmp_path):
    def stop_after_two(episodes):
        episodes = iter(episodes)
        yield next(episodes)
        yield next(episodes)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_rlds(dataset, tmp_path / "store", progress=stop_after_two)
    assert len([path for path in (tmp_path / "store").iterdir() if path.is_dir()]) == 2
    done = import_rlds(dataset, tmp_path / "store")
    assert (done.outcomes, done.present) == ({"success": 3}, 2)


def test_a_split_keeps_the_numbers_of_the_whole(dataset):
    assert [one.meta.env_seed for one in stored(dataset, split="val")] == [3, 4]
    assert [one.meta.env_seed for one in stored(dataset)] == [0, 1, 2, 3, 4]


def test_a_dataset_in_parts(dataset, capsys, tmp_path):
    (dataset / "mugs-train.tfrecord-00000-of-00002").unlink()
    said = refused(capsys, "--rlds", dataset, "--out", tmp_path / "s")
    assert "mugs-train.tfrecord-00000-of-00002 is missing; 2 of 3 files are there, which --partial takes" in said
    assert [one.meta.env_seed for one in stored(dataset, partial=True)] == [2, 3, 4]


def test_the_folder_above_the_only_version(dataset, tmp_path, capsys):
    (tmp_path / "above").mkdir()
    dataset.rename(tmp_path / "above" / "1.0.0")
    assert len(stored(tmp_path / "above")) == 5
    write_rlds(tmp_path / "above" / "2.0.0", {"train": [[episode(0)]]})
    assert "one version (1.0.0, 2.0.0)" in refused(capsys, "--rlds", tmp_path / "above", "--out", tmp_path / "s")


def test_the_commands(dataset, tmp_path, capsys):
    command = ["store", "import", "--rlds", str(dataset), "--out", str(tmp_path / "s"), "--task", "mug", "--arm", "ann"]
    assert main(command) == 0
    said = capsys.readouterr().out
    for words in ("5 episodes imported (5 success), 0 were there already", "no rate: 10 steps", "not kept: depth"):
        assert words in said
    assert main(command) == 0
    assert "0 episodes imported (none), 5 were there already" in capsys.readouterr().out
    assert EpisodeStore(tmp_path / "s").ids()[0] == episode_id("rlds/mug", "ann", 0)
    for words in ("store import --help", "store import --rlds --help", "store import --robomimic FILE -h"):
        with pytest.raises(SystemExit) as end:
            main(words.split())
        assert not end.value.code
    assert "--filter-key" in capsys.readouterr().out


def test_another_dataset_of_the_same_name_is_not_taken_for_this_one(tmp_path, capsys):
    first, other = single(tmp_path, name="a"), write_rlds(tmp_path / "b", {"train": [[episode(8)]]})
    import_rlds(first, tmp_path / "s")
    assert "has another episode" in refused(capsys, "--rlds", other, "--out", tmp_path / "s")


def test_parts_of_an_action_and_of_a_state_are_joined(tmp_path, capsys):
    """As in RT-1's dataset: the action is a dictionary, the state has another name, and integers are among them."""
    action = features_dict({"world_vector": tensor("float32", 3), "terminate": tensor("int32", 3)})
    observation = features_dict({"image": image(), "base_pose": tensor("float32", 7), "gripper": tensor("float32", 1)})
    features = features_json({"action": action, "observation": observation})
    noise = np.random.default_rng(0)
    wrote = {
        "steps__action": None, "steps__observation__state": None,
        "steps__action__world_vector": noise.normal(size=(STEPS, 3)).astype(np.float32),
        "steps__action__terminate": noise.integers(-5, 5, (STEPS, 3)),
        "steps__observation__base_pose": noise.normal(size=(STEPS, 7)).astype(np.float32),
        "steps__observation__gripper": noise.normal(size=STEPS).astype(np.float32),
    }  # fmt: skip
    folder = write_rlds(tmp_path / "rt", {"train": [[episode(0, **wrote)]]}, features)
    said = refused(capsys, "--rlds", folder, "--out", tmp_path / "s", "--state", "none")
    assert "--action KEY,KEY; there are world_vector, terminate" in said
    said = refused(capsys, "--rlds", folder, "--out", tmp_path / "s", "--action", "terminate")
    assert "--state KEY,KEY or --state none; there are base_pose, gripper" in said
    (one,) = stored(folder, action="world_vector,terminate", state="gripper,base_pose")
    np.testing.assert_array_equal(one.actions()[:, :3], wrote["steps__action__world_vector"])
    np.testing.assert_array_equal(one.actions()[:, 3:], wrote["steps__action__terminate"])
    np.testing.assert_array_equal(one.states()[:, 0], wrote["steps__observation__gripper"])
    np.testing.assert_array_equal(one.states()[:, 1:], wrote["steps__observation__base_pose"])


@pytest.mark.parametrize("reward", [np.zeros(STEPS), np.linspace(0, 1, STEPS), np.ones(STEPS)])
def test_success_is_never_guessed(tmp_path, capsys, reward):
    folder = single(tmp_path, steps__reward=reward.astype(np.float32))
    said = refused(capsys, "--rlds", folder, "--out", tmp_path / "s")
    assert f"{SHARD}: record 1 does not say whether it succeeded" in said and "--outcome" in said
    assert [one.meta.env_seed for one in stored(folder, outcome="failure")] == [0, 1]
    assert [one.meta.outcome for one in stored(folder)] == ["success", "failure"]  # they are there already


def test_without_rewards_nothing_is_written_unless_it_is_said(tmp_path, capsys):
    folder = single(tmp_path, features_json({"reward": None}))
    said = refused(capsys, "--rlds", folder, "--out", tmp_path / "s")
    assert "does not say which episodes succeeded: no episode_metadata/success, no steps/reward" in said
    assert not EpisodeStore(tmp_path / "s").ids()
    assert {one.meta.outcome for one in stored(folder, outcome="success")} == {"success"}


def test_a_label_of_the_episode_counts_more_than_rewards(tmp_path):
    features = features_json(metadata={"success": tensor("bool")})
    records = [episode(k, episode_metadata__success=np.array([k])) for k in (0, 1)]
    first, second = stored(write_rlds(tmp_path / "mugs", {"train": [records]}, features))
    assert (first.meta.outcome, second.meta.outcome) == ("failure", "success")
    assert second.conditions()["success"].tolist() == [False] * (STEPS - 1) + [True]


def test_a_label_of_the_steps_may_have_another_name(tmp_path):
    features = features_json({"grasped": tensor("bool")})
    grasped = np.arange(STEPS) == 2
    folder = write_rlds(tmp_path / "mugs", {"train": [[episode(0, steps__grasped=grasped.astype(int))]]}, features)
    (one,) = stored(folder, success_key="grasped")
    assert (one.meta.first_success_step, one.meta.success_at_end) == (2, False)


BAD_RECORDS = {
    "no action": ({"steps__action": None}, "steps/action is missing"),
    "no steps": ({"steps__action": np.zeros(0, np.float32)}, "steps/action has 0 steps"),
    "half a step": ({"steps__action": np.zeros(10, np.float32)}, "steps/action has 10 numbers, expected T x 4"),
    "words": ({"steps__action": [b"up"] * STEPS}, "steps/action is a list of bytes, expected numbers"),
    "few states": ({"steps__observation__state": np.zeros(5, np.float32)}, f"has 5 numbers, expected {STEPS} x 5"),
    "few rewards": ({"steps__reward": np.ones(3, np.float32)}, f"steps/reward has 3 numbers, expected {STEPS} x 1"),
    "few pictures": ({"steps__observation__image": [b""]}, f"observation/image has 1 pictures, expected {STEPS}"),
    "numbers for pictures": ({"steps__observation__image": np.zeros(STEPS)}, "is a list of floats, expected bytes"),
    "an empty picture": ({"steps__observation__image": [b""] * STEPS}, "observation/image, step 0 is empty"),
    "a cut picture": ({"steps__observation__image": [encoded(picture(1))[:200]] * STEPS}, "neither a sound PNG"),
    "a cut JPEG": ({"steps__observation__image": [encoded(picture(1), "JPEG")[:200]] * STEPS}, "neither a sound PNG"),
    "another format": ({"steps__observation__image": [encoded(picture(1), "GIF")] * STEPS}, "neither a sound PNG"),
    "another size": ({"steps__observation__image": [encoded(picture(1)[:5])] * STEPS}, "of 5x16, expected 12x16"),
    "nan": ({"steps__action": np.full((STEPS, 4), np.nan, np.float32)}, "action[0] is not finite"),
    "no text": ({"steps__language_instruction": [b"\xff"] * STEPS}, "language_instruction is no text"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_damaged_record_is_one_line_and_the_episodes_before_it_stay(tmp_path, capsys, change, expected):
    said = refused(capsys, "--rlds", single(tmp_path, **change), "--out", tmp_path / "s")
    assert expected in said and f"{SHARD}: record 1" in said
    assert [meta.env_seed for meta in EpisodeStore(tmp_path / "s").metas()] == [0]
    assert not list((tmp_path / "s").glob(".writing*"))


def broken(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def claims(length: int) -> bytes:
    head = struct.pack("<Q", length)
    return head + masked(head) + b"abc"


BAD_FILES = {
    "a bit of the content": (lambda c: broken(c, 500), "record 0 is damaged: its checksum does not fit"),
    "a bit of the checksum": (lambda c: broken(c, len(c) - 1), "record 1 is damaged: its checksum does not fit"),
    "a bit of the length": (lambda c: broken(c, 0), "record 0 is damaged, or this is no TFRecord file"),
    "cut in a record": (lambda c: c[:-10], "record 1 is cut off: it claims"),
    "cut in a header": (lambda c: c + b"1234", "record 2 is cut off: 4 bytes are left"),
    "too few": (lambda c: frame(example(episode(0))), "has fewer records than dataset_info.json says, which are 2"),
    "too many": (lambda c: c + frame(b""), "has more records than dataset_info.json says, which are 2"),
    "empty": (lambda c: b"", "has fewer records than"),
    "text": (lambda c: b"hello, this is no record", "record 0 is damaged, or this is no TFRecord file"),
    "all the memory": (lambda c: claims(2**63), "claims 9223372036854775808 bytes, more than the 2147483647"),
    "two gigabytes": (lambda c: claims(2**31 - 1), "is cut off: it claims 2147483647 bytes, 3 are left"),
    "no example": (lambda c: frame(b"\xff" * 30), "is damaged: a number does not end"),
    "an empty example": (lambda c: frame(b"") + c, "steps/action is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_damaged_file_is_one_line_and_little_memory(tmp_path, capsys, change, expected):
    folder = single(tmp_path)
    file = folder / SHARD
    file.write_bytes(change(file.read_bytes()))
    tracemalloc.start()
    try:
        said = refused(capsys, "--rlds", folder, "--out", tmp_path / "s")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert expected in said and SHARD in said


def info(**changes) -> str:
    split = {"name": "train", "shardLengths": ["2"]} | changes.pop("split", {})
    return json.dumps({"name": "mugs", "splits": [split]} | changes)


BAD_DESCRIPTIONS = {
    "no JSON": ("features.json", "{", "features.json is no JSON"),
    "a list": ("features.json", "[]", "features.json is no JSON object"),
    "deep": ("features.json", "[" * 10**5, "features.json is no JSON"),
    "older form": ("features.json", '{"type": "FeaturesDict", "content": {}}', "damaged or of an older form"),
    "no steps": ("features.json", json.dumps(features_dict({"image": image()})), "names no steps"),
    "no shape": ("features.json", json.dumps(features_json({"action": {"tensor": 3}})), "damaged or of an older form"),
    "packed": (
        "features.json", json.dumps(features_json({"action": {"tensor": {"encoding": "zlib", "dtype": "float32"}}})),
        "has no vector steps/action",
    ),
    "another format": ("dataset_info.json", info(fileFormat="array_record"), "files are array_record, only tfrecord"),
    "no splits": ("dataset_info.json", '{"name": "mugs"}', "is damaged: KeyError 'splits'"),
    "no lengths": ("dataset_info.json", info(split={"shardLengths": ["Unknown"]}), "is damaged: ValueError"),
    "a length below 0": ("dataset_info.json", info(split={"shardLengths": ["-2"]}), "is damaged: ValueError"),
    "a huge length": ("dataset_info.json", info(split={"shardLengths": [str(2**64)]}), "is damaged: ValueError"),
    "nothing": ("dataset_info.json", info(split={"shardLengths": []}), "names no episode"),
    "a way out": ("dataset_info.json", info(split={"filepathTemplate": "../{SPLIT}"}), "'../train' of 2 episodes"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "content", "expected"), BAD_DESCRIPTIONS.values(), ids=BAD_DESCRIPTIONS)
def test_a_damaged_description_is_one_line(tmp_path, capsys, file, content, expected):
    folder = single(tmp_path)
    (folder / file).write_text(content)
    assert expected in refused(capsys, "--rlds", folder, "--out", tmp_path / "s")
    assert not EpisodeStore(tmp_path / "s").ids()


def test_what_is_no_dataset_is_one_line(tmp_path, capsys):
    assert "is no folder" in refused(capsys, "--rlds", tmp_path / "nowhere", "--out", tmp_path / "s")
    assert "has no dataset_info.json" in refused(capsys, "--rlds", tmp_path, "--out", tmp_path / "s")
    folder = single(tmp_path)
    (folder / "features.json").unlink()
    assert "features.json cannot be read" in refused(capsys, "--rlds", folder, "--out", tmp_path / "s")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("--split", "test", "no split test"), ("--state", "won", "no vector or number 'won' (--state)"),
     ("--success-key", "image", "no vector or number 'image' (--success-key)"), ("--control-hz", "-1", "--control-hz")],
)  # fmt: skip
def test_options_that_mean_nothing_are_one_line(tmp_path, capsys, option, value, expected):
    assert expected in refused(capsys, "--rlds", single(tmp_path), "--out", tmp_path / "s", option, value)


def test_a_picture_larger_than_any_cameras_is_not_decoded(tmp_path, capsys):
    """A PNG of a few kilobytes that unpacks to 300 megabytes."""
    sink = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(sink, "PNG")
    anything = image() | {"image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"}}
    features = features_json()
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    steps["observation"]["featuresDict"]["features"]["image"] = anything
    folder = single(tmp_path, features, steps__observation__image=[sink.getvalue()] * STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = refused(capsys, "--rlds", folder, "--out", tmp_path / "s")
    assert "is a picture of 10000x10000, more than 16777216 pixels" in said


def test_without_the_checksums_library_one_line_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    said = refused(capsys, "--rlds", single(tmp_path), "--out", tmp_path / "s")
    assert "pip install 'failwise[rlds]'" in said


def test_no_tensorflow_is_loaded(dataset, tmp_path):
    import_rlds(dataset, tmp_path / "store")
    assert not {"tensorflow", "tensorflow_datasets", "tfds"} & set(sys.modules)


def test_the_sizes_of_the_samples_differ():
    assert SIZE[0] != SIZE[1]  # a picture that was turned would not pass
