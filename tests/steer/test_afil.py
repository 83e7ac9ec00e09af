import math

import numpy as np
import pytest
import torch
from analytic_policies import Mixture, MixturePolicy, NetworkPolicy, context_of, gaussian, seeded

from failwise.errors import DataError, SetupError
from failwise.steer import AFIL, AFILOptions, Unsteered, measure_divergence, sample
from failwise.steer.afil import cosine_distance
from failwise.steer.posterior import LogRatio

SCHEDULES = ("none", "constant", "cosine", "cosine_half", "l2", "dng", "dipole")
H, A, STD = 2, 2, 0.35
M_S = torch.tensor([[0.5, -0.2], [0.1, 0.9]], dtype=torch.float64)
M_F = torch.tensor([[-0.3, 0.4], [0.3, 0.6]], dtype=torch.float64)
HEADS = {"success": gaussian(M_S, STD), "failure": gaussian(M_F, STD)}


def slow_path(prediction, t):
    """alpha, sigma as docs/methods/afil.md states them."""
    if prediction == "flow":
        return t, 1 - t
    phi = 0.02 + t * (math.pi / 2 - 0.02)
    return math.sin(phi), math.cos(phi)


def slow_clean(prediction, p, x, t):
    a, s = slow_path(prediction, t)
    return [xi + (1 - t) * pi if prediction == "flow" else (xi - s * pi) / a for xi, pi in zip(x, p, strict=True)]


def slow_guidance(chain, prediction, o, value):
    """One chunk's chain of (p_s, p_f, x, t), flat lists of floats, to its guided predictions. No tensors."""
    guided, log_ratio, last = [], 0.0, None
    risk = 1.0 - value
    for p_s, p_f, x, t in chain:
        dot = sum(a * b for a, b in zip(p_s, p_f, strict=True))
        norm_s, norm_f = math.sqrt(sum(a * a for a in p_s)), math.sqrt(sum(b * b for b in p_f))
        gap = math.sqrt(sum((a - b) ** 2 for a, b in zip(p_s, p_f, strict=True)))
        if last is not None:  # log-likelihoods of the step just made, under either head's Gaussian transition
            x0, t0, clean_s, clean_f = last
            (a0, s0), (a1, s1) = slow_path(prediction, t0), slow_path(prediction, t)
            q2 = s0**2 - (a0 / a1) ** 2 * s1**2
            var = q2 * s1**2 / s0**2
            for xi, x0i, cs, cf in zip(x, x0, clean_s, clean_f, strict=True):
                base = (a0 / a1) * (s1 / s0) ** 2 * x0i
                mu_s, mu_f = base + a1 * q2 / s0**2 * cs, base + a1 * q2 / s0**2 * cf
                log_ratio += (-((xi - mu_f) ** 2) + (xi - mu_s) ** 2) / (2 * var)
        last = (x, t, slow_clean(prediction, p_s, x, t), slow_clean(prediction, p_f, x, t))
        prior = o.prior if o.prior is not None else risk
        ratio = math.exp(log_ratio / o.posterior_temperature)
        as_marginal = min(prior * ratio, o.posterior_cap)
        bayes = min(prior * ratio / (prior * ratio + 1 - prior), o.posterior_cap)
        lam = {
            "none": 0.0,
            "constant": o.alpha,
            "cosine": o.alpha * (1 - dot / (norm_s * norm_f)) / o.scale,
            "cosine_half": o.alpha * (1 - dot / (norm_s * norm_f)) / 2 / o.scale,
            "l2": o.alpha * gap / norm_s / o.scale,
            "dng": o.alpha * as_marginal / (1 - as_marginal),
            "dipole": o.alpha * bayes,
        }[o.schedule]
        if o.gate == "risk":
            lam *= risk**o.power
        if o.clamp is not None and lam * gap > o.clamp * norm_s:
            lam = o.clamp * norm_s / gap
        guided.append([a + lam * (a - b) for a, b in zip(p_s, p_f, strict=True)])
    return guided


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"clamp": 0.2},
        {"gate": "risk", "power": 1.5},
        {"prior": None, "posterior_temperature": 3.0, "clamp": None},
    ],
)
def test_every_schedule_against_a_slow_transcription(schedule, prediction, more):
    scale = {"scale": 0.4} if schedule in ("cosine", "cosine_half", "l2") else {}
    options = AFILOptions(schedule=schedule, alpha=0.7, **scale, **more)
    B, N, K = 2, 3, 6
    value_B = torch.tensor([0.3, 0.9], dtype=torch.float64)
    policy, context = MixturePolicy(prediction, HEADS), context_of(B)
    steering = AFIL(options, value=lambda c: value_B)
    steering.prepare(policy, context)
    x = torch.randn((B, N, H, A), generator=seeded(3), dtype=torch.float64)
    chains = {(b, n): [] for b in range(B) for n in range(N)}
    found = {key: [] for key in chains}
    for k in range(K):
        t = k / K
        both = policy.predict(x, torch.tensor(t, dtype=torch.float64), context, ("success", "failure"))
        guided = steering.adjust(both if options.active else both[:1], x, t, context)
        for b, n in chains:
            flat = (
                both[0, b, n].flatten().tolist(),
                both[1, b, n].flatten().tolist(),
                x[b, n].flatten().tolist(),
            )
            chains[b, n].append((*flat, t))
            found[b, n].append(guided[b, n].flatten().tolist())
        x = policy.path.step(guided, x, t, (k + 1) / K)
    for b, n in chains:
        expected = slow_guidance(chains[b, n], prediction, options, value_B[b].item())
        np.testing.assert_allclose(found[b, n], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_alpha_zero_is_the_unsteered_policy_bit_for_bit(schedule, prediction):
    policy = NetworkPolicy(prediction)
    context = policy.encode([None] * 5)
    base = sample(policy, context, Unsteered(), seeded(7))
    off = sample(policy, context, AFIL(schedule=schedule, alpha=0.0), seeded(7))
    assert torch.equal(off.actions_BHA, base.actions_BHA)
    on = sample(policy, context, AFIL(schedule=schedule, alpha=1.0, prior=0.5), seeded(7))
    assert torch.equal(on.actions_BHA, base.actions_BHA) == (schedule == "none")


def test_observing_reports_divergence_and_risk_and_changes_nothing():
    policy, context = MixturePolicy("flow", HEADS), context_of(3)

    def quarter(context):
        return torch.full((3,), 0.25)

    plain = sample(policy, context, AFIL(alpha=0.0), seeded(7))
    watched = sample(policy, context, AFIL(alpha=0.0, observe=True, value=quarter), seeded(7))
    steered = sample(policy, context, AFIL(alpha=1e-9, gate="risk", value=quarter), seeded(7))
    torch.testing.assert_close(watched.actions_BHA, plain.actions_BHA, rtol=0, atol=0)
    for mine, theirs in zip(watched.info, steered.info, strict=True):
        assert mine["risk"] == 0.75 and mine["guidance_mean"] == mine["guidance_max"] == 0.0
        assert (
            mine["head_divergence"] == pytest.approx(theirs["head_divergence"], rel=1e-5)
            and mine["head_divergence"] > 0
        )
    assert "head_divergence" not in plain.info[0]


def test_alpha_zero_does_not_evaluate_the_failure_head_or_the_risk_model():
    policy = MixturePolicy("flow", {"success": HEADS["success"]})
    sample(policy, context_of(2), AFIL(alpha=0.0, gate="risk"), seeded())
    assert {heads for _, _, heads in policy.calls} == {("success",)}


@pytest.mark.parametrize("every", [1, 2, 4, 9])
def test_the_failure_head_is_evaluated_at_every_so_many_steps(every):
    policy, context = MixturePolicy("flow", HEADS), context_of(2)
    sample(policy, context, AFIL(schedule="constant", alpha=0.7, every=every), seeded(), steps=6)
    both = ("success", "failure")
    assert [heads for _, _, heads in policy.calls] == [both if k % every == 0 else both[:1] for k in range(6)]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "l2"])
def test_between_evaluations_the_last_difference_of_the_heads_is_reused(schedule):
    steering = AFIL(schedule=schedule, alpha=0.7, clamp=0.3, every=2)
    exact = AFIL(schedule=schedule, alpha=0.7, clamp=0.3)
    policy = NetworkPolicy()
    context = policy.encode([None] * 4)
    for one in (steering, exact):
        one.prepare(policy, context)
    x = torch.randn((4, 1, policy.spec.horizon, policy.spec.action_dim), generator=seeded(3))
    first, second = (policy.predict(x, torch.tensor(t), context, ("success", "failure")) for t in (0.0, 0.3))
    assert torch.equal(steering.adjust(first, x, 0.0, context), exact.adjust(first, x, 0.0, context))
    as_if = torch.stack([second[0], second[0] - (first[0] - first[1])])
    found = steering.adjust(second[:1], x, 0.3, context)
    torch.testing.assert_close(found, exact.adjust(as_if, x, 0.3, context))
    assert not torch.allclose(found, exact.adjust(second, x, 0.3, context))


def test_a_new_observation_forgets_the_difference():
    steering, policy, context = AFIL(every=2), MixturePolicy("flow", HEADS), context_of(1)
    sample(policy, context, steering, seeded(), steps=2)
    steering.prepare(policy, context)
    with pytest.raises(AssertionError, match="first denoising step"):
        steering.adjust(torch.zeros(1, 1, 1, H, A), torch.zeros(1, 1, H, A), 0.0, context)


@pytest.mark.parametrize("rho", [0.05, 0.5])
@pytest.mark.parametrize("schedule", SCHEDULES[1:])
def test_the_clamp_bounds_every_push_and_is_reached(schedule, rho):
    steering = AFIL(schedule=schedule, alpha=50.0, clamp=rho)
    policy, context = NetworkPolicy(), context_of(4, torch.float32, 16)
    steering.prepare(policy, context)
    x = torch.randn((4, 3, 8, 4), generator=seeded())
    predictions = policy.predict(x, torch.tensor(0.5), context, steering.heads)
    push = steering.adjust(predictions, x, 0.5, context) - predictions[0]
    share = torch.linalg.vector_norm(push, dim=(-2, -1)) / torch.linalg.vector_norm(predictions[0], dim=(-2, -1))
    assert share.max() <= rho * (1 + 1e-5)
    assert share.min() >= rho * (1 - 1e-3)


def test_heads_that_agree_give_no_push_and_no_nan():
    policy, context = NetworkPolicy(), context_of(2, torch.float32, 16)
    x = torch.randn((2, 1, 8, 4), generator=seeded())
    one = policy.predict(x, torch.tensor(0.5), context, ("success",))
    for schedule in SCHEDULES[1:]:
        steering = AFIL(schedule=schedule)
        steering.prepare(policy, context)
        assert torch.equal(steering.adjust(torch.cat([one, one]), x, 0.5, context), one[0])
        steering.prepare(policy, context)
        assert torch.isfinite(steering.adjust(torch.zeros_like(torch.cat([one, one])), x, 0.5, context)).all()


def test_cosine_distance_keeps_its_digits_where_the_heads_almost_agree():
    generator = seeded()
    p = torch.randn((1, 1, 32), generator=generator, dtype=torch.float64)
    q = p + 1e-3 * torch.randn((1, 1, 32), generator=generator, dtype=torch.float64)
    exact = 1 - torch.nn.functional.cosine_similarity(p, q, dim=-1)
    p32, q32 = p.float(), q.float()
    norms = torch.stack([p32.norm(dim=-1), q32.norm(dim=-1)])
    ours = cosine_distance(norms, (p32 - q32).norm(dim=-1)).double()
    assert abs(ours / exact - 1).max() < 0.01
    opposite = cosine_distance(torch.ones((2, 1, 1)), torch.full((1, 1), 2.0))
    assert opposite.item() == 2.0


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_the_log_ratio_converges_to_the_exact_one_along_any_path(prediction):
    """Equal covariances: log p_f(x_t) - log p_s(x_t) is known, also on a path that no head would take."""
    policy, context = MixturePolicy(prediction, HEADS), context_of(1)
    steer = AFIL(schedule="constant", alpha=1.3, clamp=None)
    errors = []
    for K in (50, 100, 800):
        steer.prepare(policy, context)
        tracker = LogRatio(policy.path)
        x = torch.randn((1, 8, H, A), generator=seeded(2), dtype=torch.float64)
        worst = torch.zeros(())
        first = None
        for k in range(K):
            t = k / K
            alpha, sigma = policy.path.alpha(t), policy.path.sigma(t)
            exact = HEADS["failure"].log_density(x, alpha, sigma) - HEADS["success"].log_density(x, alpha, sigma)
            both = policy.predict(x, torch.tensor(t, dtype=torch.float64), context, ("success", "failure"))
            tracked = tracker.update(both[0], both[1], x, t)
            # 0 for flow; an epsilon chain starts with 2% of the action in its noise
            first = exact if first is None else first
            if t <= 0.9:
                worst = torch.maximum(worst, (tracked - (exact - first)).abs().max())
            x = policy.path.step(steer.adjust(both, x, t, context), x, t, (k + 1) / K)
        errors.append(worst.item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] / errors[2] == pytest.approx(8.0, rel=0.25), errors  # first order: 8 times the steps


def test_the_risk_gate_is_w_times_risk_to_the_p():
    value_B = torch.tensor([1.0, 0.5, 0.0])
    policy, context = NetworkPolicy(), context_of(3, torch.float32, 16)
    gated = AFIL(schedule="constant", alpha=2.0, gate="risk", power=2.0, clamp=None, value=lambda c: value_B)
    x = torch.randn((3, 1, 8, 4), generator=seeded())
    gated.prepare(policy, context)
    p = policy.predict(x, torch.tensor(0.5), context, gated.heads)
    found = gated.adjust(p, x, 0.5, context)
    for b, lam in enumerate((0.0, 0.5, 2.0)):
        torch.testing.assert_close(found[b], p[0, b] + lam * (p[0, b] - p[1, b]))
    assert torch.equal(found[0], p[0, 0])
    rows = gated.info()
    assert [row["risk"] for row in rows] == [0.0, 0.5, 1.0]
    assert [row["guidance_mean"] for row in rows] == pytest.approx([0.0, 0.5, 2.0])
    assert rows[1]["guidance_max"] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["cosine", "cosine_half", "l2"])
def test_the_measured_scale_brings_the_mean_strength_to_alpha(schedule):
    policy, context = NetworkPolicy(), context_of(6, torch.float32, 16)
    measured = measure_divergence(policy, context, seeded(1), schedule=schedule, samples=4)
    assert measured.n == 24
    assert len(measured.by_step) == 6
    assert measured.mean == pytest.approx(sum(measured.by_step) / 6)
    # at a vanishing alpha the guided chain is the dry run's own
    steering = AFIL(schedule=schedule, alpha=1e-4, scale=measured.mean, clamp=None)
    steering.samples = 4
    rows = sample(policy, context, steering, seeded(1)).info
    assert sum(row["guidance_mean"] for row in rows) / 6 == pytest.approx(1e-4, rel=1e-3)


def test_a_failure_head_that_equals_the_success_head_has_no_scale():
    same = Mixture(M_S[None], STD)
    with pytest.raises(DataError, match="agree everywhere"):
        measure_divergence(MixturePolicy("flow", {"success": same, "failure": same}), context_of(2), seeded())
    with pytest.raises(SetupError, match="follows no divergence"):
        measure_divergence(MixturePolicy("flow", HEADS), context_of(2), seeded(), schedule="dng")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "cosin"}, "unknown schedule"),
        ({"gate": "open"}, "unknown gate"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"schedule": "constant", "scale": 0.1}, "scale belongs to"),
        ({"clamp": 0.0}, "clamp"),
        ({"prior": 1.0}, "prior"),
        ({"posterior_cap": 1.0}, "posterior_cap"),
        ({"failure": "success"}, "two different heads"),
        ({"gate": "risk"}, "risk model"),
        ({"schedule": "dng", "prior": None}, "risk model"),
        ({"strength": 2.0}, "known options"),
        ({"every": 0}, "every must be at least 1"),
        ({"every": 2, "schedule": "dng"}, "needs both heads at every denoising step"),
    ],
)
def test_bad_options_are_refused_in_one_line(fields, message):
    with pytest.raises(SetupError, match=message) as caught:
        AFIL(**fields)
    assert "\n" not in str(caught.value)


def test_risk_models_must_give_one_probability_an_observation():
    policy = MixturePolicy("flow", HEADS)
    for bad, message in [(torch.zeros(3, 1), "shape"), (torch.tensor([0.1, 0.2, 1.7]), r"\[0, 1\]")]:
        with pytest.raises(SetupError, match=message):
            sample(policy, context_of(3), AFIL(gate="risk", value=lambda c, bad=bad: bad), seeded())
