"""AFIL's training: which chunks the failure head learns, and what it may not change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from chunk_data import made_up, small_policy

from failwise.errors import DataError
from failwise.learn.afil import HEADS, failure_samples, train_heads
from failwise.learn.critic import Judged
from failwise.learn.fit import Source, fit
from failwise.learn.options import AFILTraining, FitOptions
from small_trainings import fit_precision

FIT = FitOptions(
    steps=4,
    batch=6,
    copies=2,
    learning_rate=3e-3,
    warmup=1,
    weight_decay=0.0,
    shift=0,
    save_every=0,
    precision=fit_precision(),
)
OPTIONS = AFILTraining(fit=FIT, negative_batch=3)
OWN = made_up(
    [
        ("reach", "success", range(0, 12, 2)),
        ("reach", "success", range(0, 12, 2)),
        ("reach", "timeout", range(0, 60, 2)),
        ("reach", "failure", range(0, 9, 2)),
        ("push", "timeout", range(0, 80, 3)),  # a task without any success
        ("push", "failure", range(0, 8, 2)),
    ]
)


def judged(data, seed=0):
    random = np.random.default_rng(seed)
    value, after = random.random((2, len(data))).astype(np.float32)
    return Judged(value, after, 0.5, 0.5)


def slow_failures(data, judge, options):
    """Sample by sample, from the definition."""
    chosen = [False] * len(data)
    for task in {m.env_id for m in data.episodes}:
        lengths = [m.n_steps for m in data.episodes if m.env_id == task and m.outcome == "success"]
        limit = options.truncate * float(np.median(lengths)) if lengths else float("inf")
        rows = [
            m for m in range(len(data))
            if data.episodes[data.episode[m]].env_id == task
            and data.episodes[data.episode[m]].outcome != "success"
            and data.step[m] <= limit
        ]  # fmt: skip
        if options.failure_set == "low_advantage":
            advantage = {m: float(judge.next_value[m]) - float(judge.value[m]) for m in rows}
            keep = 1 + int(np.floor(options.quantile * (len(rows) - 1) + 1e-9))
            rows = sorted(rows, key=advantage.__getitem__)[:keep]
        for m in rows:
            chosen[m] = True
    return np.array(chosen)


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("truncate", [0.5, 1.5, 100.0])
@pytest.mark.parametrize("failure_set", ["low_advantage", "whole_trajectory"])
def test_the_failure_set_by_its_definition(failure_set, truncate, quantile):
    options = replace(OPTIONS, failure_set=failure_set, truncate=truncate, quantile=quantile)
    judge = judged(OWN)
    chosen = failure_samples(OWN, judge, options)
    assert np.array_equal(chosen, slow_failures(OWN, judge, options))
    assert chosen.any() and not chosen[OWN.success].any()


def test_every_task_gives_its_share_of_failures():
    chosen = failure_samples(OWN, judged(OWN), replace(OPTIONS, quantile=0.3, truncate=100))
    task = np.array([m.env_id for m in OWN.episodes])[OWN.episode]
    for name in np.unique(task):
        failed = ~OWN.success & (task == name)
        assert chosen[failed].mean() == pytest.approx(0.3, abs=0.04)


def test_the_median_length_counts_each_success_once():
    data = made_up(
        [
            ("reach", "success", range(0, 7)),  # 10 steps
            ("reach", "success", range(0, 7)),
            ("reach", "success", range(0, 97)),  # 100 steps, and most of the samples
            ("reach", "timeout", range(0, 90, 5)),
        ]
    )
    chosen = failure_samples(data, None, replace(OPTIONS, failure_set="whole_trajectory", truncate=1.5))
    assert data.step[chosen].max() == 15


def test_low_advantages_need_a_value_model():
    with pytest.raises(DataError, match="need a value model"):
        failure_samples(OWN, None, OPTIONS)


def test_no_failures_and_no_successes_are_told():
    good, bad = (made_up([("reach", o, [0, 4])] * 3) for o in ("success", "timeout"))
    with pytest.raises(DataError, match="no failures among 3 episodes"):
        train_heads(small_policy(), good, None, judged(good), OPTIONS, quiet=True)
    with pytest.raises(DataError, match="no successes among 3 own episodes"):
        train_heads(small_policy(), bad, None, judged(bad), OPTIONS, quiet=True)


def test_three_heads_each_with_its_own_lesson():
    policy = small_policy()
    trained = train_heads(policy, OWN, None, judged(OWN), OPTIONS, quiet=True)
    assert trained.config.heads == HEADS == ("success", "failure", "own_success")
    out = trained.network.state_dict()["experts.out.weight"]
    assert all(not torch.equal(out[i], out[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert policy.config.heads == ("success",)


@pytest.mark.parametrize("shared_layers", [0, 1])
def test_the_failures_teach_the_failure_head_only(shared_layers):
    """Backbone and success head are what they would be with other failures: self-imitation, bit for bit."""
    policy = small_policy(expert_layers=2)
    options = replace(OPTIONS, shared_layers=shared_layers)
    one = train_heads(policy, OWN, None, judged(OWN, 0), options, quiet=True)
    two = train_heads(policy, OWN, None, judged(OWN, 1), replace(options, quantile=0.6, eta=1000), quiet=True)
    assert one.config.shared_layers == shared_layers
    mine, theirs = one.network.state_dict(), two.network.state_dict()
    for name in mine:
        if name.startswith("experts."):
            assert torch.equal(mine[name][0], theirs[name][0]), name
        else:
            assert torch.equal(mine[name], theirs[name]), name
    assert not torch.equal(mine["experts.out.weight"][1], theirs["experts.out.weight"][1])


def test_sharing_layers_changes_nothing_for_the_success_head():
    """So self-imitation (control C2) is the same policy, however cheap the other heads were made."""
    policy = small_policy(expert_layers=2)
    own, shared = (
        train_heads(policy, OWN, None, judged(OWN), replace(OPTIONS, shared_layers=n), quiet=True).network.state_dict()
        for n in (0, 1)
    )
    for name, mine in own.items():
        first = (mine[0], shared[name][0]) if name.startswith("experts.") else (mine, shared[name])
        assert torch.equal(*first), name
    assert not torch.equal(own["experts.out.weight"][1], shared["experts.out.weight"][1])


def test_demonstrations_share_the_success_heads_batch(monkeypatch):
    from failwise.learn import afil

    seen = {}

    def spy(policy, sources, options, **keywords):
        seen.update(sources=sources, options=options)
        return fit(policy, sources, options, **keywords)

    monkeypatch.setattr(afil, "fit", spy)
    demos = made_up([("reach", "success", [0, 4])], seed=9)
    train_heads(small_policy(), OWN, demos, judged(OWN), replace(OPTIONS, demos_share=1 / 3), quiet=True)
    heads = [(s.head, s.share, s.stop_gradient) for s in seen["sources"]]
    assert heads == [
        ("success", pytest.approx(4), False), ("success", pytest.approx(2), False), ("failure", 3, True),
        ("own_success", 3, True),
    ]  # fmt: skip
    assert seen["options"].batch == 12
    assert all(isinstance(s, Source) for s in seen["sources"]) and seen["sources"][1].data is demos
    assert seen["sources"][2].data.success.sum() == 0 and seen["sources"][3].data.success.all()
