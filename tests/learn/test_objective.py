"""The noised samples against a transcription of the two processes, one number at a time."""

import math

import pytest
import torch
from chunk_data import small_config

from failwise.learn import objective
from failwise.steer.process import DiffusionProcess


def draw(prediction, a, copies, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return objective.noised(small_config(prediction=prediction), a, copies, generator)


def at_times(monkeypatch, times, prediction, a):
    """``noised`` at given flow times (B, N); the noise comes from the generator as ever."""
    monkeypatch.setattr(objective.torch, "rand", lambda *shape, generator: times.expand(shape).clone())
    return draw(prediction, a, times.shape[1])


def chunks(b=2):
    return torch.randn(b, 4, 3, generator=torch.Generator().manual_seed(0))


def slow_path(prediction, a, z, t):
    """x and target of one number."""
    if prediction == "flow":
        return (1 - t) * z + t * a, a - z
    phi = 0.02 + t * (math.pi / 2 - 0.02)
    return math.sin(phi) * a + math.cos(phi) * z, z


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_every_number_follows_the_process(prediction):
    a = chunks()
    x, t, target = draw(prediction, a, 5)
    assert x.shape == target.shape == (2, 5, 4, 3) and t.shape == (2, 5)
    # The order of draws is part of what makes a training run repeatable: noise first, then times.
    generator = torch.Generator().manual_seed(3)
    z, times = torch.randn(2, 5, 4, 3, generator=generator), torch.rand(2, 5, generator=generator)
    assert torch.equal(t, times)
    for b in range(2):
        for n in range(5):
            for h in range(4):
                for d in range(3):
                    slow = slow_path(prediction, float(a[b, h, d]), float(z[b, n, h, d]), float(t[b, n]))
                    assert float(x[b, n, h, d]) == pytest.approx(slow[0], abs=1e-5)
                    assert float(target[b, n, h, d]) == pytest.approx(slow[1], abs=2e-6)


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_the_end_of_time_is_the_action(monkeypatch, prediction):
    a = chunks()
    x, _, _ = at_times(monkeypatch, torch.ones(1, 3), prediction, a)
    torch.testing.assert_close(x, a[:, None].expand_as(x), rtol=0, atol=1e-6)


def test_the_start_of_time_is_the_noise(monkeypatch):
    a = chunks()
    x, _, target = at_times(monkeypatch, torch.zeros(1, 3), "flow", a)
    torch.testing.assert_close(x, a[:, None] - target)
    process = DiffusionProcess()
    x, _, z = at_times(monkeypatch, torch.zeros(1, 3), "epsilon", a)
    assert process.alpha(0.0) == pytest.approx(math.sin(0.02))
    torch.testing.assert_close(x, process.alpha(0.0) * a[:, None] + process.sigma(0.0) * z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.7])
def test_training_and_sampling_use_the_same_diffusion(monkeypatch, t):
    a = chunks()
    x, _, epsilon = at_times(monkeypatch, torch.full((1, 2), t), "epsilon", a)
    clean = DiffusionProcess().clean(epsilon, x, t)
    torch.testing.assert_close(clean, a[:, None].expand_as(clean), rtol=0, atol=1e-3)  # at t = 0 errors grow fiftyfold


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_copies_are_independent_and_repeatable(prediction):
    a = chunks(300)
    x, t, _ = draw(prediction, a, 8)
    again = draw(prediction, a, 8)
    assert torch.equal(x, again[0]) and torch.equal(t, again[1])
    assert 0 <= t.min() < 0.01 and 0.99 < t.max() <= 1
    assert abs(float(t.mean()) - 0.5) < 0.03
    assert abs(float(torch.corrcoef(t.T)[0, 1])) < 0.2
