import pytest
import torch
from analytic_policies import MixturePolicy, context_of, gaussian, seeded

from failwise.errors import SetupError
from failwise.steer import GradientGuidance, Unsteered, sample

MEAN = torch.tensor([[0.5, -0.2, 0.1], [0.1, 0.9, -0.4]], dtype=torch.float64)
HEADS = {"success": gaussian(MEAN, 0.35)}


def reward(actions_BNHA, context):
    """Not quadratic, and different for every observation."""
    tilt_B = context.features_BD[:, 0, None]
    return -torch.cosh(actions_BNHA - 0.3).sum((-2, -1)) + tilt_B * (actions_BNHA**3).sum((-2, -1))


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_the_push_against_a_numerical_jacobian(prediction, t):
    policy, context, s = MixturePolicy(prediction, HEADS), context_of(2), 0.2
    steering = GradientGuidance(reward, strength=s)
    steering.prepare(policy, context)
    x = torch.randn((2, 2, 2, 3), generator=seeded(), dtype=torch.float64)
    if prediction == "epsilon":
        # near its own marginal, where the predicted action is of ordinary size
        x = policy.path.alpha(t) * MEAN + policy.path.sigma(t) * x
    p = policy.predict(x, torch.tensor(t, dtype=torch.float64), context, ("success",))
    clean = policy.path.clean(p[0], x, t)
    numerical, h = torch.zeros_like(clean), 1e-5
    for flat in range(clean[0, 0].numel()):
        bump = torch.zeros(clean[0, 0].numel(), dtype=torch.float64)
        bump[flat] = h
        bump = bump.reshape(2, 3)
        slope = (reward(clean + bump, context) - reward(clean - bump, context)) / (2 * h)
        numerical[:, :, flat // 3, flat % 3] = slope
    found = steering.adjust(p, x, t, context)
    if prediction == "flow":
        expected = p[0] + s * numerical
    else:
        alpha, sigma = policy.path.alpha(t), policy.path.sigma(t)
        expected = p[0] - alpha / sigma * (1 - t) * s * numerical
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    moved = policy.path.clean(found, x, t) - clean
    torch.testing.assert_close(moved, (1 - t) * s * numerical, rtol=0, atol=1e-8)


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_more_strength_gives_more_reward(prediction):
    policy, context = MixturePolicy(prediction, HEADS, steps=30), context_of(2)

    def towards_one(a_BNHA, context):
        return -((a_BNHA - 1.0) ** 2).sum((-2, -1))

    means = []
    for s in (0.0, 0.25, 0.5, 1.0):
        steering = GradientGuidance(towards_one, strength=s)
        steering.samples = 32
        means.append(towards_one(sample(policy, context, steering, seeded()).samples_BNHA, context).mean().item())
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.5


def test_strength_zero_and_times_before_begin_change_no_bit():
    policy, context = MixturePolicy("flow", HEADS), context_of(2)
    base = sample(policy, context, Unsteered(), seeded())
    off = sample(policy, context, GradientGuidance(reward, strength=0.0), seeded())
    assert torch.equal(off.actions_BHA, base.actions_BHA)
    late = GradientGuidance(reward, strength=1.0, begin=1.0)
    assert torch.equal(sample(policy, context, late, seeded()).actions_BHA, base.actions_BHA)
    half = sample(policy, context, GradientGuidance(reward, begin=0.5), seeded())
    assert not torch.equal(half.actions_BHA, base.actions_BHA)


def test_clamp_and_info():
    policy, context = MixturePolicy("flow", HEADS), context_of(2)
    steering = GradientGuidance(reward, strength=100.0, clamp=0.1)
    steering.prepare(policy, context)
    x = torch.randn((2, 4, 2, 3), generator=seeded(), dtype=torch.float64)
    p = policy.predict(x, torch.tensor(0.4, dtype=torch.float64), context, ("success",))
    push = torch.linalg.vector_norm(steering.adjust(p, x, 0.4, context) - p[0], dim=(-2, -1))
    bound = 0.1 * torch.linalg.vector_norm(p[0], dim=(-2, -1))
    torch.testing.assert_close(push, bound, rtol=1e-9, atol=0)
    assert [row["gradient_norm"] for row in steering.info()] == pytest.approx(push.mean(1).tolist())


def test_works_from_predictions_made_in_inference_mode():
    class Inference(MixturePolicy):
        @torch.inference_mode()
        def predict(self, *args):
            return super().predict(*args)

    context = context_of(2)
    found = sample(Inference("flow", HEADS), context, GradientGuidance(reward, 0.1), seeded())
    expected = sample(MixturePolicy("flow", HEADS), context, GradientGuidance(reward, 0.1), seeded())
    assert torch.equal(found.actions_BHA, expected.actions_BHA)


def test_bad_rewards_and_options_are_refused():
    policy, context = MixturePolicy("flow", HEADS), context_of(2)
    for bad, message in [
        (lambda a, c: a.sum(), "shape"),
        (lambda a, c: a.detach().sum((-2, -1)), "differentiably"),
    ]:
        with pytest.raises(SetupError, match=message):
            sample(policy, context, GradientGuidance(bad), seeded())
    with pytest.raises(SetupError, match="begin"):
        GradientGuidance(reward, begin=2.0)
    with pytest.raises(SetupError, match="clamp"):
        GradientGuidance(reward, clamp=0.0)
