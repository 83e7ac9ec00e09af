"""With LeRobot itself: what was exported comes back exactly, and what LeRobot recorded comes in."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from failwise.cli import main
from failwise.errors import DataError, SetupError
from failwise.exchange import ExportOptions, ImportOptions, export_lerobot, import_lerobot
from failwise.store import EpisodeStore, check, episode_id
from failwise.types import Actor, Outcome

from .recorded import STEPS, assert_same_episode, record, recorded_run

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.skipif(find_spec("lerobot") is None, reason="set it up with: make lerobot"),
]


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """No hub, and LeRobot's folders apart from the user's."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded_run(tmp_path_factory.mktemp("store") / "run")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The run as a dataset with exact pictures; never written to."""
    out = tmp_path_factory.mktemp("datasets") / "exact"
    done = export_lerobot([run], out, ExportOptions(repo_id="me/exact"))
    assert (done.successes, done.failures, done.frames, done.no_verdict) == (1, 2, 3 * STEPS, 1)
    assert (done.looked, done.unseen, done.fps) == (3 + 3 + 4, 2, 20)
    return out


def opened(folder: Path, **options):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("me/opened", root=folder, video_backend="pyav", **options)


def base(seed: int) -> str:
    return episode_id("tiny/reach", "base", seed)


def test_what_was_exported_comes_back_exactly(run, exported, tmp_path):
    done = import_lerobot(str(exported), tmp_path / "back")
    assert done.outcomes == {"success": 1, "failure": 1, "timeout": 1} and done.exported_by_us == 3
    back = EpisodeStore(tmp_path / "back", create=False)
    assert back.ids() == [base(seed) for seed in (1, 2, 3)]
    for name in back.ids():
        assert_same_episode(run.read(name), back.read(name))
    assert check(back, every_image=True).sound
    again = import_lerobot(str(exported), tmp_path / "back")
    assert not again.outcomes and again.present == 3


def test_lerobot_reads_every_column(run, exported):
    dataset = opened(exported)
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (3, 3 * STEPS, 20)
    failed = run.read(base(2))
    for step in range(STEPS):
        item = dataset[STEPS + step]
        assert item["task"] == "reach the gőal"
        np.testing.assert_array_equal(item["action"].numpy(), failed.actions()[step])
        np.testing.assert_array_equal(item["observation.state"].numpy(), failed.states()[step])
        assert bool(item["failure.is_failure"]) and item["failure.mode"] == "missed_grasp"
        assert item["failure.stage"] == "grasped"
        assert bool(item["failure.onset"]) is (step >= 4)
        assert item["failure.actor"] == failed.actors()[step]
        assert bool(item["intervention"]) is (failed.actors()[step] in ("expert", "recovery", "human"))
        assert bool(item["next.done"]) is (step == STEPS - 1) and not item["next.success"]
        assert int(item["failwise.env_seed"]) == 300_002
        look = int(np.searchsorted([0, 4, 8], step, side="right")) - 1
        shown = (item["observation.images.wrist"].numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
        np.testing.assert_array_equal(shown, failed.frames("wrist", [look])[0])
    assert bool(dataset[STEPS - 1]["next.success"]) and not dataset[0]["next.success"]
    unseen = dataset[2 * STEPS]
    assert int(unseen["failwise.picture_age"]) == -1 and not unseen["observation.images.corner"].any()


def test_actions_come_in_chunks_and_batches(run, exported):
    from torch.utils.data import DataLoader

    dataset = opened(exported, delta_timestamps={"action": [step / 20 for step in range(4)]})
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    np.testing.assert_array_equal(batch["action"][1].numpy(), run.read(base(1)).actions()[1:5])
    assert batch["failure.actor"][:3] == ["policy"] * 3


def test_a_policy_is_fed_state_action_and_pictures_only(exported):
    from lerobot.utils.feature_utils import dataset_to_policy_features

    fed = dataset_to_policy_features(opened(exported).meta.features)
    assert set(fed) == {"observation.state", "action", "observation.images.corner", "observation.images.wrist"}
    assert fed["observation.images.wrist"].shape == (3, 24, 32)


def test_without_the_sidecar_the_columns_tell_most(run, exported, tmp_path):
    copy = tmp_path / "copy"
    export_lerobot([run], copy)
    (copy / "meta" / "failwise.parquet").unlink()
    import_lerobot(str(copy), tmp_path / "back")
    back = EpisodeStore(tmp_path / "back", create=False)
    failed = back.read(base(2))
    np.testing.assert_array_equal(failed.rewards(), run.read(base(2)).rewards())
    np.testing.assert_array_equal(failed.look_steps(), [0, 4, 8])
    assert failed.meta.outcome is Outcome.FAILURE and failed.meta.env_seed == 300_002
    assert [(e.mode, e.onset_step) for e in failed.meta.failure_events] == [("missed_grasp", 4)]
    assert back.read(base(1)).meta.first_success_step == STEPS - 2


def test_only_failures_of_one_camera(run, tmp_path):
    done = export_lerobot([run], tmp_path / "out", ExportOptions(outcome="failure", cameras="wrist"))
    assert (done.successes, done.failures, done.other_outcome) == (0, 2, 1)
    import_lerobot(str(tmp_path / "out"), tmp_path / "back")
    back = EpisodeStore(tmp_path / "back", create=False).read(base(2))
    assert back.cameras() == back.meta.cameras == ("wrist",)
    np.testing.assert_array_equal(back.frames("wrist"), run.read(base(2)).frames("wrist"))


def test_no_pictures(run, tmp_path):
    export_lerobot([run], tmp_path / "out", ExportOptions(cameras="none"))
    import_lerobot(str(tmp_path / "out"), tmp_path / "back")
    back = EpisodeStore(tmp_path / "back", create=False).read(base(1))
    assert back.meta.n_frames == 0 and back.meta.cameras == ()
    np.testing.assert_array_equal(back.actions(), run.read(base(1)).actions())


def smooth(seed: int, step: int) -> np.ndarray:
    """A picture as a camera sees it: what compression is made for. uint8 (64, 96, 3)."""
    y, x = np.mgrid[0:64, 0:96]
    waves = [127 + 100 * np.sin((x + k * y) / (11 + seed) + step / 4 + k) for k in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def test_video_is_close(tmp_path):
    store = EpisodeStore(tmp_path / "run")
    record(store, 1, Outcome.SUCCESS, looks=tuple(range(STEPS)), picture_of=smooth)
    record(store, 2, Outcome.FAILURE, looks=tuple(range(STEPS)), picture_of=smooth)
    export_lerobot([store], tmp_path / "out", ExportOptions(video=True))
    assert list((tmp_path / "out").rglob("*.mp4"))
    import_lerobot(str(tmp_path / "out"), tmp_path / "back")
    back = EpisodeStore(tmp_path / "back", create=False)
    for name in store.ids():
        np.testing.assert_array_equal(back.read(name).actions(), store.read(name).actions())
        for camera in store.read(name).cameras():
            first, second = store.read(name).frames(camera), back.read(name).frames(camera)
            errors = np.abs(first.astype(int) - second).mean(axis=(1, 2, 3))
            assert errors.max() < 6, errors
            # and it is the right frame: its neighbours are further away
            other = np.abs(first[1:].astype(int) - second[:-1]).mean(axis=(1, 2, 3))
            assert (errors[:-1] < other).all()


def test_looked_frames_keep_the_actions_in_between(tmp_path):
    store = EpisodeStore(tmp_path / "run")
    name = record(store, 1, Outcome.SUCCESS)
    done = export_lerobot([store], tmp_path / "out", ExportOptions(frames="looked"))
    assert (done.frames, done.fps) == (3, 5)
    dataset, actions = opened(tmp_path / "out"), store.read(name).actions()
    np.testing.assert_array_equal(dataset[1]["failwise.actions"].numpy(), actions[4:8])
    last = dataset[2]
    assert int(last["failwise.n_actions"]) == 3
    np.testing.assert_array_equal(last["failwise.actions"].numpy(), actions[[8, 9, 10, 10]])
    assert [bool(dataset[k]["next.done"]) for k in range(3)] == [False, False, True]
    assert bool(last["next.success"]) and not dataset[1]["next.success"]
    with pytest.raises(DataError, match="--frames looked"):
        import_lerobot(str(tmp_path / "out"), tmp_path / "back")


def recorded_by_lerobot(root: Path, success: bool = True, intervention: bool = False, actions: int = 6) -> Path:
    """Two episodes of 8 and 5 frames at 10 a second, two cameras as video; the second one ends in success."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    def column(dtype: str, *shape: int) -> dict:
        return {"dtype": dtype, "shape": shape, "names": None}

    features = {"observation.state": column("float32", 6), "action": column("float32", actions)}
    for camera in ("front", "side"):
        named = {"names": ["height", "width", "channels"]}
        features[f"observation.images.{camera}"] = column("video", 64, 96, 3) | named
    if success:
        features["next.success"] = column("bool", 1)
    if intervention:
        features["intervention"] = column("bool", 1)
    dataset = LeRobotDataset.create("me/teleoperated", 10, features, root=root, video_backend="pyav")
    for episode, frames in enumerate((8, 5)):
        for at in range(frames):
            frame = {
                "observation.state": np.full(6, at, np.float32),
                "action": np.full(actions, episode + at / 10, np.float32),
                "observation.images.front": smooth(episode, at),
                "observation.images.side": smooth(episode + 5, at),
                "task": ("Pick the cube!", "Open the drawer.")[episode],
            }
            if success:
                frame["next.success"] = np.array([episode == 1 and at >= 3])
            if intervention:
                frame["intervention"] = np.array([at >= 3])
            dataset.add_frame(frame)
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return root


def test_a_dataset_that_lerobot_recorded(tmp_path):
    root = recorded_by_lerobot(tmp_path / "teleoperated", intervention=True)
    done = import_lerobot(str(root), tmp_path / "store")
    assert done.outcomes == {"failure": 1, "success": 1} and done.exported_by_us == 0
    store = EpisodeStore(tmp_path / "store", create=False)
    assert check(store, every_image=True).sound
    failed, succeeded = sorted((store.read(name) for name in store.ids()), key=lambda e: e.meta.env_seed)
    assert failed.meta.env_id == "lerobot/pick-the-cube" and failed.meta.instruction == "Pick the cube!"
    assert succeeded.meta.instruction == "Open the drawer." and succeeded.meta.arm == "teleoperated"
    assert (failed.meta.outcome, succeeded.meta.outcome) == (Outcome.FAILURE, Outcome.SUCCESS)
    assert (failed.meta.n_steps, succeeded.meta.n_steps) == (8, 5)
    assert (succeeded.meta.first_success_step, succeeded.meta.control_hz) == (3, 10.0)
    np.testing.assert_array_equal(succeeded.actions()[:, 0], (1 + np.arange(5) / 10).astype(np.float32))
    np.testing.assert_array_equal(succeeded.states()[:, 0], np.arange(5))
    assert failed.actors().tolist() == [Actor.POLICY] * 3 + [Actor.HUMAN] * 5
    assert succeeded.cameras() == ("front", "side")
    for at in range(5):  # of the second episode, whose frames begin in the middle of the file
        for camera, seed in (("front", 1), ("side", 6)):
            shown = succeeded.frames(camera, [at])[0]
            assert np.abs(shown.astype(int) - smooth(seed, at)).mean() < 6


def test_pictures_can_be_thinned_or_left_out(tmp_path):
    root = recorded_by_lerobot(tmp_path / "d")
    import_lerobot(str(root), tmp_path / "thin", ImportOptions(look_every=3, env="real/pick", arm="me"))
    store = EpisodeStore(tmp_path / "thin", create=False)
    assert store.ids() == [episode_id("real/pick", "me", 0), episode_id("real/pick", "me", 1)]
    assert store.read(store.ids()[0]).look_steps().tolist() == [0, 3, 6]
    import_lerobot(str(root), tmp_path / "none", ImportOptions(look_every=0))
    assert {meta.n_frames for meta in EpisodeStore(tmp_path / "none", create=False).metas()} == {0}


def test_an_unlabelled_dataset_has_to_be_declared(tmp_path, capsys):
    root = recorded_by_lerobot(tmp_path / "d", success=False)
    capsys.readouterr()  # what LeRobot and its encoder say
    assert main(["store", "import", "--lerobot", str(root), "--out", str(tmp_path / "s")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "--outcome success" in said[0], said
    assert not EpisodeStore(tmp_path / "s").ids()
    declared = ["store", "import", "--lerobot", str(root), "--out", str(tmp_path / "s"), "--assume", "success"]
    assert main(declared) == 0
    metas = EpisodeStore(tmp_path / "s", create=False).metas()
    assert [(m.outcome, m.first_success_step) for m in metas] == [("success", m.n_steps - 1) for m in metas]


def test_the_commands(run, tmp_path, capsys):
    out = tmp_path / "me" / "failures"
    assert main(["store", "export", str(run.path), "--lerobot", str(out), "--outcome", "failure"]) == 0
    said = capsys.readouterr().out
    assert "2 episodes (2 failures), 22 frames at 20 a second" in said
    assert "left out: 1 that ended in a fault" in said and "failwise.picture_age" in said
    assert main(["store", "import", "--lerobot", str(out), "--out", str(tmp_path / "back")]) == 0
    assert "2 episodes imported (1 failure, 1 timeout)" in capsys.readouterr().out
    assert main(["export", "lerobot", "--episodes", str(run.path.parent), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "expected"),
    [("nowhere", "is no folder"), ("me/nowhere", "neither a folder nor"), ("{tmp}/empty", "is no LeRobotDataset"),
     ("{tmp}/old", "v2.1, and only v3"), ("{tmp}/broken", "cannot be read")],
)  # fmt: skip
def test_what_is_no_dataset_is_one_line(tmp_path, source, expected):
    infos = {"empty": "", "old": '{"codebase_version": "v2.1"}', "broken": '{"codebase_version": "v3.0"}'}
    for name, info in infos.items():
        (tmp_path / name / "meta").mkdir(parents=True)
        if info:
            (tmp_path / name / "meta" / "info.json").write_text(info)
    with pytest.raises(SetupError, match=expected) as raised:
        import_lerobot(source.format(tmp=tmp_path), tmp_path / "out")
    assert "\n" not in str(raised.value)


def test_a_dataset_without_its_data_is_one_line(exported, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(exported), str(copy)], check=True)
    for file in (copy / "data").rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="missing or damaged"):
        import_lerobot(str(copy), tmp_path / "out")


KILLED = """
import sys
from failwise.exchange import export_lerobot
from failwise.store import EpisodeStore
from pathlib import Path

def slowly(episodes):
    for k, one in enumerate(episodes):
        if k == 1:
            print("half", flush=True)
            sys.stdin.read()
        yield one

export_lerobot([EpisodeStore(sys.argv[1])], Path(sys.argv[2]), progress=slowly)
"""


def test_a_killed_export_leaves_no_dataset_and_the_next_one_clears_up(run, tmp_path):
    out = tmp_path / "datasets" / "out"
    command = [sys.executable, "-c", KILLED, str(run.path), str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists() and list(out.parent.iterdir())
    export_lerobot([run], out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert opened(out).num_episodes == 3


def test_a_failed_export_leaves_nothing(run, tmp_path):
    def break_off(episodes):
        yield episodes[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_lerobot([run], tmp_path / "sub" / "out", progress=break_off)
    assert not list((tmp_path / "sub").iterdir())
