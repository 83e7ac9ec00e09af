"""The training loop: an interruption changes no bit, each head learns from its own source, bad data is refused."""

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from chunk_data import made_up, same_weights, small_policy

from failwise.errors import CheckpointError, DataError, SetupError
from failwise.learn import fit as module
from failwise.learn.fit import Source, fit
from failwise.learn.options import FitOptions
from small_trainings import fit_precision

CPU = torch.device("cpu")
OPTIONS = FitOptions(
    steps=14, batch=6, copies=2, learning_rate=3e-3, warmup=3, shift=2, save_every=5, seed=1, precision=fit_precision()
)
DATA = made_up([("reach", "success", range(0, 20, 2)), ("push", "success", range(0, 12, 2))])


def interrupted(monkeypatch, at):
    """A progress display at which the user presses Ctrl-C, after so many steps."""
    update = module.TrainingProgress.update

    def press(self, step, loss, **more):
        if step == at:
            raise KeyboardInterrupt
        update(self, step, loss, **more)

    monkeypatch.setattr(module.TrainingProgress, "update", press)


@pytest.mark.parametrize("at", [5, 8, 14])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(monkeypatch, tmp_path, at):
    policy = small_policy()
    whole = fit(policy, [Source(DATA)], OPTIONS, quiet=True)
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(KeyboardInterrupt):
            fit(policy, [Source(DATA)], OPTIONS, scratch=tmp_path, quiet=True)
    assert (tmp_path / "training.safetensors").is_file() == (at > 5)
    (tmp_path / "training.tmp").write_bytes(b"a save that was cut off")
    starts = []
    with monkeypatch.context() as patch:
        resume = module.resume_training
        patch.setattr(module, "resume_training", lambda *a: starts.append(resume(*a)) or starts[-1])
        parts = fit(policy, [Source(DATA)], OPTIONS, scratch=tmp_path, quiet=True)
    assert [step for step, _ in starts] == [{5: 0, 8: 5, 14: 10}[at]]
    assert same_weights(parts.network, whole.network)
    assert not same_weights(parts.network, policy.network)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    one, two, other = (
        fit(small_policy(), [Source(DATA)], replace(OPTIONS, steps=4, seed=s), quiet=True) for s in (1, 1, 2)
    )
    assert same_weights(one.network, two.network) and not same_weights(one.network, other.network)


def test_the_policy_that_it_starts_from_is_left_alone():
    policy = small_policy()
    before = {k: v.clone() for k, v in policy.network.state_dict().items()}
    trained = fit(policy, [Source(DATA)], replace(OPTIONS, steps=3), quiet=True)
    assert all(torch.equal(v, before[k]) for k, v in policy.network.state_dict().items())
    assert trained.normaliser is policy.normaliser and not trained.network.training
    assert trained.notes["steps"] == 3 and np.isfinite(trained.notes["final_loss"])


def test_a_stopped_gradient_reaches_its_head_only():
    policy = small_policy(heads=("success", "failure"))
    source = Source(DATA, head="failure", stop_gradient=True)
    trained = fit(policy, [source], replace(OPTIONS, weight_decay=0.0, steps=4), quiet=True)
    before, after = policy.network.state_dict(), trained.network.state_dict()
    for name, value in after.items():
        if name.startswith("experts."):
            assert torch.equal(value[0], before[name][0]), name
        else:
            assert torch.equal(value, before[name]), name
    assert not torch.equal(after["experts.out.weight"][1], before["experts.out.weight"][1])


def test_a_gradient_that_is_not_stopped_reaches_the_backbone():
    policy = small_policy(heads=("success", "failure"))
    trained = fit(policy, [Source(DATA, head="failure")], replace(OPTIONS, weight_decay=0.0, steps=4), quiet=True)
    name = "backbone.state.0.weight"
    assert not torch.equal(trained.network.state_dict()[name], policy.network.state_dict()[name])


def test_the_loss_of_two_sources_is_their_weighted_sum():
    policy = small_policy(heads=("success", "failure"))
    other = made_up([("reach", "timeout", range(8))], seed=5)
    sources = [
        Source(DATA, share=4), Source(other, share=2),
        Source(other, head="failure", share=2, stop_gradient=True, loss_weight=0.5),
    ]  # fmt: skip
    options = replace(OPTIONS, batch=8, shift=0)
    samplers = module._prepare(policy, sources, options, CPU)
    assert [s.size for s in samplers] == [4, 2, 2]
    assert [s.weight for s in samplers] == pytest.approx([4 / 6, 2 / 6, 0.5])
    with torch.no_grad():
        each = [
            [replace(s, weight=s.weight if i == keep else 0.0) for i, s in enumerate(samplers)] for keep in range(3)
        ]
        losses = [float(module._loss(policy, policy.network, only, options, 0)) for only in each]
        whole = float(module._loss(policy, policy.network, samplers, options, 0))
    assert min(losses) > 0 and whole == pytest.approx(sum(losses), rel=1e-4)


def test_samples_come_by_their_weights():
    weights = np.zeros(len(DATA))
    weights[[3, 12]] = 1, 3
    [sampler] = module._prepare(small_policy(), [Source(DATA, weights=weights)], OPTIONS, CPU)
    picks = np.searchsorted(sampler.cumulative, np.random.default_rng(0).random(4000))
    rows, counts = np.unique(picks, return_counts=True)
    assert rows.tolist() == [3, 12] and counts[1] / 4000 == pytest.approx(0.75, abs=0.03)


def test_steps_that_no_episode_had_are_not_imitated():
    valid = DATA.valid.copy()
    valid[:, 2:] = False
    garbage = DATA.actions.copy()
    garbage[:, 2:] = 1e3
    clean = DATA.actions.copy()
    clean[:, 2:] = 0.0
    policy = small_policy()
    options = replace(OPTIONS, steps=1, shift=0)
    losses = []
    for actions in (garbage, clean):
        samplers = module._prepare(policy, [Source(replace(DATA, actions=actions, valid=valid))], options, CPU)
        losses.append(module._loss(policy, policy.network, samplers, options, 0).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # the output starts at zero, so no step reads another


def test_warm_up_and_decay():
    options = FitOptions(steps=100, warmup=10)
    rates = [module._schedule(step, options) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.525) and 0.05 < rates[99] < 0.06
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_data_that_does_not_fit_is_refused():
    policy = small_policy()
    with pytest.raises(DataError, match="no sources"):
        fit(policy, [], OPTIONS, quiet=True)
    with pytest.raises(DataError, match="nothing to train the success head on"):
        fit(policy, [Source(DATA.take(np.zeros(len(DATA), bool)))], OPTIONS, quiet=True)
    with pytest.raises(DataError, match=r"has 4 state and 3 action dims, the policy takes 5 and 3"):
        fit(policy, [Source(replace(DATA, states=DATA.states[:, 1:]))], OPTIONS, quiet=True)


def test_data_without_a_camera_is_refused():
    with pytest.raises(DataError, match="robot"):
        fit(small_policy(), [Source(replace(DATA, images={"top": DATA.images["top"]}))], OPTIONS, quiet=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(value):
    actions = DATA.actions.copy()
    actions[:] = value
    with pytest.raises(DataError, match=r"the loss is .* at step 0; lower the learning rate"):
        fit(small_policy(), [Source(replace(DATA, actions=actions))], OPTIONS, quiet=True)


@pytest.mark.parametrize("damage", ["cut off", "another architecture"])
def test_a_resumable_checkpoint_that_does_not_fit_is_refused(tmp_path, damage):
    short = replace(OPTIONS, steps=2, save_every=2)
    if damage == "cut off":
        (tmp_path / "training.safetensors").write_bytes(b"xx")
    else:
        fit(small_policy(width=48), [Source(DATA)], short, scratch=tmp_path, quiet=True)
    with pytest.raises(CheckpointError):
        fit(small_policy(), [Source(DATA)], short, scratch=tmp_path, quiet=True)


def test_resuming_under_other_options_is_refused(tmp_path):
    short = replace(OPTIONS, steps=2, save_every=2)
    fit(small_policy(), [Source(DATA)], short, scratch=tmp_path, quiet=True)
    with pytest.raises(CheckpointError, match=r"another learning_rate, shift; remove it to start anew"):
        other = replace(short, learning_rate=1e-5, shift=short.shift + 1)
        fit(small_policy(), [Source(DATA)], other, scratch=tmp_path, quiet=True)
    fit(small_policy(), [Source(DATA)], replace(short, save_every=0), scratch=tmp_path, quiet=True)


def test_a_resumed_run_has_the_same_notes(tmp_path):
    short = replace(OPTIONS, steps=2, save_every=2)
    first = fit(small_policy(), [Source(DATA)], short, scratch=tmp_path, quiet=True)
    assert fit(small_policy(), [Source(DATA)], short, scratch=tmp_path, quiet=True).notes == first.notes


def test_a_batch_smaller_than_the_number_of_sources():
    with suppress(DataError):  # to refuse it would do as well
        fit(small_policy(), [Source(DATA)] * 3, replace(OPTIONS, batch=1, steps=1), quiet=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what is missing where there is no GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(SetupError, match="no CUDA device here"):
        fit(small_policy(), [Source(DATA)], replace(OPTIONS, device="cuda"), quiet=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_what_the_processor_learns(monkeypatch, tmp_path):
    policy = small_policy(heads=("success", "failure"))
    sources = [Source(DATA), Source(DATA, head="failure", stop_gradient=True)]
    here, there = (fit(policy, sources, replace(OPTIONS, device=d), quiet=True) for d in ("cpu", "cuda"))
    assert there.notes["final_loss"] == pytest.approx(here.notes["final_loss"], rel=0.02), (
        "bfloat16, but the same noise"
    )
    assert all(p.device.type == "cpu" for p in there.network.parameters())
    with monkeypatch.context() as patch:
        interrupted(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            fit(policy, sources, replace(OPTIONS, device="cuda"), scratch=tmp_path, quiet=True)
    resumed = fit(policy, sources, replace(OPTIONS, device="cuda"), scratch=tmp_path, quiet=True)
    assert resumed.notes["final_loss"] == pytest.approx(there.notes["final_loss"], rel=0.02)
    assert policy.network.training is False and next(policy.network.parameters()).device.type == "cpu"
