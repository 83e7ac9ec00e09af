"""Guided sampling against densities that are known in closed form."""

from itertools import pairwise

import pytest
import torch
from analytic_policies import Mixture, MixturePolicy, context_of, gaussian, seeded

from failwise.steer import AFIL, ClassifierFree, Composition, Unsteered, draw_noise, sample

STD = 0.35
M_S = torch.tensor([[0.5, -0.2], [0.1, 0.9]], dtype=torch.float64)
M_F = torch.tensor([[-0.3, 0.4], [0.3, 0.6]], dtype=torch.float64)
M_X = torch.tensor([[0.9, 0.0], [-0.7, -0.1]], dtype=torch.float64)
HEADS = {"success": gaussian(M_S, STD), "failure": gaussian(M_F, STD), "extra": gaussian(M_X, STD)}
WEIGHTS = {"success": 0.5, "failure": 0.2, "extra": 0.3}

CASES = [
    *[(AFIL(schedule="constant", alpha=lam, clamp=None), (1 + lam) * M_S - lam * M_F) for lam in (0.0, 0.5, 2.0)],
    *[(ClassifierFree("success", "failure", w), M_F + w * (M_S - M_F)) for w in (0.0, 1.0, 1.5, 3.0)],
    (Composition(WEIGHTS), 0.5 * M_S + 0.2 * M_F + 0.3 * M_X),
]


def with_samples(steering, n):
    steering.samples = n
    return steering


@pytest.mark.parametrize(("steering", "mean"), CASES)
@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_equal_variances_combine_exactly_at_any_number_of_steps(prediction, steering, mean, steps):
    guided = MixturePolicy(prediction, HEADS)
    closed = MixturePolicy(prediction, {"success": gaussian(mean, STD)})
    context = context_of(2)
    found = sample(guided, context, with_samples(steering, 3), seeded(), steps).samples_BNHA
    expected = sample(closed, context, with_samples(Unsteered(), 3), seeded(), steps).samples_BNHA
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def closed_form(policy, mean, noise):
    """Where the exact flow carries noise drawn at t = 0, for a Gaussian target: standard scores are kept."""
    alpha, sigma = policy.path.alpha(0.0), policy.path.sigma(0.0)
    score = (noise - alpha * mean) / (alpha**2 * STD**2 + sigma**2) ** 0.5
    return mean + STD * score


@pytest.mark.parametrize(("steering", "mean"), CASES)
@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_samples_converge_to_the_closed_form_with_steps(prediction, steering, mean):
    policy, context = MixturePolicy(prediction, HEADS), context_of(1)
    steering = with_samples(steering, 64)
    expected = closed_form(policy, mean, draw_noise(policy, context, 64, seeded()))
    errors = [
        (sample(policy, context, steering, seeded(), K).samples_BNHA - expected).abs().max().item()
        for K in (50, 100, 200, 800)
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.1)  # first order
    assert errors[3] < 0.01


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_mean_and_variance_of_the_guided_population(prediction):
    lam, n = 1.5, 8000
    policy = MixturePolicy(prediction, HEADS)
    steering = with_samples(AFIL(schedule="constant", alpha=lam, clamp=None), n)
    x = sample(policy, context_of(1), steering, seeded(), 200).samples_BNHA[0]
    standard_error = STD / n**0.5
    # an epsilon chain starts with 2% of the action in its noise, which standard noise lacks
    offset = 0.02 * STD * ((1 + lam) * M_S - lam * M_F).abs() if prediction == "epsilon" else 0.0
    assert ((x.mean(0) - ((1 + lam) * M_S - lam * M_F)).abs() < 4 * standard_error + offset + 5e-3).all()
    assert (x.std(0) / STD - 1).abs().max() < 0.04


def test_unequal_variances_are_not_the_product_of_densities():
    """Exactness ends here: the noised product is not the product of the noised densities."""
    lam, s_s, s_f = 1.0, 0.3, 0.6
    heads = {"success": gaussian(M_S, s_s), "failure": gaussian(M_F, s_f)}
    precision = (1 + lam) / s_s**2 - lam / s_f**2
    steering = with_samples(AFIL(schedule="constant", alpha=lam, clamp=None), 4000)
    x = sample(MixturePolicy("flow", heads), context_of(1), steering, seeded(), 400).samples_BNHA[0]
    assert abs(x.std(0).mean().item() / precision**-0.5 - 1) > 0.05


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
@pytest.mark.parametrize("options", [{"schedule": "constant"}, {"schedule": "cosine"}, {"schedule": "dipole"}])
def test_the_failing_modes_share_falls_monotonically(prediction, options):
    modes = torch.tensor([[[1.0]], [[-1.0]]], dtype=torch.float64)
    heads = {"success": Mixture(modes, 0.25, (0.65, 0.35)), "failure": Mixture(modes, 0.25, (0.2, 0.8))}
    policy, context, n = MixturePolicy(prediction, heads), context_of(1), 3000
    shares = []
    for alpha in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0):
        steering = with_samples(AFIL(alpha=alpha, clamp=None, **options), n)
        x = sample(policy, context, steering, seeded(1), 40).samples_BNHA
        shares.append((x < 0).double().mean().item())
    assert shares[0] == pytest.approx(0.35, abs=0.05)
    assert all(later < earlier for earlier, later in pairwise(shares)), shares
    assert shares[-1] < 0.7 * shares[0]
