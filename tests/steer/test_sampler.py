import pytest
import torch
from analytic_policies import Mixture, MixturePolicy, NetworkPolicy, context_of, gaussian, seeded

from failwise.errors import EpisodeError, SetupError, UnknownNameError
from failwise.steer import AFIL, BestOfN, Unsteered, sample

H, A = 3, 2
HEADS = {
    "success": gaussian(torch.full((H, A), 0.5, dtype=torch.float64), 0.3),
    "failure": gaussian(torch.full((H, A), -0.5, dtype=torch.float64), 0.3),
}


class FourSamples(Unsteered):
    samples = 4


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_all_heads_and_samples_in_one_call_a_step(prediction):
    policy = MixturePolicy(prediction, HEADS)
    steering = AFIL(alpha=1.0)
    steering.samples = 4
    drawn = sample(policy, context_of(2), steering, seeded(), steps=5)
    assert policy.calls == [((2, 4, H, A), k / 5, ("success", "failure")) for k in range(5)]
    assert drawn.samples_BNHA.shape == (2, 4, H, A)
    assert drawn.actions_BHA.shape == (2, H, A)
    assert torch.equal(drawn.actions_BHA, drawn.samples_BNHA[:, 0])
    assert len(drawn.info) == 2


def test_number_of_steps_is_the_policys_unless_given():
    policy = MixturePolicy("flow", HEADS, steps=7)
    sample(policy, context_of(1), Unsteered(), seeded())
    assert len(policy.calls) == 7


@pytest.mark.parametrize("steering", [Unsteered(), FourSamples(), AFIL(), AFIL("no") if False else AFIL(alpha=2.0)])
@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_a_batch_with_own_generators_reproduces_single_runs(prediction, steering):
    policy, context = MixturePolicy(prediction, HEADS), context_of(3)
    batch = sample(policy, context, steering, [seeded(s) for s in (4, 5, 6)])
    for b, seed in enumerate((4, 5, 6)):
        single = sample(policy, context.select(torch.tensor([b])), steering, [seeded(seed)])
        assert torch.equal(single.samples_BNHA[0], batch.samples_BNHA[b])


def test_a_network_batch_reproduces_single_runs_to_rounding():
    policy = NetworkPolicy()
    context = policy.encode([None] * 3)
    batch = sample(policy, context, AFIL(), [seeded(s) for s in (4, 5, 6)])
    for b, seed in enumerate((4, 5, 6)):
        single = sample(policy, context.select(torch.tensor([b])), AFIL(), [seeded(seed)])
        torch.testing.assert_close(single.actions_BHA[0], batch.actions_BHA[b], rtol=0, atol=1e-5)


def test_sample_zero_does_not_depend_on_the_number_of_samples():
    policy, context = MixturePolicy("flow", HEADS), context_of(1)
    one = sample(policy, context, Unsteered(), seeded(3))
    four = sample(policy, context, FourSamples(), seeded(3))
    assert torch.equal(one.samples_BNHA[:, 0], four.samples_BNHA[:, 0])
    assert not torch.equal(four.samples_BNHA[:, 0], four.samples_BNHA[:, 1])


def test_the_same_seed_gives_the_same_actions_and_another_seed_others():
    policy, context = NetworkPolicy(), context_of(2, torch.float32, 16)
    first, again, other = (sample(policy, context, AFIL(), seeded(s)).actions_BHA for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_temperature_scales_the_noise():
    policy, context = MixturePolicy("flow", HEADS, steps=64), context_of(1)

    class Many(Unsteered):
        samples = 512

    warm = sample(policy, context, Many(), seeded()).samples_BNHA
    cool = sample(policy, context, Many(), seeded(), temperature=0.5).samples_BNHA
    cold = sample(policy, context, Many(), seeded(), temperature=0.0).samples_BNHA
    assert cool.std() / warm.std() == pytest.approx(0.5, rel=1e-6)  # the map from noise to action is affine here
    assert cold.std() == pytest.approx(0.0, abs=1e-12)


def test_hooks_are_called_and_info_comes_back():
    class Zero(Unsteered):
        def noise(self, noise_BNHA, context):
            return torch.zeros_like(noise_BNHA)

        def info(self):
            return [{"b": float(b)} for b in range(self._batch)]

    policy, context = MixturePolicy("flow", HEADS), context_of(2)
    drawn = sample(policy, context, Zero(), seeded())
    assert torch.equal(drawn.actions_BHA[0], drawn.actions_BHA[1])
    assert drawn.info == [{"b": 0.0}, {"b": 1.0}]


def test_bad_requests_say_what_to_do():
    policy, context = MixturePolicy("flow", {"success": HEADS["success"]}), context_of(2)
    with pytest.raises(UnknownNameError, match="failure"):
        sample(policy, context, AFIL(), seeded())
    with pytest.raises(SetupError, match="1 generators for 2 observations"):
        sample(policy, context, Unsteered(), [seeded()])
    with pytest.raises(SetupError, match="denoising step"):
        sample(policy, context, Unsteered(), seeded(), steps=0)
    with pytest.raises(SetupError, match="temperature"):
        sample(policy, context, Unsteered(), seeded(), temperature=-1.0)
    with pytest.raises(SetupError, match="samples"):
        BestOfN(lambda a, c: a[..., 0, 0], samples=0)


def test_actions_that_are_not_finite_end_the_episode_only():
    nan = Mixture(torch.full((1, H, A), float("nan"), dtype=torch.float64), 0.3)
    with pytest.raises(EpisodeError, match="not finite"):
        sample(MixturePolicy("flow", {"success": nan}), context_of(1), Unsteered(), seeded())
