"""A recovery actor learns from failures on purpose, comes back from disk as it was, and is judged on other layouts."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chunk_data import small_policy

from failwise.cli import main
from failwise.envs.tiny import make
from failwise.errors import CheckpointError, DataError, EpisodeError, SetupError
from failwise.generate import GenerateOptions, Request, cells_of, generate
from failwise.learn import frames, recovery
from failwise.learn.figures import figures, intervals
from failwise.learn.frames import FrameFeatures
from failwise.learn.options import RecoveryTraining
from failwise.learn.recovery import held_out, judge, train_recovery
from failwise.learn.recovery_data import UNKNOWN, Lesson, fewer_plans, load_lesson
from failwise.policies.compact import CompactVLA
from failwise.recover.compact import NONE, CompactAdvisor, frame_features
from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore
from failwise.types import Actor, EpisodeMeta, Observation

ENV = "tiny/push"
OPTIONS = RecoveryTraining(plans=1e9, mended=1e9, steps=150, batch=16, grace=4)


@pytest.fixture(scope="module")
def policy() -> CompactVLA:
    policy = small_policy()
    policy.text.load_state_dict({make("push").spec.instruction: torch.randn(6, 384).half()})
    return policy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("failures")
    requests = [Request(mode=mode, episodes=6) for mode in ("translation", "wrong_sequence", "noop")]
    generate(cells_of(make("push"), requests), out, GenerateOptions(workers=1, look_every=2))
    return out


@pytest.fixture(scope="module")
def advisor(policy: CompactVLA, data: Path) -> CompactAdvisor:
    return train_recovery(policy, data, OPTIONS)


def lesson_of(policy: CompactVLA, data: Path, **changed) -> Lesson:
    return load_lesson(FrameFeatures(policy), data, **{"plans": 1e9, "mended": 1e9, "grace": OPTIONS.grace, **changed})


def test_moments_are_labelled_by_what_was_done(policy: CompactVLA, data: Path) -> None:
    metas = [m for m in EpisodeStore(data / "episodes").metas() if "stages" in m.extra]
    lesson = lesson_of(policy, data)
    assert lesson.stride == 2 and lesson.kinds[0] == NONE
    failing = np.concatenate([e.failing for e in lesson.episodes])
    judged = np.concatenate([e.judged for e in lesson.episodes])
    kind, delta = (np.concatenate([getattr(e, name) for e in lesson.episodes]) for name in ("kind", "delta"))
    plans = sum(m.n_frames for m in metas if m.arm == "plan")
    onsets = {m.episode_id: m.failure_events[0].onset_step for m in metas if m.failure_events}
    before = sum(-(-onset // 2) for onset in onsets.values())
    assert (~failing).sum() == plans + before and judged[~failing].all()
    assert (~judged).sum() == len(onsets) * OPTIONS.grace // 2
    moves = sum(len(m.extra.get("corrections", ())) for m in metas)
    assert np.isfinite(delta[:, 0]).sum() == moves
    assert failing[np.isfinite(delta[:, 0])].all()
    assert set(kind[~failing]) == {0} and 0 not in kind[failing]


def test_a_mended_failure_is_the_failure_until_the_takeover_and_fails_no_more_after_its_move(
    policy: CompactVLA, data: Path, tmp_path: Path
) -> None:
    lesson = lesson_of(policy, data)
    store, ways_out = EpisodeStore(data / "episodes"), EpisodeStore(data / "recoveries")
    metas = {m.episode_id: m for m in ways_out.metas()}
    assert len(lesson.mended) == len(metas) > len(lesson_of(policy, data, mended=0.5).mended)
    assert not lesson_of(policy, data, mended=0).mended
    alone = tmp_path / "alone"
    shutil.copytree(data / "episodes", alone / "episodes")
    assert not lesson_of(policy, alone).mended, "there need not be any"
    first = next(m for m in metas.values() if m.extra["recovers"].endswith(str(lesson.mended[0].seed)))
    failed, at = store.read(first.extra["recovers"]), first.extra["takeover"]
    n = int((failed.look_steps() < at).sum())
    (mended,) = (e for e in lesson.mended if len(e) == n + first.n_frames and e.seed == first.env_seed)
    (whole,) = (e for e in lesson.episodes if np.array_equal(e.frames_TD[:n], mended.frames_TD[:n]) and e.kind.any())
    assert np.array_equal(whole.failing[:n], mended.failing[:n]) and mended.failing[:n].any()
    assert not mended.failing[n:].any() and np.isnan(mended.delta[n:]).all()
    steps = ways_out.read(first.episode_id).look_steps()
    done = at + first.extra["correction"]["moved"] + OPTIONS.grace
    assert mended.judged[n:].tolist() == (steps >= done).tolist() and mended.judged[n:].any()


def test_it_learns_and_says_how_well_on_layouts_it_never_saw(
    advisor: CompactAdvisor, policy: CompactVLA, data: Path
) -> None:
    figures, lesson = advisor.notes["figures"], lesson_of(policy, data)
    aside = held_out([e.seed for e in lesson.episodes], OPTIONS)
    assert figures["moments"] == sum(e.judged.sum() for e in lesson.episodes if e.seed in aside)
    assert advisor.notes["held_out_layouts"] == len(aside) >= 1
    assert 0 <= figures["auc"] <= 1 and -1 <= figures["cosine"] <= 1
    # The eyes are random here, so what it knows of other layouts is little; what it was shown it has to know.
    known = judge(advisor, [e for e in lesson.episodes if e.seed not in aside])
    assert known["auc"] > 0.9 and known["binary"] > 0.8 and known["kind"] > 0.6
    assert known["cosine"] > 0.6 and known["gripper"] == 1.0 and known["stage"] > 0.8
    mended = judge(advisor, [e for e in lesson.mended if e.seed not in aside])
    assert mended["auc"] > 0.9, "it knows when it is over"


def test_it_comes_back_from_disk_as_it_was(advisor: CompactAdvisor, tmp_path: Path) -> None:
    advisor.save(tmp_path)
    again = CompactAdvisor.load(tmp_path)
    env = make("push")
    for one in (advisor, again):
        one.begin()
    observation, _ = env.reset(seed=1)
    for _ in range(6):
        for one in (advisor, again):
            one.see(observation)
        assert advisor.advise() == again.advise()
        observation, *_ = env.step(env.expert())
    assert len(advisor.advise().delta) == 7
    (tmp_path / "recovery.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a recovery actor"):
        CompactAdvisor.load(tmp_path)


def test_own_failures_alone_are_enough(policy: CompactVLA, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metas = EpisodeStore.metas

    def own(store: EpisodeStore) -> list[EpisodeMeta]:
        return [
            m.model_copy(update={"extra": {**m.extra, "own": m.episode_id}}) if "kind" in m.extra else m
            for m in metas(store)
        ]

    monkeypatch.setattr(EpisodeStore, "metas", own)
    lesson = lesson_of(policy, data, plans=0.5)
    failures, plans = (sum(e.own == kind for e in lesson.episodes) for kind in (True, False))
    assert plans == -(-failures // 2), "half as many plans as own failures, where none was made"
    notes = train_recovery(policy, data, replace(OPTIONS, steps=3)).notes
    assert notes["own"]["moments"] > 0 and "figures" not in notes


def test_frame_by_frame_it_says_what_it_says_of_the_whole_and_knows_nothing_of_what_comes(
    advisor: CompactAdvisor, data: Path, policy: CompactVLA
) -> None:
    store = EpisodeStore(data / "episodes")
    episode = store.read(store.metas()[0].episode_id)
    looks, frames_TD = FrameFeatures(policy)(episode)
    whole = advisor.answers(frames_TD)
    images, states = {camera: episode.frames(camera) for camera in policy.config.cameras}, episode.states()
    advisor.begin()
    for index, step in enumerate(looks[:8]):
        pictures = {camera: x[index] for camera, x in images.items()}
        advisor.see(Observation(pictures, states[step], episode.meta.instruction))
        advice = advisor.advise()
        assert advice.failing == pytest.approx(float(torch.sigmoid(whole.failing[index])), abs=1e-5)
        assert advice.delta == pytest.approx((whole.delta[index].numpy() * advisor.delta_scale).tolist(), abs=1e-5)
    part = advisor.answers(frames_TD[:8])
    assert torch.allclose(part.failing, whole.failing[:8], atol=1e-6)
    advisor.begin()
    with pytest.raises(EpisodeError, match="before it saw a frame"):
        advisor.advise()


def test_own_episodes_are_drawn_as_often_as_asked(policy: CompactVLA, data: Path) -> None:
    episodes = lesson_of(policy, data).episodes
    mixed = [replace(e, own=i < 3) for i, e in enumerate(episodes)]
    chances = recovery._chances(mixed, 0.35)
    assert chances.sum() == pytest.approx(1.0) and chances[:3].sum() == pytest.approx(0.35)
    for alike in (episodes, [replace(e, own=True) for e in episodes]):
        assert np.allclose(recovery._chances(alike, 0.35), 1 / len(episodes))


def test_it_takes_over_in_rollouts(advisor: CompactAdvisor, tmp_path: Path) -> None:
    advisor.save(tmp_path / "recovery")
    item = RolloutItem(ENV, 300_000, 1, "helped", "random:3", recover=str(tmp_path / "recovery"))
    options = item.takeover.model_copy(update={"threshold": 0.0, "attempts": 1})
    (meta,) = collect([replace(item, takeover=options)], tmp_path / "out", workers=1, quiet=True)
    assert len(meta.extra["takeover"]["takeovers"]) == 1
    actors = EpisodeStore(tmp_path / "out").read(meta.episode_id).actors()
    assert {str(a) for a in actors} == {Actor.POLICY, Actor.RECOVERY}


def test_an_actor_of_another_version_is_told(advisor: CompactAdvisor, tmp_path: Path) -> None:
    advisor.save(tmp_path)
    about = tmp_path / "recovery.json"
    about.write_text(about.read_text().replace("failwise-recovery-3", "failwise-recovery-2"))
    with pytest.raises(CheckpointError, match=r"another version \(failwise-recovery-2.*train it anew"):
        CompactAdvisor.load(tmp_path)


def test_members_differ_and_answer_with_their_mean(policy: CompactVLA, data: Path) -> None:
    advisor = train_recovery(policy, data, replace(OPTIONS, members=2, steps=3))
    episode = EpisodeStore(data / "episodes").read(next(iter(EpisodeStore(data / "episodes").metas())).episode_id)
    _, frames_TD = FrameFeatures(policy)(episode)
    x_1TD = torch.from_numpy(advisor.scaler(frames_TD).astype(np.float32))[None]
    with torch.inference_mode():
        one, other = (member(x_1TD)[0] for member in advisor.network.members)
    both = advisor.answers(frames_TD)
    assert not torch.allclose(one.kind, other.kind, atol=1e-3)
    assert torch.allclose(both.failing, (one.failing + other.failing)[0] / 2, atol=1e-6)
    assert torch.allclose(both.delta, (one.delta + other.delta)[0] / 2, atol=1e-6)
    for name in ("stage", "kind"):
        mean = (getattr(one, name).softmax(-1) + getattr(other, name).softmax(-1))[0] / 2
        assert torch.allclose(getattr(both, name).exp(), mean, atol=1e-6)


def test_a_stopped_training_ends_where_it_would_have(
    policy: CompactVLA, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, members=2, steps=6)
    whole = train_recovery(policy, data, options)
    monkeypatch.setattr(recovery, "SAVE_EVERY", 2)
    judged, calls = recovery._loss, []

    def stopped(told, batch):
        calls.append(None)
        if len(calls) == 10:  # in the fifth of six steps
            raise KeyboardInterrupt
        return judged(told, batch)

    monkeypatch.setattr(recovery, "_loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_recovery(policy, data, options, tmp_path)
    calls.clear()
    gone_on = train_recovery(policy, data, options, tmp_path)
    assert len(calls) == 4
    train_recovery(policy, data, options, tmp_path)
    assert len(calls) == 4, "what is finished is not trained again, should what comes after it be stopped"
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, gone_on.network.state_dict()[name]), name


def test_failures_without_pictures_or_none_at_all_are_told(policy: CompactVLA, tmp_path: Path) -> None:
    cells = cells_of(make("push"), [Request(mode="wrong_sequence", episodes=1)])
    generate(cells, tmp_path, GenerateOptions(workers=1, look_every=0))
    with pytest.raises(DataError, match="no failures with pictures"):
        train_recovery(policy, tmp_path, OPTIONS)


def test_the_command_line_tells_the_figures(policy: CompactVLA, data: Path, tmp_path: Path, capsys) -> None:
    policy.save(tmp_path / "policy")
    command = [
        "train",
        "recovery",
        "--data",
        str(data),
        "--policy",
        str(tmp_path / "policy"),
        "--out",
        str(tmp_path / "r"),
    ]
    assert main([*command, "--steps", "20", "--own-share", "0.5", "--acting.steps", "0"]) == 0
    told = capsys.readouterr().out
    assert "held-out layouts" in told and "cosine of the move" in told
    assert (tmp_path / "r" / "recovery.safetensors").is_file() and not (tmp_path / "r" / "frames").exists()
    assert main(["train", "recovery", "--data", str(tmp_path / "none"), *command[4:]]) == 2


def test_features_are_made_once_and_again_where_anything_of_theirs_changed(
    policy: CompactVLA, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EpisodeStore(data / "episodes")
    episode = store.read(store.metas()[0].episode_id)
    seen = []
    monkeypatch.setattr(frames, "frame_features", lambda *args: seen.append(args) or frame_features(*args))
    looks, first = FrameFeatures(policy, tmp_path)(episode)
    once = len(seen)
    assert once and len(looks) == len(first) == episode.meta.n_frames
    again = FrameFeatures(policy, tmp_path)(episode)
    assert len(seen) == once and again[0] == looks and np.array_equal(again[1], first)
    assert np.array_equal(FrameFeatures(policy)(episode)[1], first) and len(seen) == 2 * once

    other = small_policy()
    other.text.load_state_dict({episode.meta.instruction: torch.ones(6, 384).half()})
    assert not np.array_equal(FrameFeatures(other, tmp_path)(episode)[1], first), "of other sentences"
    episode.meta = episode.meta.model_copy(update={"env_seed": -1})
    FrameFeatures(policy, tmp_path)(episode)
    assert len(seen) == 4 * once and len(list(tmp_path.iterdir())) == 3


def test_damaged_features_are_told(policy: CompactVLA, data: Path, tmp_path: Path) -> None:
    store = EpisodeStore(data / "episodes")
    episode = store.read(store.metas()[0].episode_id)
    FrameFeatures(policy, tmp_path)(episode)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"is damaged .*; remove it"):
        FrameFeatures(policy, tmp_path)(episode)


def test_a_training_that_was_stopped_goes_on(
    policy: CompactVLA, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def stopped(*args):
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return frame_features(*args)

    monkeypatch.setattr(frames, "frame_features", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_recovery(policy, data, OPTIONS, tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept and not any(name.endswith(".tmp") for name in kept)
    before = calls
    assert train_recovery(policy, data, OPTIONS, tmp_path).notes == train_recovery(policy, data, OPTIONS).notes
    assert kept < {path.name for path in tmp_path.iterdir()}
    whole = calls - before
    calls = 100
    train_recovery(policy, data, OPTIONS, tmp_path)
    assert whole > 0 and calls == 100


def test_plans_are_as_many_as_asked_for_and_of_layouts_with_failures_first(data: Path) -> None:
    metas = [m for m in EpisodeStore(data / "episodes").metas() if "stages" in m.extra]
    failures = [m for m in metas if "kind" in m.extra]
    plans = {m.env_seed for m in metas if m.arm == "plan"}
    spare = metas[0].model_copy(update={"episode_id": "spare", "env_seed": min(plans) - 1, "arm": "plan", "extra": {}})
    own = failures[0].model_copy(update={"episode_id": "own", "arm": "own"})
    own = own.model_copy(update={"extra": {**own.extra, "own": {}}})
    chosen = fewer_plans([spare, own, *metas], 0.25)
    assert [m for m in chosen if m.arm != "plan"] == [own, *(m for m in metas if m.arm != "plan")]
    left = [m.env_seed for m in chosen if m.arm == "plan"]
    assert len(left) == -(-len(failures) // 4) and set(left) <= {m.env_seed for m in failures}
    assert {m.env_seed for m in fewer_plans([spare, *metas], 100) if m.arm == "plan"} == plans | {spare.env_seed}
    assert not any(m.arm == "plan" for m in fewer_plans(metas, 0))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"plans": -1.0}, "plans and mended at least 0"),
        ({"plans": float("nan")}, "plans and mended at least 0"),
        ({"mended": -0.1}, "plans and mended at least 0"),
        ({"steps": 0}, "steps and batch must be at least 1"),
        ({"own_share": 1.0}, "own-share must lie between 0 and 1"),
        ({"held_out": 0.0}, "held-out and own-share"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(SetupError, match=told):
        RecoveryTraining(**wrong)


def test_figures_count_modes_and_what_failsafe_calls_types() -> None:
    failing = np.array([True, True, True, True, False])
    called = np.array([True, True, False, True, False])
    true = [("misaligned_grasp", "x"), ("slip", ""), ("noop", ""), ("no_grasp", ""), NONE]
    named = [("translation", "x"), ("slip", ""), ("noop", ""), ("translation", "z"), ("slip", "")]
    moves = np.array([[1.0, 0, 0, 0, 0, 0, 1], [0, 1.0, 0, 0, 0, 0, -1]])
    found = figures(failing, called, true, named, np.array([True, False]), moves, moves[:, [1, 0, 2, 3, 4, 5, 6]])
    assert found["kind"] == 1 / 4 and found["type"] == 2 / 4, "what is not called failing is named in vain"
    assert found["binary"] == (3 / 4 + 1) / 2 and found["stage"] == 1 / 2
    assert found["cosine"] == 0.0 and found["gripper"] == 1.0 and found["moves"] == 2
    nothing = figures(failing[4:], called[4:], true[4:], named[4:], np.zeros(0, bool), moves[:0], moves[:0])
    assert all(np.isnan(nothing[name]) for name in ("binary", "kind", "type", "cosine", "gripper", "stage"))


def test_intervals_draw_the_moments_of_a_layout_together() -> None:
    random = np.random.default_rng(0)
    n, each = 40, 25
    layouts = np.repeat(np.arange(n), each)
    failing = np.tile(np.arange(each) < 15, n)
    named_right = np.repeat(random.random(n) < 0.7, each)  # all moments of a layout or none
    kinds = [("noop", "")] * len(layouts)
    named = [("noop", "") if right else ("slip", "") for right in named_right]
    moves = random.normal(size=(n, 7))
    found = intervals(layouts, np.arange(n), failing, failing, kinds, named, moves, moves)
    low, high = found["type"]
    share = named_right[::each].mean()
    width = 1.96 * np.sqrt(share * (1 - share) / n)  # of n layouts: of all moments it would be a fourth of that
    assert low < share < high and (high - low) / 2 == pytest.approx(width, rel=0.25)
    assert found["kind"] == found["type"] and set(found) == {"kind", "type"}, "what is always right has no spread"
    noisy = moves + random.normal(size=moves.shape)
    nothing_fails = intervals(layouts, np.arange(n), ~failing & failing, failing, kinds, named, noisy, moves)
    low, high = nothing_fails.pop("cosine")
    assert not nothing_fails and 0.3 < low < high < 0.95
    few = layouts < 9
    assert not intervals(layouts[few], np.arange(9), failing[few], failing[few], kinds[: few.sum()],
                         named[: few.sum()], noisy[:9], moves[:9])  # fmt: skip


def test_nothing_is_learned_from_held_out_layouts(policy: CompactVLA, data: Path, monkeypatch) -> None:
    learned, fit = [], recovery._fit
    monkeypatch.setattr(recovery, "_fit", lambda episodes, *rest: learned.extend(episodes) or fit(episodes, *rest))
    train_recovery(policy, data, replace(OPTIONS, steps=1))
    lesson = lesson_of(policy, data)
    aside = held_out([e.seed for e in lesson.episodes], OPTIONS)
    whole = [*lesson.episodes, *lesson.mended]
    assert len(learned) == sum(e.seed not in aside for e in whole) < len(whole)
    assert not {e.seed for e in learned} & aside


def test_what_lies_beyond_an_episodes_end_teaches_nothing(policy: CompactVLA, data: Path) -> None:
    short, long = sorted(lesson_of(policy, data).episodes, key=len)[:: len(lesson_of(policy, data).episodes) - 1]
    assert len(short) < len(long)
    frames = [torch.from_numpy(e.frames_TD) for e in (short, long)]
    batch = recovery._batch(frames, [short, long], np.ones(7, np.float32))
    assert batch.judged.shape == (2, len(long)) and not batch.judged[0, len(short) :].any()
    assert (batch.stage[0, len(short) :] == UNKNOWN).all() and torch.isnan(batch.delta[0, len(short) :]).all()
    assert batch.judged[0, : len(short)].tolist() == short.judged.tolist()
