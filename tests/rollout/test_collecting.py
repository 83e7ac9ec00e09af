"""Many episodes into one store: the same bytes again, nothing twice, nothing lost."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from failwise.errors import CheckpointError, SetupError, UnknownNameError
from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser, weights_sha256
from failwise.rollout import RolloutItem, RolloutOptions, collect, collecting, default_workers, run_item
from failwise.rollout.executors import ProcessPool
from failwise.store import EpisodeStore, check
from failwise.types import Outcome
from processes import start

from . import faulty_work, killed_work
from .faulty_work import ITEMS, reach


def files(store, ids=None):
    """Every file of some episodes, as bytes."""
    wanted = EpisodeStore(store).ids() if ids is None else ids
    return {
        (i, p.name): p.read_bytes() for i in wanted for p in sorted((Path(store) / i).rglob("*")) if p.is_file()
    }  # fmt: skip


def written(store):
    return {p: p.stat().st_mtime_ns for p in Path(store).glob("*/*")}


@pytest.fixture
def ran(monkeypatch):
    """The seeds that were really run in this process."""
    seeds, run = [], collecting.run_item
    monkeypatch.setattr(collecting, "run_item", lambda item, *a: seeds.append(item.env_seed) or run(item, *a))
    return seeds


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All items, in one go and in this process."""
    out = tmp_path_factory.mktemp("whole")
    collect(ITEMS, out, workers=1, quiet=True)
    return out


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A compact VLA whose sentence is known, so that no text encoder is needed."""
    return saved_policy(tmp_path_factory.mktemp("policy"), seed=0)


def saved_policy(folder, seed, cameras=("robot", "top"), actions=3):
    torch.manual_seed(seed)
    config = CompactConfig(
        cameras=dict.fromkeys(cameras, (32, 32)), state_dim=5, action_dim=actions, horizon=4, execute=4, width=32,
        attention_heads=2, conv_channels=(8, 8, 8), backbone_layers=1, expert_layers=1, denoising_steps=2,
    )  # fmt: skip
    one = torch.ones(actions)
    scale = (torch.zeros(5), torch.ones(5), 0 * one, one, -one, one.clone())
    policy = CompactVLA(config, Normaliser(*scale))
    policy.text.load_state_dict({"move to the red disc": torch.randn(5, 384).half()})
    policy.save(folder)
    return folder


def test_the_same_item_gives_the_same_bytes(policy, tmp_path):
    options = RolloutOptions(look_every=3, snapshot_every=5, env_options={"step_limit": 12})
    agents = {"vla": str(policy), "random": "random:3", "expert": "expert:mixed"}
    for out in ("one", "two"):
        for arm, agent in agents.items():
            run_item(RolloutItem("tiny/reach", 3, 4, arm, agent), str(tmp_path / out), options)
        run_item(reach(9), str(tmp_path / out), options)  # what ran in between must not matter
    one = files(tmp_path / "one")
    assert one == files(tmp_path / "two")
    assert len({i for i, _ in one}) == 4
    assert {"meta.json", "steps.parquet", "frames.parquet", "snapshots.safetensors"} <= {name for _, name in one}
    run_item(RolloutItem("tiny/reach", 3, 5, "vla", agents["vla"]), str(tmp_path / "three"), options)
    other = files(tmp_path / "three")
    assert any(other[key] != one[key] for key in other if key[1] == "steps.parquet"), "another policy seed"


def test_what_is_there_is_skipped(tmp_path, ran):
    first = collect(ITEMS[:3], tmp_path, workers=1, quiet=True)
    before = written(tmp_path)
    again = collect(ITEMS[:5], tmp_path, workers=1, quiet=True)
    assert ran == [0, 1, 2, 3, 4]
    assert again[:3] == first and written(tmp_path).items() >= before.items()
    assert collect(ITEMS[:5], tmp_path, workers=1, quiet=True) == again and len(ran) == 5


def test_metas_come_in_the_order_of_the_items(whole):
    order = [ITEMS[i] for i in (5, 0, 7, 2)]
    assert [m.episode_id for m in collect(order, whole, workers=1, quiet=True)] == [i.episode_id for i in order]


def test_an_interrupted_run_is_completed(whole, tmp_path, ran, monkeypatch):
    counted = collecting.run_item

    def press_at_three(item, *rest):
        if item.env_seed == 3:
            raise KeyboardInterrupt
        return counted(item, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(collecting, "run_item", press_at_three)
        with pytest.raises(KeyboardInterrupt):
            collect(ITEMS, tmp_path, workers=1, quiet=True)
    assert len(EpisodeStore(tmp_path)) == 3
    metas = collect(ITEMS, tmp_path, workers=1, quiet=True)
    assert len(metas) == 8 and ran == list(range(8))
    assert files(tmp_path) == files(whole)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as SIGINT to a process group")
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_in_a_program_of_its_own_loses_and_repeats_nothing(whole, tmp_path, ran, workers):
    program = start(
        [sys.executable, faulty_work.__file__, str(tmp_path), str(workers)], start_new_session=True,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        until = time.monotonic() + 300
        while len(done := EpisodeStore(tmp_path).ids()) < faulty_work.FIRST_SLOW and time.monotonic() < until:
            assert program.poll() is None, program.stderr.read()
            time.sleep(0.05)
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=120)
    finally:
        program.kill()
        program.wait()
    assert program.returncode != 0 and "KeyboardInterrupt" in errors
    assert done == [i.episode_id for i in ITEMS[:4]]
    before = written(tmp_path)
    assert len(collect(ITEMS, tmp_path, workers=1, quiet=True)) == 8
    assert ran == [4, 5, 6, 7]
    assert written(tmp_path).items() >= before.items()
    assert files(tmp_path) == files(whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes that it kills")
def test_twenty_kills_at_random_moments_lose_the_current_episode_at_most(tmp_path):
    store = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, killed_work.__file__, str(store), "20"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    assert len(kills) == 20 and all(kill["killed"] for kill in kills), "each was killed while it still had work"
    assert not any(kill["changed"] for kill in kills), "what was committed stays as it is"
    assert all(later["before"] == kill["after"] for kill, later in pairwise(kills))
    assert sum(kill["after"] - kill["before"] for kill in kills) >= 20
    ran = kills[-1]["after"]
    assert not check(EpisodeStore(store)).problems, "what a kill leaves behind is hidden, and no damaged episode"
    metas = collect(killed_work.ITEMS, store, workers=1, quiet=True)
    assert len(metas) == len(killed_work.ITEMS) == len(EpisodeStore(store)) > ran
    result = check(EpisodeStore(store))
    assert result.sound and not result.leftovers and not result.outcomes.get(Outcome.ERROR)
    collect(killed_work.ITEMS, tmp_path / "never", workers=1, quiet=True)
    assert files(store) == files(tmp_path / "never"), "byte for byte what a run makes that nobody disturbed"


def test_an_item_that_kills_its_workers_is_recorded_as_an_error(whole, tmp_path):
    with ProcessPool(2, faulty_work.die_at_two) as pool:
        metas = collect(ITEMS[:5], tmp_path, executor=pool, quiet=True)
    assert [m.env_seed for m in metas] == [0, 1, 2, 3, 4]
    [lost] = [m for m in metas if m.outcome == "error"]
    assert (lost.env_seed, lost.n_steps, lost.arm, lost.policy_seed) == (2, 0, "base", 1002)
    assert lost.error.startswith("worker lost: its worker was killed by SIGKILL") and "2 attempts" in lost.error
    assert EpisodeStore(tmp_path).read(lost.episode_id).meta == lost
    others = [m.episode_id for m in metas if m is not lost]
    assert files(tmp_path, others) == files(whole, others), "worker processes write what this process writes"
    before = written(tmp_path)
    assert collect(ITEMS[:5], tmp_path, workers=1, quiet=True) == metas
    assert written(tmp_path) == before


def test_what_cannot_be_set_up_leaves_nothing_behind(tmp_path):
    bad = {
        UnknownNameError: RolloutItem("tiny/reech", 0, 0, "a", "expert"),
        CheckpointError: RolloutItem("tiny/reach", 0, 0, "a", "no/policy"),
    }
    for error, item in bad.items():
        with pytest.raises(error) as caught:
            collect([reach(1), item], tmp_path, workers=1, quiet=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(SetupError, match="image_size must be 8 to 256 pixels, not 4"):
        options = RolloutOptions(env_options={"image_size": 4})
        collect([reach(1)], tmp_path, workers=1, options=options, quiet=True)
    assert len(EpisodeStore(tmp_path)) == 0


def test_two_items_of_one_name_are_refused(tmp_path):
    twin = RolloutItem("tiny/reach", 1, 999, "base", "expert")
    with pytest.raises(SetupError, match="same environment, arm and seed"):
        collect([reach(1), reach(2), twin], tmp_path, workers=1, quiet=True)


def test_a_policy_that_needs_another_camera_stops_the_run(tmp_path):
    blind = saved_policy(tmp_path / "policy", 0, cameras=("wrist",))
    with pytest.raises(SetupError, match="the policy needs camera 'wrist'") as caught:
        collect([RolloutItem("tiny/reach", 0, 0, "a", str(blind))], tmp_path / "out", workers=1, quiet=True)
    assert "\n" not in str(caught.value)
    assert len(EpisodeStore(tmp_path / "out")) == 0


def test_a_policy_of_another_action_space_stops_the_run_in_one_line(tmp_path):
    other = str(saved_policy(tmp_path / "policy", 0, actions=4))
    items = [RolloutItem("tiny/reach", seed, seed, "a", other) for seed in range(3)]
    with pytest.raises(SetupError, match="gives actions of 4 numbers, tiny/reach takes 3: this policy is for another"):
        collect(items, tmp_path / "run", workers=2, title="a")
    assert EpisodeStore(tmp_path / "run").metas() == []


def test_a_checkpoint_that_was_replaced_is_read_again(tmp_path):
    options = RolloutOptions(env_options={"step_limit": 4})
    for seed, arm in enumerate(("old", "new")):
        saved_policy(tmp_path / "policy", seed)
        item = RolloutItem("tiny/reach", 0, 0, arm, str(tmp_path / "policy"))
        [meta] = collect([item], tmp_path / "out", workers=1, options=options, quiet=True)
        assert meta.provenance.checkpoint_sha256 == weights_sha256(tmp_path / "policy"), arm


def test_progress_is_told(tmp_path, capsys):
    collect(ITEMS[:2], tmp_path, workers=1, title="demos")
    assert "demos: 2/2, success" in capsys.readouterr().err
    collect(ITEMS[:3], tmp_path, workers=1, title="demos", quiet=True)
    assert capsys.readouterr().err == ""


def test_only_the_last_used_are_kept():
    closed = []

    class Costly:
        def __init__(self, name):
            self.name = name

        def close(self):
            closed.append(self.name)

    kept = collecting._Kept(2)
    made = {name: kept.get(name, lambda name=name: Costly(name)) for name in "ab"}
    assert kept.get("a", lambda: pytest.fail("made again")) is made["a"]
    kept.get("c", lambda: Costly("c"))
    assert closed == ["b"], "the one that was not used for longest"


def test_there_is_a_worker_for_each_core_at_least_one():
    assert default_workers() >= 1
