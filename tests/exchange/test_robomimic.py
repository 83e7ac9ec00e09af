"""Demonstrations of robomimic's form come in exactly, once, and only if it is known how they ended."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from failwise.cli import main
from failwise.errors import DataError
from failwise.exchange import RobomimicOptions, import_robomimic
from failwise.store import EpisodeStore, check, episode_id

from .foreign_files import ENV_ARGS, SIZE, STEPS, demo, write_robomimic

h5py = pytest.importorskip("h5py", reason="pip install 'failwise[robomimic]'")


@pytest.fixture
def file(tmp_path):
    return write_robomimic(tmp_path / "ph" / "image.hdf5", {f"demo_{k}": demo(k) for k in (0, 2, 10)})


def stored(path, **options):
    import_robomimic(path, path.parent / "store", RobomimicOptions(**options))
    store = EpisodeStore(path.parent / "store", create=False)
    return [store.read(name) for name in store.ids()]


def refused(capsys, *command: object) -> str:
    """The one line that a refused import says."""
    assert main(["store", "import", *map(str, command)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, said
    return said[0]


def test_demonstrations_come_in_exactly(file, tmp_path):
    done = import_robomimic(file, tmp_path / "store")
    assert done.outcomes == {"success": 3} and done.depth_cameras == ["agentview_depth"]
    store = EpisodeStore(tmp_path / "store", create=False)
    assert check(store, every_image=True).sound
    assert store.ids() == [episode_id("robomimic/PickPlaceCan", "image", seed) for seed in (0, 2, 10)]
    for seed, name in zip((0, 2, 10), store.ids(), strict=True):
        episode, wrote = store.read(name), demo(seed)
        np.testing.assert_array_equal(episode.actions(), wrote["actions"].astype(np.float32))
        names = ("eef_pos", "eef_quat", "gripper_qpos")
        states = np.concatenate([wrote[f"obs/robot0_{key}"] for key in names], axis=1)
        np.testing.assert_array_equal(episode.states(), states.astype(np.float32))
        np.testing.assert_array_equal(episode.rewards(), wrote["rewards"])
        assert episode.cameras() == ("agentview", "robot0_eye_in_hand")
        np.testing.assert_array_equal(episode.frames("agentview"), wrote["obs/agentview_image"])
        np.testing.assert_array_equal(episode.frames("robot0_eye_in_hand"), wrote["obs/robot0_eye_in_hand_image"])
        meta = episode.meta
        assert (meta.env_seed, meta.n_steps, meta.control_hz, meta.arm) == (seed, STEPS, 25.0, "image")
        assert (meta.outcome, meta.first_success_step, meta.success_at_end) == ("success", STEPS - 1, True)
        assert meta.instruction == "pick place can" and meta.task == "PickPlaceCan"
        assert meta.provenance.agent == f"robomimic image.hdf5: demo_{seed}"
        assert episode.conditions()["success"].tolist() == [False] * (STEPS - 1) + [True]


def test_a_second_run_adds_only_what_is_new(file, tmp_path):
    out = tmp_path / "store"
    import_robomimic(file, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    write_robomimic(file, {f"demo_{k}": demo(k) for k in (0, 2, 3, 10)})
    done = import_robomimic(file, out)
    assert (done.outcomes, done.present) == ({"success": 1}, 3)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


def test_what_was_stopped_goes_on_where_it_was(file, tmp_path):
    def stop_after_one(episodes):
        episodes = iter(episodes)
        yield next(episodes)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_robomimic(file, tmp_path / "store", progress=stop_after_one)
    assert [path.name for path in (tmp_path / "store").iterdir() if path.is_dir()] == [
        episode_id("robomimic/PickPlaceCan", "image", 0)
    ]
    done = import_robomimic(file, tmp_path / "store")
    assert (done.outcomes, done.present) == ({"success": 2}, 1)


def test_another_file_of_the_same_name_is_not_taken_for_this_one(file, tmp_path, capsys):
    import_robomimic(file, tmp_path / "store")
    other = write_robomimic(tmp_path / "mh" / "image.hdf5", {"demo_0": demo(7)})
    said = refused(capsys, "--robomimic", other, "--out", tmp_path / "store")
    assert "has another episode" in said and "--arm" in said
    assert main(["store", "import", "--robomimic", str(other), "--out", str(tmp_path / "store"), "--arm", "mh"]) == 0
    assert len(EpisodeStore(tmp_path / "store", create=False)) == 4


def test_what_was_asked_for_counts(file):
    (one, *_) = stored(
        file, task="lab/can", instruction="Lift the can", arm="ann", actor="human", control_hz=5.0,
        state="object,robot0_gripper_qpos", look_every=3,
    )  # fmt: skip
    assert one.id == episode_id("lab/can", "ann", 0)
    assert (one.meta.instruction, one.meta.control_hz) == ("Lift the can", 5.0)
    assert one.states().shape == (STEPS, 12) and one.look_steps().tolist() == [0, 3, 6]
    np.testing.assert_array_equal(one.states()[:, :10], demo(0)["obs/object"].astype(np.float32))
    assert set(one.actors().tolist()) == {"human"}


def test_no_pictures_and_no_state(file):
    (one, *_) = stored(file, state="none", look_every=0)
    assert one.states().shape == (STEPS, 0) and one.meta.n_frames == 0 and one.meta.cameras == ()


def test_other_robots_give_all_their_vectors(tmp_path):
    odd = demo(0, **{"obs/robot0_eef_pos": None, "obs/robot0_eef_quat": None})
    (one,) = stored(write_robomimic(tmp_path / "odd.hdf5", {"demo_0": odd}))
    np.testing.assert_array_equal(one.states(), odd["obs/robot0_gripper_qpos"].astype(np.float32))  # and not object


def libero(seed: int) -> dict:
    parts = demo(seed)
    shown = {"obs/agentview_rgb": parts["obs/agentview_image"], "obs/eye_in_hand_rgb": parts["obs/agentview_image"]}
    vectors = {"obs/ee_states": 6, "obs/gripper_states": 2, "obs/joint_states": 7, "obs/ee_pos": 3}
    noise = np.random.default_rng(seed)
    low = {key: noise.normal(size=(STEPS, width)) for key, width in vectors.items()}
    ends = {"rewards": parts["rewards"].astype(np.uint8), "dones": parts["dones"].astype(np.uint8)}
    return {"actions": parts["actions"], **shown, **low, **ends}


LIBERO = {
    "env_args": json.dumps({"env_name": "Libero_Kitchen", "env_kwargs": {"control_freq": 20, "reward_shaping": True}}),
    "problem_info": json.dumps({"language_instruction": "turn on the stove", "problem_name": "libero_kitchen"}),
    "macros_image_convention": "opengl",
}


def test_liberos_pictures_are_turned_and_its_words_kept(tmp_path):
    path = write_robomimic(tmp_path / "stove_demo.hdf5", {"demo_0": libero(0)}, LIBERO)
    (one,) = stored(path)
    assert (one.meta.env_id, one.meta.instruction) == ("robomimic/turn-on-the-stove", "turn on the stove")
    assert (one.meta.outcome, one.meta.control_hz) == ("success", 20.0)
    assert one.cameras() == ("agentview", "eye_in_hand")
    wrote = libero(0)
    np.testing.assert_array_equal(one.frames("agentview"), wrote["obs/agentview_rgb"][:, ::-1])
    states = np.concatenate([wrote["obs/ee_states"], wrote["obs/gripper_states"]], axis=1)
    np.testing.assert_array_equal(one.states(), states.astype(np.float32))
    done = import_robomimic(path, tmp_path / "raw", RobomimicOptions(upside_down="no"))
    raw = EpisodeStore(tmp_path / "raw", create=False).read(one.id)
    np.testing.assert_array_equal(raw.frames("agentview"), wrote["obs/agentview_rgb"])
    assert any("after each action" in note for note in done.notes)


def test_long_pictures_are_read_in_slabs(tmp_path, monkeypatch):
    monkeypatch.setattr("failwise.exchange.hdf5._SLAB_BYTES", 2 * SIZE[0] * SIZE[1] * 3 + 1)
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0)})
    (one,) = stored(path, look_every=2)
    np.testing.assert_array_equal(one.frames("agentview"), demo(0)["obs/agentview_image"][::2])


def test_a_filter_key_chooses(file, capsys, tmp_path):
    with h5py.File(file, "a") as writing:
        writing["mask/valid"] = np.array([b"demo_2", b"demo_10"])
    assert [episode.meta.env_seed for episode in stored(file, filter_key="valid")] == [2, 10]
    said = refused(capsys, "--robomimic", file, "--out", tmp_path / "s", "--filter-key", "train")
    assert "no mask/train" in said and "known: valid" in said


UNTOLD = {
    "no reward": (None, "no rewards"),
    "never positive": (np.zeros(STEPS), "rewards of 0 to 0"),
    "shaped": (np.linspace(0, 0.9, STEPS), "rewards of 0 to 0.9"),
    "shaped up to one": (np.linspace(0, 1, STEPS), "rewards of 0 to 1"),
    "pays for being alive": (np.ones(STEPS), "rewards of 1 to 1"),
}


@pytest.mark.parametrize(("rewards", "expected"), UNTOLD.values(), ids=UNTOLD)
def test_success_is_never_guessed(tmp_path, capsys, rewards, expected):
    """The second demonstration is the one that does not tell, and not even the first is written."""
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0), "demo_1": demo(1, rewards=rewards)})
    said = refused(capsys, "--robomimic", path, "--out", tmp_path / "s")
    assert "a.hdf5: demo_1 does not say whether it succeeded" in said and expected in said and "--outcome" in said
    assert not EpisodeStore(tmp_path / "s").ids()
    command = ["store", "import", "--robomimic", str(path), "--out", str(tmp_path / "s"), "--outcome", "failure"]
    assert main(command) == 0
    assert [m.outcome for m in EpisodeStore(tmp_path / "s").metas()] == ["success", "failure"]


def test_what_is_assumed_is_said_of_the_last_step(tmp_path):
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0, rewards=None)})
    (one,) = stored(path, outcome="success")
    assert (one.meta.outcome, one.meta.first_success_step) == ("success", STEPS - 1)
    assert not one.rewards().any()


def test_a_label_counts_more_than_rewards(tmp_path):
    once = np.zeros(STEPS, bool)
    once[3] = True
    demos = {"demo_0": demo(0, success=once), "demo_1": demo(1, success=np.zeros(STEPS, np.uint8))}
    first, second = stored(write_robomimic(tmp_path / "a.hdf5", demos))
    assert (first.meta.outcome, first.meta.first_success_step, first.meta.success_at_end) == ("success", 3, False)
    assert second.meta.outcome == "failure"


def test_a_label_may_be_an_attribute_or_have_another_name(tmp_path):
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0, rewards=None)})
    with h5py.File(path, "a") as writing:
        writing["data/demo_0"].attrs["success"] = False
    assert stored(path)[0].meta.outcome == "failure"
    other = write_robomimic(tmp_path / "b.hdf5", {"demo_0": demo(0, rewards=None)})
    assert stored(other, success_key="dones", arm="b")[-1].meta.first_success_step == STEPS - 1


def test_notes_tell_what_was_taken_for_granted(tmp_path, capsys):
    path = write_robomimic(tmp_path / "bare.hdf5", {"demo_0": demo(0)}, {})
    assert main(["store", "import", "--robomimic", str(path), "--out", str(tmp_path / "s")]) == 0
    said = capsys.readouterr().out
    for word in ("1 episodes imported (1 success)", "names no rate: 20 steps", "no instruction", "agentview_depth"):
        assert word in said
    (meta,) = EpisodeStore(tmp_path / "s").metas()
    assert (meta.env_id, meta.instruction, meta.control_hz) == ("robomimic/bare", "bare", 20.0)


BAD_DEMOS = {
    "no actions": ({"actions": None}, "demo_1: actions is missing"),
    "no steps": ({"actions": np.zeros((0, 7))}, r"actions has shape (0, 7), expected 1 to"),
    "flat actions": ({"actions": np.float64(3)}, "actions has shape ()"),
    "actions in 3d": ({"actions": np.zeros((STEPS, 7, 2))}, "expected (7,) or (7, n)"),
    "words": ({"actions": np.array([b"a"] * STEPS)}, f"actions is |S1 ({STEPS},), expected numbers"),
    "nan": ({"actions": np.full((STEPS, 7), np.nan)}, "action[0] is not finite"),
    "other width": ({"obs/robot0_eef_pos": np.zeros((STEPS + 1, 3))}, f"robot0_eef_pos has shape ({STEPS + 1}, 3)"),
    "no state": ({"obs/robot0_eef_pos": None}, "demo_1/obs: robot0_eef_pos is missing"),
    "rewards": ({"rewards": np.zeros(STEPS - 1)}, f"rewards has shape ({STEPS - 1},), expected ({STEPS},)"),
    "few pictures": ({"obs/agentview_image": np.zeros((3, *SIZE, 3), np.uint8)}, "(3, 12, 16, 3), expected uint8 (7,"),
    "float pictures": ({"obs/agentview_image": np.zeros((STEPS, *SIZE, 3), np.float32)}, "agentview_image is float32"),
    "no pictures": ({"obs/agentview_image": None}, "agentview_image is missing"),
    "label": ({"success": np.full(STEPS, 2)}, "success holds 2, expected 0 and 1"),
    "label's length": ({"success": np.zeros(3)}, f"success has shape (3,), expected ({STEPS},) or one value"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), BAD_DEMOS.values(), ids=BAD_DEMOS)
def test_a_damaged_demonstration_is_one_line_and_nothing_is_written(tmp_path, capsys, change, expected):
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0), "demo_1": demo(1, **change)})
    said = refused(capsys, "--robomimic", path, "--out", tmp_path / "s")
    assert expected in said and "a.hdf5" in said
    names = EpisodeStore(tmp_path / "s").ids()
    assert not names or (expected.endswith("not finite") and len(names) == 1)  # the writer found that one
    assert not list((tmp_path / "s").glob(".writing*"))


def claim(data, name="actions", **options):
    del data[f"demo_0/{name}"]
    data["demo_0"].create_dataset(name, **options)


def external(data):
    del data["demo_0/actions"]
    data["demo_0/actions"] = h5py.ExternalLink("other.hdf5", "/secret")


def soft(data):
    data["demo_1"] = h5py.SoftLink("/data/demo_0")


def virtual(data):
    layout = h5py.VirtualLayout((STEPS, 7), np.float64)
    layout[:] = h5py.VirtualSource("other.hdf5", "secret", (STEPS, 7))
    del data["demo_0/actions"]
    data["demo_0"].create_virtual_dataset("actions", layout)


HOSTILE = {
    "more steps than memory": (lambda d: claim(d, shape=(10**12, 7), chunks=(1024, 7), dtype="f8"), "(1000000000000,"),
    "wider than memory": (lambda d: claim(d, shape=(STEPS, 10**9), chunks=(1, 1024), dtype="f8"), "(7, 1000000000)"),
    "a block larger than memory": (
        lambda d: claim(d, shape=(STEPS, 7), maxshape=(None, 7), chunks=(10**8, 1), dtype="f8"), "800000000 bytes",
    ),
    "pictures larger than any camera's": (
        lambda d: claim(d, "obs/agentview_image", shape=(STEPS, 10**5, 10**5, 3), chunks=(1, 64, 64, 3), dtype="u1"),
        "more than 16777216 pixels",
    ),
    "a link to another file": (external, "link to another place"),
    "a link inside": (soft, "demo_1 is a link to another place"),
    "an array of another file": (virtual, "lies in another file"),
    "raw data of another file": (lambda d: claim(d, shape=(1,), dtype="u1", external="other.bin"), "in another file"),
    "broken JSON": (lambda d: d.attrs.__setitem__("env_args", "{"), "env_args is no JSON"),
    "deep JSON": (lambda d: d.attrs.__setitem__("env_args", "[" * 60_000), "env_args is no JSON"),
    "a count that lies": (lambda d: d["demo_0"].attrs.__setitem__("num_samples", 8), "num_samples is 8, but actions"),
    "no demonstrations": (lambda d: d.__delitem__("demo_0"), "holds no demonstration"),
    "an array for a demonstration": (lambda d: d.__setitem__("demo_1", [1]), "demo_1 is no group"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_line_and_little_memory(tmp_path, capsys, change, expected):
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0)})
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["secret"] = np.zeros((STEPS, 7))
    (tmp_path / "other.bin").write_bytes(b"secret")
    with h5py.File(path, "a") as writing:
        change(writing["data"])
    tracemalloc.start()
    try:
        said = refused(capsys, "--robomimic", path, "--out", tmp_path / "s")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert expected in said
    assert not EpisodeStore(tmp_path / "s").ids()


def test_files_that_are_no_demonstrations_are_one_line(tmp_path, capsys, file):
    (tmp_path / "text.hdf5").write_text("hello")
    with h5py.File(tmp_path / "empty.hdf5", "w"):
        pass
    content = file.read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(content[: len(content) // 2])
    for name, expected in {
        "nowhere.hdf5": "is no file", "text.hdf5": "HDF5 is damaged", "cut.hdf5": "HDF5 is damaged",
        "empty.hdf5": "data is missing",
    }.items():  # fmt: skip
        assert expected in refused(capsys, "--robomimic", tmp_path / name, "--out", tmp_path / "s")


def test_damaged_pictures_leave_the_episodes_before_them(tmp_path, capsys):
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0), "demo_1": demo(1)})
    with h5py.File(path) as reading:
        stored = reading["data/demo_1/obs/agentview_image"].id
        place = stored.get_chunk_info(stored.get_num_chunks() - 1).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 20] = b"\xff" * 20
    path.write_bytes(content)
    said = refused(capsys, "--robomimic", path, "--out", tmp_path / "s")
    assert "a.hdf5: demo_1/obs" in said and "is damaged" in said
    assert [meta.env_seed for meta in EpisodeStore(tmp_path / "s").metas()] == [0]


def test_without_h5py_one_line_says_what_to_do(file, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    assert "pip install 'failwise[robomimic]'" in refused(capsys, "--robomimic", file, "--out", tmp_path / "s")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--out", "s"], "takes one of --lerobot, --robomimic, --rlds"),
        (["--robomimic", "a", "--rlds", "b", "--out", "s"], "takes one of"),
        (["--robomimic", "{file}", "--out", "{tmp}/s", "--look-every", "-1"], "--look-every must be at least 0"),
        (["--robomimic", "{file}", "--out", "{tmp}/s", "--control-hz", "nan"], "--control-hz must be"),
        (["--robomimic", "{file}", "--out", "{tmp}/s", "--success-key", "won"], "no label 'won'"),
        (["--robomimic", "{file}", "--out", "{tmp}/s", "--state", "won"], "won is missing"),
    ],
)
def test_options_that_mean_nothing_are_one_line(file, tmp_path, capsys, words, expected):
    assert expected in refused(capsys, *(word.format(file=file, tmp=tmp_path) for word in words))


def test_env_args_may_be_odd(tmp_path):
    odd = json.dumps({**ENV_ARGS, "env_kwargs": {"control_freq": "fast"}})
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0)}, {"env_args": odd})
    assert stored(path)[0].meta.control_hz == 20.0


def test_the_error_of_the_library_is_a_data_error(tmp_path):
    (tmp_path / "a.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataError, match="HDF5 is damaged"):
        import_robomimic(tmp_path / "a.hdf5", tmp_path / "s")
