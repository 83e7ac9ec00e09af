"""Every detector against a slow transcription of its equation; causality; folders; and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from traces import D, meta, trace, traces

from failwise import registry
from failwise.detect import (
    Moment,
    Trace,
    calibrate,
    check_calibration,
    load_detector,
    load_monitor,
    make_detector,
    score_trace,
)
from failwise.detect.base import score_recorded
from failwise.detect.combined import _hold_out
from failwise.errors import CheckpointError, DataError, SetupError, UnknownNameError
from failwise.evaluate.detection import Scored, roc_auc

NAMES = registry.names("detector")
QUICK = {
    "safe-mlp": {"hidden": 16, "epochs": 60, "learning_rate": 3e-3},
    "safe-lstm": {"hidden": 16, "epochs": 60, "learning_rate": 3e-3},
    "rnd": {"hidden": 16, "steps": 100},
    "logpzo": {"hidden": 16, "steps": 100},
    "pca-kmeans": {"components": 4, "clusters": 5},
    "fiper": {"rnd": {"hidden": 16, "steps": 100}},
    "changes": {"options": {"hidden": 16, "epochs": 60, "learning_rate": 3e-3}},
    "ensemble": {"members": {"safe-lstm": {"hidden": 16, "epochs": 60, "learning_rate": 3e-3}, "mahalanobis": {}}},
}
TRAIN, OTHER = traces(30), traces(16, 1000)


@pytest.fixture(scope="module", params=NAMES)
def detector(request):
    return make_detector(request.param, **QUICK.get(request.param, {})).fit(TRAIN, seed=1)


def test_all_detectors_are_known():
    assert len(NAMES) >= 18 and {"safe-mlp", "safe-lstm", "stac", "length"} <= set(NAMES)


def test_changing_the_future_changes_no_past_score(detector):
    whole, other = trace(2000, True), trace(2001, False)
    scores = score_trace(detector, whole)
    for cut in (1, 9, 30):
        assert np.array_equal(score_trace(detector, whole.until(cut)), scores[:cut])
        keep, rest = whole.asked < cut, other.asked >= cut
        spliced = Trace(
            whole.meta,
            np.concatenate([whole.actions[:cut], other.actions[cut:]]),
            np.concatenate([whole.asked[keep], other.asked[rest]]),
            np.concatenate([whole.features[keep], other.features[rest]]),
            np.concatenate([whole.samples[keep], other.samples[rest]]),
            {k: np.concatenate([v[keep], other.info[k][rest]]) for k, v in whole.info.items()},
        )
        assert np.array_equal(score_trace(detector, spliced)[:cut], scores[:cut])


def test_a_whole_episode_at_once_scores_as_step_by_step(detector):
    for t in OTHER[:3]:
        np.testing.assert_allclose(score_recorded(detector, t), score_trace(detector, t), rtol=2e-5, atol=1e-6)


def test_an_episode_leaves_nothing_behind(detector):
    first = score_trace(detector, OTHER[0])
    score_trace(detector, OTHER[1])
    assert np.array_equal(score_trace(detector, OTHER[0]), first)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ensemble", {"members": {"changes": QUICK["changes"], "mahalanobis": {}}}),
        ("changes", {"detector": "ensemble", "options": QUICK["ensemble"]}),
    ],
)
def test_detectors_that_stand_on_each_other_come_back_too(name, options, tmp_path):
    fitted = make_detector(name, **options).fit(TRAIN, seed=1)
    fitted.save(tmp_path)
    for one in OTHER[:3]:
        assert np.array_equal(score_trace(fitted, one), score_trace(load_detector(tmp_path), one))


def test_a_saved_detector_gives_the_same_scores(detector, tmp_path):
    detector.save(tmp_path)
    again = load_detector(tmp_path, "ab" * 32)
    for t in OTHER[:4]:
        np.testing.assert_allclose(score_trace(again, t), score_trace(detector, t), rtol=1e-5, atol=1e-6)
    assert again.options() == detector.options()


def test_the_same_seed_fits_the_same_detector(detector):
    again = make_detector(detector.name, **detector.options()).fit(TRAIN, seed=1)
    assert np.array_equal(score_trace(again, OTHER[0]), score_trace(detector, OTHER[0]))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("length", "speed", "stillness")])
def test_it_tells_these_failures_from_successes(name):
    longer = {"hidden": 32, "epochs": 150, "learning_rate": 3e-3}
    options = QUICK.get(name, {})
    if name.startswith("safe"):
        options = longer
    elif name == "changes":
        options = {"options": longer}
    elif name == "ensemble":
        options = {"members": {"safe-mlp": longer, "safe-lstm": longer, "mahalanobis": {}}}
    fitted = make_detector(name, **options).fit(traces(80))
    cut = [t.until(28) for t in OTHER]
    auc = roc_auc([Scored("a", t.failed, score_trace(fitted, t)) for t in cut])
    # Standardised features near the mean have a random direction, which is all that the cosine sees.
    assert auc > (0.65 if name == "knn-cosine" else 0.8), auc


def test_fitting_leaves_the_random_state_alone(detector):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    make_detector(detector.name, **detector.options()).fit(TRAIN[:6])
    assert torch.equal(before, torch.get_rng_state())


# Slow transcriptions, in float64 and one number at a time.


def scaled(fitted, e):
    return [(float(x) - float(m)) / float(s) for x, m, s in zip(e, fitted.scaler.mean, fitted.scaler.std, strict=True)]


def weights(fitted):
    return {k: v.double().numpy() for k, v in fitted.network.state_dict().items()}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def affine(w, b, x):
    return [sum(wij * xj for wij, xj in zip(row, x, strict=True)) + bi for row, bi in zip(w, b, strict=True)]


def at_inferences(fitted, t):
    return score_trace(fitted, t)[t.asked]


def test_safe_mlp_is_the_running_sum_of_sigmoids():
    fitted = make_detector("safe-mlp", **QUICK["safe-mlp"]).fit(TRAIN)
    w, total, expected = weights(fitted), 0.0, []
    for e in OTHER[0].features:
        hidden = [max(0.0, h) for h in affine(w["0.weight"], w["0.bias"], scaled(fitted, e))]
        total += sigmoid(affine(w["3.weight"], w["3.bias"], hidden)[0])
        expected.append(total)
    np.testing.assert_allclose(at_inferences(fitted, OTHER[0]), expected, rtol=1e-4)


def test_safe_mlp_loss_is_the_papers():
    made = make_detector("safe-mlp", **QUICK["safe-mlp"])
    network = torch.nn.Sequential(torch.nn.Linear(D, 1))
    x, real, y = torch.randn(3, 5, D), torch.ones(3, 5), torch.tensor([1.0, 0.0, 1.0])
    real[1, 3:] = 0
    found = made._losses(network, x, real, y)
    for i in range(3):
        T = int(real[i].sum())
        s, running = [], 0.0
        for step in range(T):
            running += sigmoid(float(network(x[i, step]).detach()))
            s.append(running)
        loss = sum((step + 1 - s[step]) if y[i] else s[step] for step in range(T)) / T
        assert float(found[i].detach()) == pytest.approx(loss, rel=1e-5)


def test_safe_lstm_is_an_lstm_over_the_inferences():
    fitted = make_detector("safe-lstm", **QUICK["safe-lstm"]).fit(TRAIN)
    w, n = weights(fitted), 16
    h, c, expected = [0.0] * n, [0.0] * n, []
    for e in OTHER[1].features:
        x = affine(w["inp.weight"], w["inp.bias"], scaled(fitted, e))
        gates = [
            a + b
            for a, b in zip(
                affine(w["lstm.weight_ih_l0"], w["lstm.bias_ih_l0"], x),
                affine(w["lstm.weight_hh_l0"], w["lstm.bias_hh_l0"], h),
                strict=True,
            )
        ]
        i, f, g, o = (gates[k * n : (k + 1) * n] for k in range(4))
        c = [sigmoid(f[k]) * c[k] + sigmoid(i[k]) * math.tanh(g[k]) for k in range(n)]
        h = [sigmoid(o[k]) * math.tanh(c[k]) for k in range(n)]
        expected.append(sigmoid(affine(w["out.weight"], w["out.bias"], h)[0]))
    np.testing.assert_allclose(at_inferences(fitted, OTHER[1]), expected, rtol=1e-4)


def test_neighbours_by_brute_force():
    cosine, euclidean = (make_detector(n, k=3).fit(TRAIN) for n in ("knn-cosine", "knn-euclidean"))
    known = [scaled(cosine, e) for t in TRAIN if not t.failed for e in t.features]
    for row, e in enumerate(OTHER[0].features[:4]):
        x = scaled(cosine, e)
        norm = math.sqrt(sum(v * v for v in x))
        cos, euc = [], []
        for k in known:
            dot = sum(a * b for a, b in zip(x, k, strict=True))
            cos.append(1 - dot / norm / math.sqrt(sum(v * v for v in k)))
            euc.append(math.sqrt(sum((a - b) ** 2 for a, b in zip(x, k, strict=True))))
        assert at_inferences(cosine, OTHER[0])[row] == pytest.approx(sum(sorted(cos)[:3]) / 3, abs=1e-5)
        assert at_inferences(euclidean, OTHER[0])[row] == pytest.approx(sum(sorted(euc)[:3]) / 3, rel=1e-4)


def test_mahalanobis_by_the_inverse_covariance():
    from sklearn.covariance import ledoit_wolf

    fitted = make_detector("mahalanobis").fit(TRAIN)
    x = np.concatenate([t.features for t in TRAIN if not t.failed]).astype(np.float64)
    inverse = np.linalg.inv(ledoit_wolf(x)[0])
    for row, e in enumerate(OTHER[0].features):
        away = e - x.mean(0)
        assert at_inferences(fitted, OTHER[0])[row] == pytest.approx(math.sqrt(away @ inverse @ away), rel=1e-6)


def test_pca_kmeans_is_the_distance_to_the_nearest_centre():
    fitted = make_detector("pca-kmeans", **QUICK["pca-kmeans"]).fit(TRAIN)
    for row, e in enumerate(OTHER[0].features):
        inside = [float(sum((e - fitted.mean) * fitted.basis[:, k])) for k in range(4)]
        distances = [math.dist(inside, centre) for centre in fitted.centres]
        assert at_inferences(fitted, OTHER[0])[row] == pytest.approx(min(distances), rel=1e-6)
    np.testing.assert_allclose(fitted.basis.T @ fitted.basis, np.eye(4), atol=1e-8)


def silu(x):
    return x * sigmoid(x)


def slow_mlp(w, prefix, x, linears):
    for i in range(linears):
        x = affine(w[f"{prefix}.{2 * i}.weight"], w[f"{prefix}.{2 * i}.bias"], x)
        if i < linears - 1:
            x = [silu(v) for v in x]
    return x


def test_rnd_and_logpzo():
    rnd, logpzo = (make_detector(n, **QUICK[n]).fit(TRAIN) for n in ("rnd", "logpzo"))
    a, b = weights(rnd), weights(logpzo)
    for row, e in enumerate(OTHER[0].features[:4]):
        x = scaled(rnd, e)
        gap = zip(slow_mlp(a, "predictor", x, 4), slow_mlp(a, "target", x, 3), strict=True)
        assert at_inferences(rnd, OTHER[0])[row] == pytest.approx(sum((p - f) ** 2 for p, f in gap), rel=1e-3)
        noise = [o + v for o, v in zip(x, slow_mlp(b, "flow", [*x, 0.0], 4), strict=True)]
        assert at_inferences(logpzo, OTHER[0])[row] == pytest.approx(sum(z * z for z in noise), rel=1e-3)


def test_the_losses_of_rnd_and_logpzo():
    """Each against its formula in plain arithmetic, on the same random numbers."""
    rnd, logpzo = (make_detector(n, **QUICK[n]).fit(TRAIN) for n in ("rnd", "logpzo"))
    a, b = weights(rnd), weights(logpzo)
    x_BD = torch.from_numpy(rnd.scaler(OTHER[0].features[:3]))
    gaps = []
    for x in x_BD.double().tolist():
        gap = zip(slow_mlp(a, "predictor", x, 4), slow_mlp(a, "target", x, 3), strict=True)
        gaps.append(sum((p - f) ** 2 for p, f in gap))
    assert rnd._loss(rnd.network, x_BD).item() == pytest.approx(sum(gaps) / 3, rel=1e-3)
    torch.manual_seed(5)
    z_BD, t_B1 = torch.randn_like(x_BD).double().tolist(), torch.rand(3, 1).double().tolist()
    wrong = []
    for o, z, (t,) in zip(x_BD.double().tolist(), z_BD, t_B1, strict=True):
        between = [(1 - t) * oi + t * zi for oi, zi in zip(o, z, strict=True)]
        v = slow_mlp(b, "flow", [*between, t], 4)
        wrong += [(vi - (zi - oi)) ** 2 for vi, zi, oi in zip(v, z, o, strict=True)]
    torch.manual_seed(5)
    assert logpzo._loss(logpzo.network, x_BD).item() == pytest.approx(sum(wrong) / len(wrong), rel=1e-3)


def test_a_predictor_that_was_trained_longer_equals_the_target_better():
    short, long = (make_detector("rnd", hidden=16, steps=n).fit(TRAIN) for n in (1, 600))
    wins = [t for t in TRAIN if not t.failed]
    assert np.mean([score_trace(long, t).mean() for t in wins]) < 0.2 * np.mean(
        [score_trace(short, t).mean() for t in wins]
    )


def test_logpzo_carries_successes_to_noise():
    """On normal data the best flow is known: ``E[z - o | (1 - t) o + t z = x] = (2 t - 1) / ((1 - t)^2 + t^2) x``.

    So at time 0 it takes all of x away, and the score of a success is small.
    """
    random = np.random.default_rng(0)
    normal = [
        Trace(meta(i, False, 40), np.zeros((40, 3), np.float32), np.arange(40),
              random.normal(3.0, 2.0, (40, D)).astype(np.float32))
        for i in range(20)
    ]  # fmt: skip
    fitted = make_detector("logpzo", steps=1500).fit(normal)
    x_BD = torch.from_numpy(random.normal(size=(64, D)).astype(np.float32))
    for t in (0.0, 0.5, 1.0):
        with torch.inference_mode():
            v_BD = fitted.network["flow"](torch.cat([x_BD, torch.full((64, 1), t)], 1))
        best_BD = (2 * t - 1) / ((1 - t) ** 2 + t**2) * x_BD
        assert (v_BD - best_BD).square().mean() < 0.15, t
    far = replace(normal[0], features=normal[0].features + 20)
    assert score_trace(fitted, far).mean() > 10 * score_trace(fitted, normal[1]).mean()


def test_variance_entropy_and_motion_by_hand():
    t = OTHER[0]
    variance, entropy = (at_inferences(make_detector(n).fit(TRAIN), t) for n in ("variance", "entropy"))
    for row, drawn in enumerate(t.samples.astype(np.float64)):
        N, H, A = drawn.shape
        v, h = 0.0, 0.0
        for i in range(H):
            for j in range(A):
                column = [drawn[n, i, j] for n in range(N)]
                mean = sum(column) / N
                square = sum((x - mean) ** 2 for x in column)
                v += square / N / (H * A)
                h += 0.5 * math.log(2 * math.pi * math.e * square / (N - 1)) / (H * A)
        assert variance[row] == pytest.approx(v, rel=1e-5) and entropy[row] == pytest.approx(h, rel=1e-5)
    for name in ("reversals", "jerk", "speed", "stillness"):
        fitted = make_detector(name, window=5).fit(TRAIN)
        a = t.actions / fitted.scale
        for step in (0, 1, 2, 3, 11, 20):
            w = a[max(0, step - 4) : step + 1]
            expected = {
                "reversals": np.mean([w[i] @ w[i - 1] < 0 for i in range(1, len(w))]) if len(w) > 1 else 0.0,
                "jerk": np.mean([math.dist(w[i] + w[i - 2], 2 * w[i - 1]) for i in range(2, len(w))])
                if len(w) > 2 else 0.0,
                "speed": np.mean([math.hypot(*x) for x in w]),
                "stillness": -np.mean([math.hypot(*x) for x in w]),
            }[name]  # fmt: skip
            assert score_trace(fitted, t)[step] == pytest.approx(expected, abs=1e-6), (name, step)


@pytest.mark.parametrize("options", [{}, {"distance": "kl"}, {"single": True}])
def test_stac_compares_the_same_steps_of_two_inferences(options):
    t, total, expected = OTHER[0], 0.0, [0.0]
    for row in range(1, len(t.asked)):
        ahead = int(t.asked[row] - t.asked[row - 1])
        old = [x[ahead:].astype(np.float64).flatten() for x in t.samples[row - 1]]
        new = [x[: 8 - ahead].astype(np.float64).flatten() for x in t.samples[row]]
        if options.get("single"):
            total += math.dist(old[0], new[0]) ** 2
        else:
            both = [*old, *new]
            h = np.median([math.dist(both[i], both[j]) ** 2 for i in range(12) for j in range(i + 1, 12)])

            def kernel(x, y, h=h):
                return math.exp(-(math.dist(x, y) ** 2) / h)

            if options.get("distance") == "kl":
                logs = [
                    math.log(sum(kernel(x, y) for y in old) / 6) - math.log(sum(kernel(x, y) for y in new) / 6)
                    for x in old
                ]
                total += max(0.0, sum(logs) / 6)
            else:
                mean = lambda p, q: sum(kernel(x, y) for x in p for y in q) / 36  # noqa: E731
                total += mean(old, old) + mean(new, new) - 2 * mean(old, new)
        expected.append(total)
    fitted = make_detector("stac", **options).fit(TRAIN)
    np.testing.assert_allclose(at_inferences(fitted, t), expected, rtol=1e-6, atol=1e-9)


def test_an_ensemble_is_the_mean_in_units_of_held_out_episodes():
    members = {"reversals": {}, "mahalanobis": {}}
    fitted = make_detector("ensemble", members=members).fit(TRAIN, seed=3)
    total = np.zeros(len(OTHER[0]))
    for number, name in enumerate(sorted(members)):
        total += (score_trace(fitted.members[name], OTHER[0]) - fitted.centre[number]) / fitted.scale[number]
    np.testing.assert_allclose(score_trace(fitted, OTHER[0]), total / 2, rtol=1e-9)


def test_fiper_is_above_one_only_where_both_are_above_their_thresholds():
    fitted = make_detector("fiper", window=2, rnd=QUICK["rnd"]).fit(TRAIN, seed=3)
    t = OTHER[0]
    each = {name: score_trace(m, t)[t.asked] for name, m in fitted.members.items()}
    expected = []
    for i in range(len(t.asked)):
        recent = [np.mean(each[name][max(0, i - 1) : i + 1]) for name in sorted(each)]
        expected.append(min((x - c) / s for x, c, s in zip(recent, fitted.centre, fitted.scale, strict=True)))
        above = all(x > c + s for x, c, s in zip(recent, fitted.centre, fitted.scale, strict=True))
        assert above == (expected[-1] > 1)
    np.testing.assert_allclose(score_trace(fitted, t)[t.asked], expected, rtol=1e-9)
    assert np.ptp(expected) > 0


def test_a_members_scale_comes_from_episodes_that_it_was_not_fitted_on():
    fitted = make_detector("ensemble", members={"knn-euclidean": {}}).fit(TRAIN, seed=0)
    held, rest = _hold_out(TRAIN, 0)
    assert {t.meta.episode_id for t in held}.isdisjoint(t.meta.episode_id for t in rest)
    assert len(held) + len(rest) == len(TRAIN) and any(t.failed for t in held) and not all(t.failed for t in held)
    every = np.concatenate([score_trace(fitted.members["knn-euclidean"], t)[t.asked] for t in held])
    assert fitted.centre[0] == pytest.approx(every.mean()) and fitted.scale[0] == pytest.approx(every.std())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": {}}, "at least one member"),
        ({"members": {"safe-mlp": {"hiden": 3}}}, "member 'safe-mlp'"),
        ({"window": 0}, "window must be a positive whole number"),
        ({"members": ["safe-mlp"]}, "at least one member: name -> options"),
    ],
)
def test_members_that_cannot_be_made_are_one_line(options, message):
    with pytest.raises(SetupError, match=message):
        make_detector("ensemble", **options)


@pytest.mark.parametrize("absolute", [True, False])
def test_changes_give_another_detector_the_differences(absolute):
    inner = {"hidden": 16, "epochs": 3}
    fitted = make_detector("changes", absolute=absolute, options=inner).fit(TRAIN, seed=1)

    def moved(t):
        rows = []
        for c, e in enumerate(t.features):
            differences = [*(e - t.features[0]), *(e - t.features[max(0, c - 1)])]
            rows.append([*(e if absolute else []), *differences])
        return replace(t, features=np.array(rows, np.float32))

    plain = make_detector("safe-lstm", **inner).fit([moved(t) for t in TRAIN], seed=1)
    for t in OTHER[:4]:
        np.testing.assert_allclose(score_trace(fitted, t), score_trace(plain, moved(t)), rtol=1e-5, atol=1e-6)
    if not absolute:
        shifted = replace(OTHER[0], features=OTHER[0].features + 7)
        np.testing.assert_allclose(score_trace(fitted, shifted), score_trace(fitted, OTHER[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "changes"}, "cannot stand on itself"),
        ({"options": {"hiden": 3}}, "options of 'safe-lstm' in 'changes'"),
    ],
)
def test_changes_of_nothing_are_one_line(options, message):
    with pytest.raises(SetupError, match=message):
        make_detector("changes", **options)


# What is refused.


def test_chunks_that_say_nothing_are_refused():
    """Without a step that two inferences predict, or a second sample, a score would stay at one number for ever."""
    apart = [trace(i, i % 2 == 0, every=8) for i in range(6)]
    with pytest.raises(DataError, match="compares chunks of 8 actions where they overlap"):
        make_detector("stac").fit(apart)
    single = [replace(t, samples=t.samples[:, :1]) for t in TRAIN]
    for name in ("entropy", "variance", "stac", "fiper"):
        with pytest.raises(DataError, match=r"at least 2 sampled chunks, .* has 1"):
            make_detector(name).fit(single)
    assert score_trace(make_detector("stac-single").fit(single), single[0]).any()


def test_demonstrations_that_were_asked_for_and_features_that_are_all_alike():
    with pytest.raises(DataError, match="asked to use demonstrations, and none are given"):
        make_detector("knn-euclidean", demonstrations=True).fit(TRAIN)
    alike = [replace(t, features=np.ones_like(t.features)) for t in TRAIN]
    with pytest.raises(DataError, match="are all alike, so there is no covariance"):
        make_detector("mahalanobis").fit(alike)


def test_bad_episodes_are_refused(detector):
    name, options = detector.name, detector.options()
    with pytest.raises(DataError, match="no successes among 4"):
        make_detector(name, **options).fit([trace(i, True) for i in range(4)])
    if detector.needs_failures:
        with pytest.raises(DataError, match="learns from failures, and there are none among 4"):
            make_detector(name, **options).fit([trace(i, False) for i in range(4)])
    if detector.needs_samples:
        with pytest.raises(DataError, match="has none; record them"):
            make_detector(name, **options).fit([replace(t, samples=None) for t in TRAIN])
    broken = replace(TRAIN[0], features=np.full_like(TRAIN[0].features, np.nan))
    with pytest.raises(DataError, match="not finite"):
        make_detector(name, **options).fit([broken, *TRAIN[1:]])


def test_features_of_another_width_are_refused():
    fitted = make_detector("mahalanobis").fit(TRAIN)
    fitted.reset()
    with pytest.raises(DataError, match="belongs to another policy"):
        fitted.update(Moment(0, np.zeros(3, np.float32), np.zeros(D + 1, np.float32)))


def test_an_inference_without_samples_is_refused():
    fitted = make_detector("variance").fit(TRAIN)
    fitted.reset()
    with pytest.raises(DataError, match="step 4 has none"):
        fitted.update(Moment(4, np.zeros(3, np.float32), np.zeros(D, np.float32)))


@pytest.mark.parametrize("what", ["features", "samples", "action"])
def test_nothing_that_is_not_finite_passes_for_harmless(detector, what):
    """Comparisons with NaN are false: a largest value or an alarm would come out as if nothing were wrong."""
    good, bad = list(trace(2002, True).moments())[:8:4]
    value = np.array(getattr(bad, what), np.float32)
    value.flat[0] = np.nan
    detector.reset()
    detector.update(good)
    with pytest.raises(DataError, match=rf"{what} that are not finite at step 4"):
        detector.update(replace(bad, **{what: value}))


def test_a_score_that_is_not_finite_is_refused(detector, monkeypatch):
    monkeypatch.setattr(detector, "_advance", lambda moment: math.nan)
    with pytest.raises(DataError, match=r"gave nan at step 3"):
        detector.update(Moment(3, np.zeros(3, np.float32)))


def test_recorded_episodes_that_are_not_finite_are_refused_before_fitting():
    one = trace(0, False)
    for what, name in (("features", "knn-cosine"), ("actions", "jerk"), ("samples", "stac")):
        value = getattr(one, what).copy()
        value.flat[-1] = np.inf
        with pytest.raises(DataError, match=r"tiny\.reach\.0: .* not finite"):
            make_detector(name).fit([*TRAIN, replace(one, **{what: value})])


def test_unknown_names_and_options():
    with pytest.raises(UnknownNameError, match="safe-lstm"):
        make_detector("safe-lsmt")
    with pytest.raises(SetupError, match="colour"):
        make_detector("rnd", colour=1)
    with pytest.raises(SetupError, match="k must be a positive whole number"):
        make_detector("knn-cosine", k=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("safe-mlp", {"learning_rate": -1}, "learning_rate must be a positive number"),
        ("safe-mlp", {"dropout": 2}, r"dropout must lie in \[0, 1\)"),
        ("safe-lstm", {"hidden": 12.5}, "hidden must be a positive whole number"),
        ("safe-lstm", {"decay": "much"}, "decay must be a positive number"),
        ("logpzo", {"learning_rate": math.nan}, "learning_rate must be a positive number"),
        ("knn-cosine", {"k": 2.5}, "k must be a positive whole number"),
        ("off-course", {"late": -1.0}, "late must be a positive number"),
        ("risk", {"memory": 1}, r"memory must lie in \[0, 1\)"),
        ("reversals", {"window": True}, "window must be a positive whole number"),
    ],
)
def test_options_out_of_range_are_one_line(name, options, message):
    with pytest.raises(SetupError, match=message):
        make_detector(name, **options)


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(CheckpointError, match="failwise detect fit"):
        load_detector(tmp_path)
    make_detector("length").fit(TRAIN).save(tmp_path)
    with pytest.raises(CheckpointError, match="was fitted on checkpoint abab"):
        load_detector(tmp_path, "cd" * 32)
    with pytest.raises(CheckpointError, match="no usable bands"):
        load_monitor(tmp_path)
    (tmp_path / "detector.safetensors").write_bytes(b"xx")
    with pytest.raises(CheckpointError, match="no usable detector"):
        load_detector(tmp_path)
    about = json.loads((tmp_path / "detector.json").read_text())
    (tmp_path / "detector.json").write_text(json.dumps({**about, "format": "failwise-detector-9"}))
    with pytest.raises(CheckpointError, match="this version reads"):
        load_detector(tmp_path)


# The monitor.


@pytest.mark.parametrize("kind", ["functional", "constant"])
def test_the_monitor_agrees_with_its_band_and_comes_back_from_disk(tmp_path, kind):
    fitted = make_detector("mahalanobis").fit(TRAIN)
    calibration = [t for t in traces(60, 500) if not t.failed]
    monitor = calibrate(fitted, calibration, 0.1, kind=kind)
    monitor.save(tmp_path)
    alarmed = {True: 0, False: 0}
    for one in (monitor, load_monitor(tmp_path)):
        for t in OTHER:
            one.reset(t.meta.env_id)
            verdicts = [one.update(m) for m in t.moments()]
            expected = one.band.first_alarm(score_trace(fitted, t))
            assert one.alarmed_at == expected
            assert [v.alarm for v in verdicts] == [expected is not None and s >= expected for s in range(len(t))]
            alarmed[t.failed] += expected is not None
    assert alarmed[True] == 16 and alarmed[False] <= 6


def test_a_task_with_enough_successes_gets_its_own_band():
    here, there = traces(40), traces(10, 700, "tiny/push")
    fitted = make_detector("length").fit(here)
    monitor = calibrate(fitted, [t for t in here + there if not t.failed], 0.1, per_task=True)
    assert set(monitor.bands) == {"", "tiny/reach"}
    monitor.reset("tiny/push")
    assert monitor.band is monitor.bands[""]


def test_calibration_refuses_failures_and_too_few_successes():
    fitted = make_detector("length").fit(TRAIN)
    with pytest.raises(DataError, match="is no success"):
        calibrate(fitted, OTHER, 0.1)
    with pytest.raises(DataError, match=r"at least 10 are needed.*alpha"):
        calibrate(fitted, [t for t in OTHER if not t.failed], 0.1)


def test_the_band_of_the_other_tasks_rests_on_theirs_where_they_are_enough():
    """Easy tasks with bands of their own may not vouch for the hard ones: alpha is to hold over these too."""
    fitted = make_detector("mahalanobis").fit(TRAIN)

    def wins(task: str, n: int, start: int) -> list[Trace]:
        return [trace(start + i, False, task=task) for i in range(n)]

    easy = wins("tiny/easy", 40, 0)
    few = wins("tiny/few", 7, 100), wins("tiny/fewer", 6, 200)
    bands = calibrate(fitted, [*easy, *few[0], *few[1]], 0.1, per_task=True).bands
    assert set(bands) == {"", "tiny/easy"} and bands[""].n + bands[""].n_mean == 13
    bands = calibrate(fitted, [*easy, *few[0]], 0.1, per_task=True).bands
    assert bands[""].n + bands[""].n_mean == 47, "seven are too few: the band of all tasks"
    assert set(calibrate(fitted, [*easy, *few[0]], 0.1).bands) == {""}


def test_the_alpha_that_is_named_instead_is_enough():
    for n in (2, 7, 8, 30):
        with pytest.raises(DataError, match="or ask for alpha") as refused:
            check_calibration(n, 0.01)
        check_calibration(n, float(str(refused.value).split("alpha ")[1].split(" ")[0]))
    with pytest.raises(DataError) as refused:
        check_calibration(1, 0.4)
    assert "ask for alpha" not in str(refused.value)
