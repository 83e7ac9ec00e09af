"""What is carried falls: at the same place for everybody, exactly repeatable, and the verdict on it is right."""

from __future__ import annotations

import numpy as np
import pytest

from failwise.envs import make_env
from failwise.envs.conformance import assert_conforms
from failwise.envs.dropping import SHARES, Dropping
from failwise.errors import SetupError
from failwise.evaluate.false_completion import AfterDrop, after_drop, drop_sentences, false_completions
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.rollout.loop import run_episode
from failwise.store import EpisodeStore
from failwise.types import Outcome

from .carriers import Carrier
from .carrying import Carrying

SEEDS = range(300_000, 300_012)


def record(env, arm, looks, store, seed):
    """Run and store one episode; returns its meta as read back."""
    item = RolloutItem(env.spec.env_id, seed, seed, arm, arm)
    with store.begin(item.episode_id) as writer:
        meta = run_episode(env, Carrier(looks), item, writer, RolloutOptions())
        writer.commit(meta)
    return meta


@pytest.fixture(scope="module")
def metas(tmp_path_factory):
    store = EpisodeStore(tmp_path_factory.mktemp("drops"))
    for seed in SEEDS:
        for arm, looks in (("looks", True), ("blind", False)):
            record(Dropping(Carrying()), arm, looks, store, seed)
    for arm, looks in (("looks", True), ("blind", False)):
        assert record(Carrying(), f"{arm}-plain", looks, store, 300_000).outcome == Outcome.SUCCESS
    return EpisodeStore(store.path, create=False).metas()


def test_it_conforms():
    assert_conforms(Dropping(Carrying(step_limit=60)))


def test_who_goes_back_has_none_and_who_carries_on_has_only_false_completions(metas):
    looks, blind = false_completions(metas, "looks"), false_completions(metas, "blind")
    assert (looks.dropped, blind.dropped) == (len(SEEDS), len(SEEDS))
    assert looks.false_completion_rate.point == 0.0 and looks.recovery_rate.point == 1.0
    assert blind.false_completion_rate.point == 1.0 and blind.recovery_rate.point == 0.0
    assert sum(looks.counts.values()) == looks.episodes
    assert "12 of 12 were false completions, 100%" in " ".join(drop_sentences(blind))
    assert false_completions(metas, "blind-plain") is None


def test_both_are_dropped_at_the_same_place_somewhere_on_the_way(metas):
    for seed in SEEDS:
        one, other = (m for m in metas if m.env_seed == seed and m.arm in ("looks", "blind"))
        assert one.extra["drop"]["share"] == other.extra["drop"]["share"]
        assert one.extra["drop"]["dropped"] == other.extra["drop"]["dropped"] > 0
        assert SHARES[0] <= one.extra["drop"]["share"] <= SHARES[1]
        event = next(e for e in one.failure_events if e.source == "injected")
        assert (event.mode, event.onset_step) == ("drop", one.extra["drop"]["dropped"])
    assert len({m.extra["drop"]["share"] for m in metas if "drop" in m.extra}) == len(SEEDS)


def test_the_recorded_actions_are_the_agents_own(metas):
    """The fingers are forced open, but the record holds what was commanded: closed."""
    env = Dropping(Carrying())
    carrier = Carrier(looks=False)
    carrier.begin(env, 0)
    env.reset(seed=300_000)
    commanded, opened = [], []
    while env._course.phase != 2:
        action = carrier.action()
        commanded.append(action[3])
        opened.append(env.step(action)[0].state[3])
    dropped = env.drop_record()["dropped"]
    assert commanded[dropped] > 0 and opened[dropped] == 1.0


def test_what_is_restored_while_the_fingers_let_go_goes_on_exactly():
    env = Dropping(Carrying())
    carrier = Carrier(looks=False)
    carrier.begin(env, 0)
    env.reset(seed=300_001)
    while env._course.phase != 1:
        env.step(carrier.action())
    env.step(carrier.action())
    snapshot = env.snapshot()
    actions = [carrier.action()] * 30
    first = [env.step(a)[0].state.copy() for a in actions], env.drop_record()
    env.reset(seed=300_002)
    env.restore(snapshot)
    again = [env.step(a)[0].state.copy() for a in actions], env.drop_record()
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1] and first[1]["dropped"] > 0
    with pytest.raises(SetupError, match="does not fit"):
        env.restore({name: array for name, array in snapshot.items() if name != "drop"})


def test_nothing_falls_on_a_short_way_or_while_it_lies_on_the_table():
    env = Dropping(Carrying())
    for lift, way in ((0.0, 0.4), (0.1, 0.05)):
        env.reset(seed=300_003)
        env._env.state[3:6] = env._env.state[:3] = (0.0, 0.0, 0.02)
        env._env.state[6:9] = (way, 0.0, 0.02)
        env.step(np.array([0, 0, 0, 1]))
        for _ in range(round(lift / 0.02)):
            env.step(np.array([0, 0, 1, 1]))
        for _ in range(25):
            env.step(np.array([1, 0, 0, 1]))
        assert env.drop_record()["dropped"] == -1


@pytest.mark.parametrize(
    ("dropped", "returned", "arrived", "first_success", "kind"),
    [
        (-1, -1, -1, None, AfterDrop.NOT_DROPPED),
        (-1, -1, -1, 60, AfterDrop.NOT_DROPPED),
        (40, 55, -1, 80, AfterDrop.RECOVERED),
        (40, 55, 50, 80, AfterDrop.RECOVERED),
        (40, -1, -1, 80, AfterDrop.FELL_INTO_PLACE),
        (40, 55, -1, None, AfterDrop.WENT_BACK),
        (40, 95, 50, None, AfterDrop.WENT_BACK),
        (40, -1, 50, None, AfterDrop.FALSE_COMPLETION),
        (40, -1, -1, None, AfterDrop.LOST),
        (40, -1, 50, 30, AfterDrop.NOT_DROPPED),
    ],
)
def test_the_classes(metas, dropped, returned, arrived, first_success, kind):
    meta = metas[0].model_copy(
        update={
            "extra": {"drop": {"share": 0.3, "dropped": dropped, "returned": returned, "arrived": arrived}},
            "outcome": Outcome.TIMEOUT if first_success is None else Outcome.SUCCESS,
            "first_success_step": first_success,
        }
    )
    assert after_drop(meta) == kind
    result = false_completions([meta], meta.arm)
    assert result.dropped == (kind not in (AfterDrop.NOT_DROPPED, AfterDrop.FELL_INTO_PLACE))
    assert result.late == (returned >= 0 and arrived >= 0)


@pytest.mark.parametrize("name", ["tiny/reach@drop", "tiny/push@drop"])
def test_what_carries_nothing_is_refused_in_one_line(name):
    with pytest.raises(SetupError, match="carries nothing") as error:
        make_env(name)
    assert "\n" not in str(error.value)


def test_a_variant_reaches_its_suite_when_episodes_are_collected(tmp_path):
    item = RolloutItem("tiny/reach@drop", 1, 1, "random", "random:3")
    with pytest.raises(SetupError, match="carries nothing"):
        collect([item], tmp_path, workers=1, quiet=True)


@pytest.mark.metaworld
def test_on_meta_world_an_open_loop_never_goes_back_and_the_expert_does():
    plain, env = make_env("metaworld/shelf-place"), make_env("metaworld/shelf-place@drop")
    plain.reset(seed=300_000)
    actions = []
    for _ in range(env.spec.step_limit):
        actions.append(plain.expert())
        plain.step(actions[-1])
    records = []
    for known in (actions, None):
        env.reset(seed=300_000)
        for step in range(env.spec.step_limit):
            env.step(env.expert() if known is None else known[step])
        records.append(env.drop_record())
    plain.close()
    env.close()
    blind, expert = records
    assert blind["dropped"] == expert["dropped"] > 0
    assert blind["arrived"] > blind["dropped"] and blind["returned"] == -1
    assert expert["returned"] > expert["dropped"]
