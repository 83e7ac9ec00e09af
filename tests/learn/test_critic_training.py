"""Value model and critic: targets and ranking by their definitions, and folds that never leak into their member."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from chunk_data import made_up, same_weights, small_policy

from failwise.errors import DataError, SetupError
from failwise.learn import critic as module
from failwise.learn.critic import Judged, encode_samples, fit_critic, next_values, ranking_auc
from failwise.learn.options import CriticOptions
from failwise.policies.critic_config import CriticConfig
from failwise.types import Outcome
from small_trainings import fit_precision

SMALL = CriticConfig(width=16, attention_heads=2, layers=1, members=3)
OPTIONS = CriticOptions(config=SMALL, steps=6, batch=24, learning_rate=3e-3, seed=4, precision=fit_precision())
EPISODES = [("reach", "success" if i % 2 else "timeout", range(0, 12, 4)) for i in range(9)]


def slow_auc(y, score):
    pairs = [(a > b) + 0.5 * (a == b) for a in score[y > 0.5] for b in score[y <= 0.5]]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(4))
def test_the_auc_counts_pairs(seed):
    random = np.random.default_rng(seed)
    y = (random.random(60) > 0.6).astype(np.float32)
    score = np.round(random.normal(size=60) + y, 1).astype(np.float32)  # rounded: many ties
    assert ranking_auc(y, score) == pytest.approx(slow_auc(y, score))


def test_the_auc_of_perfect_worst_and_constant_scores():
    y = np.array([0, 0, 1, 1, 1], np.float32)
    assert ranking_auc(y, y) == 1.0 and ranking_auc(y, -y) == 0.0 and ranking_auc(y, 0 * y) == 0.5


def slow_next(data, value, horizon):
    out = []
    for m in range(len(data)):
        later = [
            (data.step[k], k) for k in range(len(data))
            if data.episode[k] == data.episode[m] and data.step[k] >= data.step[m] + horizon
        ]  # fmt: skip
        out.append(value[min(later)[1]] if later else float(data.success[m]))
    return np.array(out, np.float32)


@pytest.mark.parametrize("horizon", [1, 4, 8, 30])
def test_the_next_value_is_that_of_the_first_look_after_the_chunk(horizon):
    looks = [[0, 4, 8, 12], [0, 3, 9, 10, 21], [0], [0, 8, 16]]
    data = made_up([("reach", o, x) for o, x in zip(("success", "timeout", "success", "failure"), looks, strict=True)])
    value = np.random.default_rng(0).random(len(data)).astype(np.float32)
    assert np.array_equal(next_values(data, value, horizon), slow_next(data, value, horizon))
    order = np.random.default_rng(1).permutation(len(data))  # samples may come in any order
    mixed = replace(data, episode=data.episode[order], step=data.step[order])
    assert np.array_equal(next_values(mixed, value[order], horizon), slow_next(data, value, horizon)[order])


def test_the_advantage_is_the_gain_over_the_chunk():
    judged = Judged(np.float32([0.2, 0.9]), np.float32([0.7, 0.4]), 0.5, 0.5)
    np.testing.assert_allclose(judged.advantage, [0.5, -0.5], rtol=1e-6)


def with_outcomes(data, flipped):
    """The same episodes, some of them with the other outcome."""
    metas = [
        m.model_copy(update={"outcome": Outcome.TIMEOUT if m.outcome == "success" else Outcome.SUCCESS})
        if i in flipped
        else m
        for i, m in enumerate(data.episodes)
    ]
    return replace(data, episodes=tuple(metas))


def member(network, e):
    return {k: v[e] for k, v in network.state_dict().items() if k.startswith("value")}


@pytest.fixture
def _unclipped(monkeypatch):
    # The clip shares one norm among all members, which is the one thing that couples them.
    monkeypatch.setattr(module.torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: None)


@pytest.mark.usefixtures("_unclipped")
@pytest.mark.parametrize("e", range(3))
def test_a_member_learns_nothing_from_its_own_fold(e):
    data = made_up(EPISODES)
    fold = np.random.default_rng(OPTIONS.seed).permutation(len(data.episodes)) % 3
    flipped = with_outcomes(data, set(np.flatnonzero(fold == e).tolist()))
    policy = small_policy()
    one, _ = fit_critic(policy, data, OPTIONS, value_only=True, quiet=True)
    two, _ = fit_critic(policy, flipped, OPTIONS, value_only=True, quiet=True)
    for k in range(3):
        mine, theirs = member(one.network, k), member(two.network, k)
        same = [torch.equal(mine[name], theirs[name]) for name in mine]
        assert all(same) if k == e else not any(same[1:]), f"member {k}, fold {e}"


def test_each_sample_is_judged_by_the_member_that_did_not_see_it():
    data, policy = made_up(EPISODES), small_policy()
    critic, judged = fit_critic(policy, data, OPTIONS, quiet=True)
    fold = np.random.default_rng(OPTIONS.seed).permutation(len(data.episodes)) % 3
    encoded = encode_samples(policy, data, quiet=True)
    with torch.inference_mode():
        logits = critic.network.value(encoded.prefix.float(), encoded.mask).sigmoid().numpy()
    slow = logits[fold[data.episode], np.arange(len(data))]
    np.testing.assert_allclose(judged.value, slow, atol=5e-3)  # bfloat16, where the processor has it
    assert np.abs(logits.std(0)).min() > 0
    assert np.array_equal(judged.next_value, next_values(data, judged.value, 4))
    y = data.success.astype(np.float32)
    assert judged.auc_value == pytest.approx(slow_auc(y, judged.value))
    assert critic.notes["episodes"] == 9 and critic.notes["held_out_auc_critic"] == round(judged.auc_critic, 4)


def test_what_the_observation_shows_is_learned_and_ranks_held_out_episodes():
    data = made_up([("reach", "success" if i % 2 else "timeout", range(0, 12, 4)) for i in range(16)])
    states = data.states.copy()
    states[:, 0] = np.where(data.success, 2.0, -2.0)
    blank = {camera: np.zeros_like(pixels) for camera, pixels in data.images.items()}
    shown, options = replace(data, states=states, images=blank), replace(OPTIONS, steps=150)
    _, judged = fit_critic(small_policy(), shown, options, value_only=True, quiet=True)
    assert judged.auc_value > 0.9
    assert np.isnan(judged.auc_critic)


def test_the_same_seed_gives_the_same_bits():
    data, policy = made_up(EPISODES), small_policy()
    one, two, other = (fit_critic(policy, data, replace(OPTIONS, seed=s), quiet=True)[0] for s in (4, 4, 5))
    assert same_weights(one.network, two.network) and not same_weights(one.network, other.network)


def test_the_policy_is_frozen():
    policy = small_policy()
    before = {k: v.clone() for k, v in policy.network.state_dict().items()}
    fit_critic(policy, made_up(EPISODES), replace(OPTIONS, steps=2), quiet=True)
    assert all(torch.equal(v, before[k]) for k, v in policy.network.state_dict().items())


def test_encoded_samples_do_not_depend_on_the_batch():
    data, policy = made_up(EPISODES), small_policy()
    whole, parts = (encode_samples(policy, data, batch=b, quiet=True) for b in (64, 5))
    torch.testing.assert_close(whole.prefix.float(), parts.prefix.float(), rtol=0.02, atol=0.02)
    assert torch.equal(whole.mask, parts.mask) and torch.equal(whole.actions, parts.actions)
    torch.testing.assert_close(whole.actions, policy.normaliser.action(torch.from_numpy(data.actions)))


@pytest.mark.parametrize("outcome", ["success", "timeout"])
def test_one_outcome_alone_is_refused(outcome):
    data = made_up([("reach", outcome, [0, 4])] * 3)
    kind = "successes" if outcome == "success" else "failures"
    with pytest.raises(DataError, match=f"all 3 episodes are {kind}"):
        fit_critic(small_policy(), data, OPTIONS, quiet=True)


def test_a_single_member_is_refused():
    with pytest.raises(SetupError):
        fit_critic(small_policy(), made_up(EPISODES), replace(OPTIONS, config=replace(SMALL, members=1)), quiet=True)
