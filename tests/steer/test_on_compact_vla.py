"""The embedded policy under every steering: real batched experts, which analytic policies lack."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from analytic_policies import seeded

from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser
from failwise.steer import AFIL, BestOfN, Chain, GradientGuidance, Unsteered, measure_divergence, sample
from failwise.types import Observation

SENTENCE = "open the drawer"


def small_policy(prediction):
    config = CompactConfig(
        cameras={"corner": (32, 32)},
        width=24,
        attention_heads=2,
        conv_channels=(8, 8, 8),
        heads=("success", "failure"),
        prediction=prediction,
    )
    torch.manual_seed(0)
    normaliser = Normaliser(*(torch.tensor(x).repeat(4) for x in (0.0, 1.0, 0.0, 1.0, -1.0, 1.0)))
    policy = CompactVLA(config, normaliser)
    with torch.no_grad():  # the heads start equal, and their output at zero
        for parameter in policy.network.experts.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    policy.text.load_state_dict({SENTENCE: torch.randn(5, 384)})  # no text encoder needed
    return policy


def observations(n):
    rng = np.random.default_rng(0)
    return [
        Observation(
            {"corner": rng.integers(0, 256, (32, 32, 3), np.uint8)},
            rng.normal(size=4).astype(np.float32),
            SENTENCE,
        )
        for _ in range(n)
    ]


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
@pytest.mark.parametrize("schedule", ["none", "constant", "cosine", "cosine_half", "l2", "dng", "dipole"])
def test_alpha_zero_is_the_unsteered_policy_bit_for_bit(prediction, schedule):
    policy = small_policy(prediction)
    seen = observations(3)
    base = sample(policy, policy.encode(seen), Unsteered(), seeded())
    off = sample(policy, policy.encode(seen), AFIL(schedule=schedule, alpha=0.0), seeded())
    on = sample(policy, policy.encode(seen), AFIL(schedule=schedule, alpha=1.0), seeded())
    assert torch.equal(off.actions_BHA, base.actions_BHA)
    assert torch.equal(on.actions_BHA, base.actions_BHA) == (schedule == "none")


def test_one_head_alone_reads_the_keys_and_values_made_for_both():
    policy = small_policy("flow")
    noisy, t = torch.randn((3, 2, 8, 4), generator=seeded()), torch.tensor(0.2)
    fresh, shared = policy.encode(observations(3)), policy.encode(observations(3))
    both = policy.predict(noisy, t, shared, ("success", "failure"))
    alone = policy.predict(noisy, t, shared, ("success",))
    assert shared.caches[("success",)][0][0][0].data_ptr() == shared.caches[("success", "failure")][0][0][0].data_ptr()
    torch.testing.assert_close(alone[0], policy.predict(noisy, t, fresh, ("success",))[0])
    torch.testing.assert_close(alone[0], both[0])
    torch.testing.assert_close(policy.predict(noisy, t, shared, ("failure",))[0], both[1])


def test_guidance_at_every_other_step_in_a_chain():
    policy = small_policy("flow")
    sparse, members = AFIL(alpha=2.0, every=2), BestOfN(lambda a, c: a.mean((-2, -1)), samples=3)
    chained = sample(policy, policy.encode(observations(2)), Chain([sparse, members]), [seeded(1), seeded(2)])
    alone = sample(policy, policy.encode(observations(2)), AFIL(alpha=2.0, every=2), [seeded(1), seeded(2)])
    torch.testing.assert_close(chained.samples_BNHA[:, 0], alone.samples_BNHA[:, 0])


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_every_steering_at_once(prediction):
    policy = small_policy(prediction)
    context = policy.encode(observations(2))

    def value(context):
        return context.features_BD[:, 0].sigmoid()

    def reward(actions_BNHA, context):
        return -(context.features_BD[:, :1].clone() * actions_BNHA.square().mean((-2, -1)))

    chain = Chain(
        [
            AFIL(alpha=0.5, scale=measure_divergence(policy, context, seeded()).mean, gate="risk", value=value),
            GradientGuidance(reward, 0.1),
            BestOfN(lambda a, c: a.mean((-2, -1)), samples=3),
        ]
    )
    drawn = sample(policy, context, chain, [seeded(1), seeded(2)])
    assert policy.decode(drawn.actions_BHA).shape == (2, 8, 4)
    for b in range(2):
        alone = sample(policy, policy.encode(observations(2)[b : b + 1]), chain, [seeded(b + 1)])
        torch.testing.assert_close(alone.actions_BHA[0], drawn.actions_BHA[b], rtol=0, atol=1e-4)


def test_importing_the_room_loads_no_torch():
    code = "import sys, failwise.steer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
