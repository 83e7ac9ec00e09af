import math

import pytest
import torch
from analytic_policies import MixturePolicy, context_of, gaussian, seeded

from failwise.errors import SetupError
from failwise.steer import (
    DiffusionProcess,
    FlowProcess,
    ReversedTime,
    Unsteered,
    process,
    process_for,
    sample,
)

MEAN = torch.tensor([[0.3, -0.8], [1.1, 0.2]], dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.93])
def test_straight_path_conversions_against_the_definition(t):
    a, z = draw(2, 3, 4, 2), draw(2, 3, 4, 2, seed=1)
    x, v = (1 - t) * z + t * a, a - z
    for found, true in [
        (process.velocity_to_clean(v, x, t), a),
        (process.velocity_to_epsilon(v, x, t), z),
        (process.epsilon_to_velocity(z, x, t), v),
        (process.epsilon_to_clean(z, x, t), a),
        (process.clean_to_velocity(a, x, t), v),
        (process.clean_to_epsilon(a, x, t), z),
    ]:
        torch.testing.assert_close(found, true, rtol=0, atol=1e-12)


@pytest.mark.parametrize("convert", [process.epsilon_to_velocity, process.epsilon_to_clean])
def test_epsilon_says_nothing_at_time_zero(convert):
    with pytest.raises(ValueError, match="t = 0"):
        convert(draw(2), draw(2), 0.0)


@pytest.mark.parametrize("path", [FlowProcess(), DiffusionProcess(), DiffusionProcess(start_angle=0.3)])
@pytest.mark.parametrize(("t", "t_next"), [(0.0, 0.4), (0.25, 0.5), (0.5, 1.0)])
def test_a_true_prediction_stays_on_its_path(path, t, t_next):
    a, z = draw(5, 2), draw(5, 2, seed=1)
    x = path.alpha(t) * a + path.sigma(t) * z
    prediction = a - z if isinstance(path, FlowProcess) else z
    torch.testing.assert_close(path.clean(prediction, x, t), a, rtol=0, atol=1e-12)
    torch.testing.assert_close(path.from_clean(a, x, t), prediction, rtol=0, atol=1e-12)
    expected = path.alpha(t_next) * a + path.sigma(t_next) * z
    torch.testing.assert_close(path.step(prediction, x, t, t_next), expected, rtol=0, atol=1e-12)


def test_the_stated_schedules():
    flow, diffusion = FlowProcess(), DiffusionProcess()
    assert (flow.alpha(0.0), flow.sigma(0.0), flow.alpha(1.0), flow.sigma(1.0)) == (0, 1, 1, 0)
    assert diffusion.alpha(0.0) == pytest.approx(math.sin(0.02))
    assert (diffusion.alpha(1.0), diffusion.sigma(1.0)) == (1.0, 0.0)
    for t in torch.linspace(0, 1, 11).tolist():
        assert diffusion.alpha(t) ** 2 + diffusion.sigma(t) ** 2 == pytest.approx(1.0)


def test_clip_bounds_the_action_and_keeps_the_noise_consistent():
    path = DiffusionProcess(clip=1.0)
    x, epsilon, t = 5 * draw(50, 2), draw(50, 2, seed=1), 0.3
    clean = path.clean(epsilon, x, t)
    assert clean.abs().max() == 1.0
    used = (x - path.alpha(t) * clean) / path.sigma(t)
    expected = path.alpha(0.6) * clean + path.sigma(0.6) * used
    torch.testing.assert_close(path.step(epsilon, x, t, 0.6), expected, rtol=0, atol=1e-12)


class BackwardsPolicy(MixturePolicy):
    """Counts as pi0 does: x = tau z + (1 - tau) a, u = z - a; written without the package's conversions."""

    def predict(self, noisy_BNHA, t, context, heads):
        tau = float(t)
        means = []
        for head in heads:
            m, s = self.mixtures[head].means[0], self.mixtures[head].std
            variance = (1 - tau) ** 2 * s**2 + tau**2
            centred = noisy_BNHA - (1 - tau) * m
            a = m + (1 - tau) * s**2 / variance * centred
            z = tau / variance * centred
            means.append(z - a)
        return torch.stack(means)


def test_reversed_flow_gives_the_native_loops_samples():
    heads = {"success": gaussian(MEAN, 0.4)}
    native, context, K = BackwardsPolicy("flow", heads), context_of(3), 12
    ours = sample(ReversedTime(native), context, Unsteered(), seeded(), steps=K)
    generator = seeded()
    x = torch.stack([torch.randn((2, 2), generator=generator, dtype=torch.float64) for _ in range(3)])[:, None]
    for k in range(K):  # tau runs from 1 (noise) to 0 (action)
        x = x - native.predict(x, torch.tensor(1 - k / K, dtype=torch.float64), context, ("success",))[0] / K
    torch.testing.assert_close(ours.actions_BHA, x[:, 0], rtol=0, atol=1e-12)


def test_both_directions_of_time_agree_and_undo_each_other():
    heads = {"success": gaussian(MEAN, 0.4)}
    forwards, backwards, context = MixturePolicy("flow", heads), BackwardsPolicy("flow", heads), context_of(1)
    x, t = draw(1, 5, 2, 2), torch.tensor(0.3, dtype=torch.float64)
    ours = forwards.predict(x, t, context, ("success",))
    theirs = backwards.predict(x, 1 - t, context, ("success",))
    torch.testing.assert_close(ReversedTime(backwards).predict(x, t, context, ("success",)), ours, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        ReversedTime(forwards).predict(x, 1 - t, context, ("success",)), theirs, rtol=0, atol=1e-12
    )
    twice = ReversedTime(ReversedTime(forwards)).predict(x, t, context, ("success",))
    torch.testing.assert_close(twice, ours, rtol=0, atol=1e-12)


def test_reversed_epsilon_keeps_its_sign():
    policy, context = MixturePolicy("epsilon", {"success": gaussian(MEAN, 0.4)}), context_of(1)
    x, t = draw(1, 5, 2, 2), torch.tensor(0.25, dtype=torch.float64)
    turned = ReversedTime(policy).predict(x, 1 - t, context, ("success",))
    torch.testing.assert_close(turned, policy.predict(x, t, context, ("success",)))


def test_policies_without_a_score_field_are_refused():
    policy = MixturePolicy("flow", {"success": gaussian(MEAN, 0.4)})
    assert isinstance(process_for(policy), FlowProcess)
    object.__setattr__(policy.spec, "prediction", "")
    with pytest.raises(SetupError, match="neither a velocity nor a noise"):
        process_for(policy)
    policy.process = DiffusionProcess(clip=2.0)
    assert process_for(policy).clip == 2.0
