"""What can be said of the exchange without LeRobot: its columns, its refusals, and what to do when it is missing."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from failwise.cli import main
from failwise.errors import DataError
from failwise.exchange.lerobot_columns import (
    ACTOR,
    DONE,
    INTERVENTION,
    IS_FAILURE,
    MODE,
    ONSET,
    SCORE,
    STAGE,
    SUCCESS,
    columns,
    features,
)
from failwise.exchange.lerobot_export import picture_ages
from failwise.exchange.lerobot_plan import plan
from failwise.exchange.lerobot_sidecar import read_sidecar, write_sidecar
from failwise.store import EpisodeStore, episode_id
from failwise.types import Outcome

from .recorded import STEPS, picture, record, recorded_run


@pytest.fixture
def run(tmp_path):
    return recorded_run(tmp_path / "run")


def episode(store, seed):
    return store.read(episode_id("tiny/reach", "base", seed))


def test_episodes_without_a_verdict_are_left_out(run):
    work = plan([run], "all", False, "", None)
    assert [name for _, name in work.episodes] == [episode_id("tiny/reach", "base", seed) for seed in (1, 2, 3)]
    assert work.left_out == {"no_verdict": 1, "other_outcome": 0, "empty": 0}
    assert work.fps == 20
    assert work.layout.cameras == {"corner": (24, 32), "wrist": (24, 32)}
    assert work.layout.conditions == ("near", "success", "grasped")


@pytest.mark.parametrize(("outcome", "seeds"), [("success", [1]), ("failure", [2, 3])])
def test_outcomes_are_chosen_and_a_timeout_is_a_failure(run, outcome, seeds):
    work = plan([run], outcome, False, "", None)
    assert [name for _, name in work.episodes] == [episode_id("tiny/reach", "base", seed) for seed in seeds]


def test_a_failure_is_told_by_its_first_event(run):
    work = plan([run], "all", False, "", None)
    table = columns(episode(run, 2), work.layout)
    assert table[IS_FAILURE].all()
    assert set(table[MODE].tolist()) == {"missed_grasp"}  # at step 4, though the later one was recorded first
    assert set(table[STAGE].tolist()) == {"grasped"}
    assert table[ONSET].tolist() == [step >= 4 for step in range(STEPS)]
    assert not table[SUCCESS].any()
    assert table[DONE].tolist() == [False] * (STEPS - 1) + [True]
    helped = {"recovery", "expert", "human"}
    assert table[INTERVENTION].tolist() == [actor in helped for actor in table[ACTOR].tolist()]
    assert np.isfinite(table[SCORE]).all()


def test_a_success_says_when(run):
    table = columns(episode(run, 1), plan([run], "all", False, "", None).layout)
    assert table[SUCCESS].tolist() == [False] * (STEPS - 2) + [True, True]
    assert not table[IS_FAILURE].any() and not table[ONSET].any() and set(table[MODE].tolist()) == {""}


def test_success_is_known_without_a_condition_of_that_name(run):
    stored = episode(run, 1)
    stored.conditions = lambda: {}
    table = columns(stored, plan([run], "all", False, "", None).layout)
    assert table[SUCCESS].tolist() == [False] * (STEPS - 2) + [True, True]


def test_every_column_is_declared_with_its_kind(run):
    layout = plan([run], "all", False, "none", None).layout
    declared = features(layout, video=False)
    table = columns(episode(run, 2), layout)
    assert set(table) == set(declared)
    kinds = {"bool": "b", "string": "U", "int64": "i", "float32": "f", "float64": "f"}
    for name, values in table.items():
        assert values.dtype.kind == kinds[declared[name]["dtype"]], name
        assert values.dtype.kind == "U" or values.dtype == np.dtype(declared[name]["dtype"]), name
        assert (values.shape[1:] or (1,)) == declared[name]["shape"], name


def test_only_state_action_and_pictures_reach_a_policy(run):
    # LeRobot feeds whatever begins with these words to its policies.
    names = features(plan([run], "all", False, "", None).layout, video=True)
    fed = {name for name in names if name.startswith(("observation", "action"))}
    assert fed == {"observation.state", "action", "observation.images.corner", "observation.images.wrist"}


def test_picture_ages(run):
    layout = plan([run], "all", False, "", None).layout
    assert picture_ages(episode(run, 1), layout).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert picture_ages(episode(run, 3), layout).tolist() == [-1, -1, 0, 0, 0, 1, 2, 3, 4, 0, 1]


def test_the_sidecar_keeps_meta_data_and_the_last_picture(run, tmp_path):
    (tmp_path / "meta").mkdir()
    write_sidecar(tmp_path, [episode(run, seed) for seed in (1, 3)], ("corner", "wrist"))
    kept = read_sidecar(tmp_path)
    first = kept[episode_id("tiny/reach", "base", 1)]
    assert first.meta == episode(run, 1).meta
    assert set(first.final) == {"corner", "wrist"}
    assert kept[episode_id("tiny/reach", "base", 3)].final == {}
    (tmp_path / "meta" / "failwise.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is damaged"):
        read_sidecar(tmp_path)


REFUSED = {
    "other cameras": ({"cameras": ("top",)}, {}, "cameras corner 24x32, wrist 24x32, .* has top 24x32; .*--cameras"),
    "other sizes": ({"height": 30}, {}, "wrist 30x32"),
    "no pictures": ({"looks": ()}, {}, "has none; .*--cameras"),
    "other states": ({"state_dim": 5}, {}, "4 state dimensions, .* has 5"),
    "other rate": ({"control_hz": 10.0}, {}, "20 steps a second, .* has 10"),
    "unknown camera": ({}, {"cameras": "corner,top"}, "no pictures of camera 'top'; recorded: corner, wrist"),
}


@pytest.mark.parametrize(("change", "asked", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_dataset_is_refused(tmp_path, change, asked, expected):
    store = EpisodeStore(tmp_path / "run")
    record(store, 1, Outcome.SUCCESS)
    record(store, 2, Outcome.SUCCESS, **change)
    with pytest.raises(DataError, match=expected):
        plan([store], "all", False, asked.get("cameras", ""), None)


def test_what_only_some_have_can_be_left_out(tmp_path):
    store = EpisodeStore(tmp_path / "run")
    record(store, 1, Outcome.SUCCESS)
    record(store, 2, Outcome.SUCCESS, looks=(), control_hz=10.0)
    work = plan([store], "all", False, "none", 15)
    assert work.fps == 15 and not work.layout.cameras


def test_one_episode_in_two_stores_is_refused(run, tmp_path):
    record(EpisodeStore(tmp_path / "copy"), 1, Outcome.SUCCESS)
    with pytest.raises(DataError, match=r"is in .*run and in .*copy"):
        plan([run, EpisodeStore(tmp_path / "copy")], "all", False, "", None)


def test_nothing_to_export_is_refused(tmp_path):
    store = EpisodeStore(tmp_path / "run")
    record(store, 1, Outcome.SUCCESS)
    with pytest.raises(DataError, match=r"no episode that ended in failure.*--outcome"):
        plan([store], "failure", False, "", None)


def test_a_rate_that_is_not_whole_has_to_be_named(tmp_path):
    store = EpisodeStore(tmp_path / "run")
    record(store, 1, Outcome.SUCCESS, control_hz=12.5)
    with pytest.raises(DataError, match=r"12\.5 frames a second.*--fps"):
        plan([store], "all", False, "", None)
    assert plan([store], "all", False, "", 12).fps == 12


def test_looked_frames_have_the_rate_of_the_pictures(tmp_path):
    store = EpisodeStore(tmp_path / "run")
    record(store, 1, Outcome.SUCCESS)
    work = plan([store], "all", True, "", None)
    assert work.fps == 5 and work.layout.longest_chunk == 4
    record(store, 2, Outcome.SUCCESS, looks=(0, 1, 5))
    with pytest.raises(DataError, match=r"1 to 4 steps apart.*--fps"):
        plan([store], "all", True, "", None)


def test_pictures_of_the_samples_differ():
    assert not np.array_equal(picture(1, 0, "wrist"), picture(1, 4, "wrist"))


@pytest.mark.skipif(find_spec("lerobot") is not None, reason="LeRobot is installed here")
@pytest.mark.parametrize("command", ["store export {} --lerobot out", "store import --lerobot {} --out out"])
def test_without_lerobot_one_line_says_what_to_do(run, monkeypatch, capsys, command):
    monkeypatch.chdir(run.path.parent)
    assert main(command.format(run.path).split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "make lerobot" in said[0], said


@pytest.mark.parametrize("command", ["store export --help", "store import --help", "export lerobot --help"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main(command.split())
    assert not end.value.code
    assert "--frames" in capsys.readouterr().out or "import" in command
