"""Which features a detector gets."""

from __future__ import annotations

import pytest
import torch
from small_policy import noisy, observations, small_policy

from failwise.agent import PolicyAgent
from failwise.errors import SetupError
from failwise.policies.pooling import Pooling
from failwise.policies.scripted import RandomPolicy
from failwise.steer import BestOfN, Unsteered, sample


def inference(policy, steering=None):
    """Two observations' context and chunks."""
    context = policy.encode(observations(2))
    context.hidden = []
    sampled = sample(policy, context, steering or Unsteered(), torch.Generator().manual_seed(0))
    return context, sampled


def test_prefix_pools_read_the_tokens_that_they_name():
    policy = small_policy()
    context, sampled = inference(policy)
    (first,) = Pooling.parse("prefix-first")(context, sampled.index_B)
    (last,) = Pooling.parse("prefix-last")(context, sampled.index_B)
    torch.testing.assert_close(first, context.prefix_BLD[:, 0])
    for b in range(2):
        real = context.mask_B11L[b, 0, 0].nonzero().max()
        torch.testing.assert_close(last[b], context.prefix_BLD[b, real])


def test_the_largest_values_are_those_of_real_tokens():
    policy = small_policy()
    context, sampled = inference(policy)
    context.prefix_BLD = context.prefix_BLD.clone()
    padding = ~context.mask_B11L[:, 0, 0].bool()
    padding[0, -1] = True
    context.mask_B11L = context.mask_B11L.clone()
    context.mask_B11L[0, 0, 0, -1] = False
    context.prefix_BLD[padding] = 1e6
    (found,) = Pooling.parse("prefix-max")(context, sampled.index_B)
    for b in range(2):
        torch.testing.assert_close(found[b], context.prefix_BLD[b, ~padding[b]].amax(0))
    (meant,) = Pooling.parse("expert-max")(context, sampled.index_B)
    torch.testing.assert_close(meant, context.hidden[-1][:, 0].amax(1))


def test_the_head_reads_its_actions_from_the_hidden_states_that_are_kept():
    policy = small_policy()
    x, t = noisy(policy, 2, 3)
    context = policy.encode(observations(2))
    context.hidden = []
    predicted = policy.predict(x, t, context, ("failure", "success"))
    hidden = context.hidden[0].reshape(1, -1, policy.config.width)
    with torch.no_grad():
        out = policy.network.experts.out(hidden, slice(1, 2)).view(predicted[0].shape)
    torch.testing.assert_close(out, predicted[0])


def test_several_parts_follow_each_other():
    policy = small_policy()
    context, sampled = inference(policy)
    seen, meant = Pooling.parse("prefix-mean+expert-mean@mean")(context, sampled.index_B)
    torch.testing.assert_close(seen, context.features_BD)
    mean = torch.stack(context.hidden).mean(0)[:, 0].mean(1)
    torch.testing.assert_close(meant, mean)


def test_the_chosen_sample_is_the_one_that_is_read():
    policy = small_policy()
    third = BestOfN(lambda actions, context: torch.tensor([[0.0, 0.0, 1.0]] * 2), samples=3)
    context, sampled = inference(policy, third)
    assert sampled.index_B.tolist() == [2, 2]
    (got,) = Pooling.parse("expert-first")(context, sampled.index_B)
    torch.testing.assert_close(got, context.hidden[-1][:, 2, 0])


@pytest.mark.parametrize(
    "text", ["", "prefix", "prefix-mean@last", "expert-middle", "expert-mean@", "expert-mean@max", "a+prefix-mean"]
)
def test_an_unknown_choice_is_refused_in_one_line(text):
    with pytest.raises(SetupError, match="unknown features"):
        Pooling.parse(text)


def test_watching_changes_nothing_that_is_done():
    plain, watched = PolicyAgent(small_policy()), PolicyAgent(small_policy())
    watched.watch("prefix-mean+expert-mean", 4)
    plain.begin(None, 3)
    watched.begin(None, 3)
    for seen in observations(3):
        a, b = plain.act(seen), watched.act(seen)
        assert (a.actions == b.actions).all()
        assert a.samples is None and b.samples.shape == (4, 4, 3)
        assert b.features.shape == (2 * len(a.features),)
        assert b.samples.std(0).max() > 0


def test_a_policy_that_gives_one_chunk_cannot_be_watched_more_closely():
    agent = PolicyAgent(RandomPolicy(action_dim=4))
    with pytest.raises(SetupError, match="flow- or diffusion-based"):
        agent.watch(samples=4)
    with pytest.raises(SetupError, match="at least 2"):
        PolicyAgent(small_policy()).watch(samples=1)
