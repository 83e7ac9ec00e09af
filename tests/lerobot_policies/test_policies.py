"""Policies of LeRobot behind this package's protocols, against what LeRobot itself computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from failwise.agent import load_agent
from failwise.envs import make_env
from failwise.errors import CheckpointError, DataError, SetupError
from failwise.policies import load_policy
from failwise.steer import Several, Unsteered, sample
from failwise.steer.afil import AFIL
from failwise.types import Observation

pytestmark = pytest.mark.lerobot


def seen(*seeds: int) -> list[Observation]:
    found = []
    for seed in seeds:
        observation, _ = make_env("tiny/reach").reset(seed=seed)
        images = {name: np.array(observation.images[name]) for name in observation.images}
        found.append(Observation(images, observation.state, observation.instruction))
    return found


def test_smolvla_sampled_here_is_smolvla_bit_for_bit(smolvla: Path) -> None:
    policy = load_policy(smolvla)
    assert policy.spec.denoising_steps == 5 and policy.spec.latent_dim == 8
    for seed in range(3):
        context = policy.encode(seen(seed))
        mine = policy.decode(sample(policy, context, Unsteered(), torch.Generator().manual_seed(seed)).actions_BHA)
        torch.manual_seed(seed)
        theirs = policy.inputs.after(policy.policy.predict_action_chunk(policy.inputs.ready(seen(seed))))
        assert mine.shape == (1, 6, 3)
        assert torch.equal(torch.from_numpy(mine), theirs)


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 13])
def test_the_time_is_lerobots_to_the_last_bit(smolvla: Path, steps: int) -> None:
    policy = load_policy(smolvla)
    policy.steps = steps
    for k in range(steps):
        theirs = torch.tensor(1.0 + k * (-1.0 / steps), dtype=torch.float32)
        assert torch.equal(policy._tau(torch.tensor(k / steps), torch.zeros(1)), theirs)
    between = policy._tau(torch.tensor([[0.25, 0.9]]), torch.zeros(1))
    torch.testing.assert_close(between, torch.tensor([[0.75, 0.1]]))


def test_rows_samples_and_selection_do_not_touch_each_other(smolvla: Path) -> None:
    policy = load_policy(smolvla)
    context = policy.encode(seen(1, 2))
    noisy = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(0.4)
    both = policy.predict(noisy, t, context, ("success",))[0]
    for row in range(2):
        alone = policy.predict(noisy[row : row + 1], t, policy.encode(seen(1 + row)), ("success",))[0, 0]
        torch.testing.assert_close(both[row], alone, atol=1e-5, rtol=1e-4)
    chosen = context.select(torch.tensor([1, 0]))
    swapped = policy.predict(noisy.flip(0), t, chosen, ("success",))[0]
    torch.testing.assert_close(swapped.flip(0), both)
    assert torch.equal(policy.predict(noisy, t, context, ("success",))[0], both)  # nothing was left behind
    assert context.features_BD.shape == (2, 64)
    several = sample(policy, context, Several(4), torch.Generator().manual_seed(0))
    assert several.samples_BNHA.shape == (2, 4, 6, 8)


def test_the_failure_expert_in_one_pass_is_that_expert_put_in_the_others_place(dual: Path) -> None:
    policy = load_policy(dual)
    assert policy.spec.heads == ("success", "failure")
    context = policy.encode(seen(1, 2))
    noisy, t = torch.randn(2, 2, 6, 8), torch.tensor(0.2)
    both = policy.predict(noisy, t, context, ("success", "failure"))
    torch.testing.assert_close(both[0], policy.predict(noisy, t, context, ("success",))[0])
    assert (both[0] - both[1]).abs().mean() > 0.01
    with torch.no_grad():
        for name, weight in policy.policy.extra_heads()["failure"].items():
            policy.core.get_parameter(name).copy_(weight)
    torch.testing.assert_close(both[1], policy.predict(noisy, t, context, ("success",))[0])
    with pytest.raises(CheckpointError, match="no head 'own'"):
        policy.predict(noisy, t, context, ("own",))


def test_guidance_of_strength_zero_is_plain_bit_for_bit_and_else_is_not(dual: Path) -> None:
    policy = load_policy(dual)
    context = policy.encode(seen(3))

    def drawn(steering: object) -> torch.Tensor:
        return sample(policy, context, steering, torch.Generator().manual_seed(1)).actions_BHA  # type: ignore[arg-type]

    plain = drawn(Unsteered())
    assert torch.equal(plain, drawn(AFIL(alpha=0.0)))
    weak, strong = (drawn(AFIL(alpha=a, schedule="constant")) for a in (0.2, 0.8))
    assert 0 < (weak - plain).norm() < (strong - plain).norm()


def test_an_agent_folder_steers_a_checkpoint(dual: Path, tmp_path: Path) -> None:
    (tmp_path / "policy").symlink_to(dual)
    for name, alpha in (("steered", 1.0), ("idle", 0.0)):
        about = {
            "format": "failwise-agent-1",
            "policy": "policy",
            "steering": [{"name": "afil", "options": {"alpha": alpha}}],
        }
        (tmp_path / "agent.json").write_text(json.dumps(about))
        agents = {"plain": load_agent(dual), name: load_agent(tmp_path)}
        for agent in agents.values():
            agent.begin(None, 3)
        chunks = {which: agent.act(seen(0)[0]) for which, agent in agents.items()}
        assert np.array_equal(chunks["plain"].actions, chunks[name].actions) == (alpha == 0)
        assert ("guidance_mean" in chunks[name].info) == (alpha > 0)
    assert agents["idle"].provenance().checkpoint_sha256 == agents["plain"].provenance().checkpoint_sha256 != ""


def test_hidden_states_and_prefix_features_for_detectors(dual: Path) -> None:
    agent = load_agent(f"lerobot:{dual}")
    agent.watch("prefix-mean+prefix-last+expert-mean", samples=2)  # type: ignore[union-attr]
    agent.begin(None, 0)
    chunk = agent.act(seen(0)[0])
    assert chunk.features is not None and chunk.features.shape == (64 + 64 + 48,)
    assert chunk.samples is not None and chunk.samples.shape == (2, 6, 3)  # without the padding
    assert np.isfinite(chunk.features).all()


@pytest.mark.parametrize("scheduler", ["DDIM", "DDPM"])
def test_diffusion_over_an_episode_is_lerobots_select_action(tmp_path: Path, scheduler: str) -> None:
    from .small import DIFFUSION, save

    folder = save("diffusion", tmp_path / "d", **{**DIFFUSION, "noise_scheduler_type": scheduler})
    agent, theirs = load_agent(str(folder)), load_policy(folder)
    env = make_env("tiny/reach")
    observation, _ = env.reset(seed=5)
    agent.begin(env, 11)
    theirs.policy.reset()
    torch.manual_seed(11)
    pending: list[np.ndarray] = []
    for _ in range(11):  # nearly three chunks, each looking back one step
        if not pending:
            pending = list(agent.act(observation).actions)
        elif agent.looks_back(len(pending), 99):  # type: ignore[union-attr]
            agent.notice(observation)  # type: ignore[union-attr]
        action = pending.pop(0)
        with torch.inference_mode():
            expected = theirs.inputs.after(theirs.policy.select_action(theirs.inputs.ready([observation])))
        np.testing.assert_array_equal(action, expected[0].numpy())
        observation, *_ = env.step(action)


def test_both_diffusion_networks_in_one_pass(dual_diffusion: Path) -> None:
    policy = load_policy(dual_diffusion)
    policy.reset(0)
    context = policy.encode(seen(1))
    noisy, t = torch.randn(1, 2, 8, 3), torch.tensor(0.4)
    both = policy.predict(noisy, t, context, ("success", "failure"))
    torch.testing.assert_close(both[0], policy.predict(noisy, t, context, ("success",))[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both[1], policy.predict(noisy, t, context, ("failure",))[0], atol=1e-5, rtol=1e-4)
    assert (both[0] - both[1]).abs().mean() > 1e-3
    plain, steered = (
        sample(policy, context, s, torch.Generator().manual_seed(0)).actions_BHA for s in (Unsteered(), AFIL(alpha=1.0))
    )
    assert not torch.equal(plain, steered)


def test_the_schedulers_path_agrees_with_its_own_steps(diffusion: Path) -> None:
    policy = load_policy(diffusion)
    process = policy.process
    x, e = torch.randn(1, 1, 8, 3), torch.randn(1, 1, 8, 3)
    process.scheduler.register_to_config(clip_sample=False)
    for k in range(policy.steps):
        t, t_next = k / policy.steps, (k + 1) / policy.steps
        clean = process.clean(e, x, t)
        torch.testing.assert_close(process.from_clean(clean, x, t), e, atol=1e-4, rtol=1e-3)
        assert process.alpha(t) ** 2 + process.sigma(t) ** 2 == pytest.approx(1.0)
        if k + 1 < policy.steps:
            expected = process.alpha(t_next) * clean + process.sigma(t_next) * e
            torch.testing.assert_close(process.step(e, x, t, t_next), expected, atol=1e-4, rtol=1e-3)
    with pytest.raises(SetupError, match="5 denoising steps"):
        process.timestep(0.5)


def test_act_gives_lerobots_actions_and_the_encoders_features(act: Path) -> None:
    policy = load_policy(act)
    policy.reset(0)
    chunk = policy.infer(seen(2))[0]
    theirs = load_policy(act)
    theirs.policy.reset()
    batch = theirs.inputs.ready(seen(2))
    expected = [theirs.inputs.after(theirs.policy.select_action(dict(batch)))[0].detach().numpy() for _ in range(4)]
    np.testing.assert_array_equal(chunk.actions, np.stack(expected))
    assert chunk.features is not None and chunk.features.shape == (32,)
    two = policy.infer(seen(2, 3))
    np.testing.assert_allclose(two[0].features, chunk.features, atol=1e-5)


def test_act_with_ensembling_is_asked_at_every_step(tmp_path: Path) -> None:
    from .small import ACT, save

    folder = save("act", tmp_path / "e", **{**ACT, "n_action_steps": 1, "temporal_ensemble_coeff": 0.01})
    mine, theirs = load_policy(folder), load_policy(folder)
    mine.reset(0), theirs.policy.reset()
    for seed in range(4):
        chunk = mine.infer(seen(seed))[0]
        expected = theirs.inputs.after(theirs.policy.select_action(theirs.inputs.ready(seen(seed))))
        np.testing.assert_array_equal(chunk.actions, expected.detach().numpy())


def test_vqbet_keeps_its_own_past_and_shows_its_transformer(tmp_path: Path) -> None:
    from .small import VQBET, save

    folder = save("vqbet", tmp_path / "v", cameras=("top",), **VQBET)
    mine, theirs = load_policy(folder), load_policy(folder)
    mine.reset(4)
    chunks = [mine.infer(seen(seed))[0] for seed in range(7)]
    theirs.policy.reset()
    torch.manual_seed(4)
    for seed, chunk in enumerate(chunks):
        with torch.inference_mode():
            expected = theirs.inputs.after(theirs.policy.select_action(theirs.inputs.ready(seen(seed))))
        np.testing.assert_array_equal(chunk.actions, expected.numpy())
    assert chunks[0].features is not None and chunks[0].features.shape == (32,)
    np.testing.assert_array_equal(chunks[0].features, chunks[1].features)  # nothing was encoded in between
    assert not np.array_equal(chunks[0].features, chunks[3].features)


def test_steering_act_says_what_is_possible(act: Path) -> None:
    from failwise.agent import PolicyAgent

    with pytest.raises(SetupError, match="'lerobot:act' gives no denoising to steer; monitors and recovery work"):
        PolicyAgent(load_policy(act), AFIL(alpha=1.0))


def test_pictures_are_matched_by_name_by_hand_or_refused(smolvla: Path) -> None:
    one = seen(0)[0]
    renamed = Observation({"left": one.images["top"], "robot": one.images["robot"]}, one.state, one.instruction)
    with pytest.raises(DataError, match=r"needs the picture 'observation.images.top', but the cameras are left, robot"):
        load_policy(smolvla).encode([renamed])
    by_hand = load_policy(f"lerobot:{smolvla}?observation.images.top=left")
    plain = load_policy(smolvla)
    assert torch.equal(by_hand.encode([renamed]).features_BD, plain.encode([one]).features_BD)
    with pytest.raises(SetupError, match=r"no picture 'observation.images.wrist', only"):
        load_policy(f"lerobot:{smolvla}?observation.images.wrist=top")
    with pytest.raises(SetupError, match="KEY=CAMERA"):
        load_policy(f"lerobot:{smolvla}?nonsense")


def test_what_does_not_fit_is_told(smolvla: Path, act: Path, tmp_path: Path) -> None:
    one = seen(0)[0]
    short = Observation(one.images, one.state[:3], one.instruction)
    with pytest.raises(DataError, match="3 numbers, the policy takes 5"):
        load_policy(smolvla).encode([short])
    floats = Observation({k: v.astype(np.float32) / 255 for k, v in one.images.items()}, one.state, one.instruction)
    with pytest.raises(DataError, match=r"float32 of shape .*; it must be uint8 \(h, w, 3\), 0 to 255"):
        load_policy(smolvla).encode([floats])
    small = Observation({k: v[:16, :16] for k, v in one.images.items()}, one.state, one.instruction)
    with pytest.raises(DataError, match="16x16 pixels, but the policy was trained on 32x32"):
        load_policy(act).infer([small])
    with pytest.raises(CheckpointError, match="no LeRobot checkpoint"):
        load_policy(f"lerobot:{tmp_path / 'none'}")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text('{"type": "act"}')
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_policy(tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="LeRobot cannot read"):
        load_policy(tmp_path / "half")


def test_a_folder_of_lerobot_train_is_found_from_above(smolvla: Path, tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "pretrained_model").symlink_to(smolvla)
    assert load_policy(f"lerobot:{tmp_path / 'last'}").spec.kind == "lerobot"
