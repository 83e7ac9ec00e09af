"""The whole job for a policy that is not trained here: a critic of what it recorded, and its own failure head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_run import ENV, OPTIONS, base, demos  # noqa: F401 - fixtures

from failwise import registry
from failwise.agent import load_agent
from failwise.errors import CheckpointError, DataError, SetupError
from failwise.improve import improve
from failwise.learn.critic import fit_pooled_critic
from failwise.policies import beside, load_policy
from failwise.policies.compact import CompactVLA
from failwise.policies.critic import Critic
from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore
from failwise.types import EpisodeMeta, Outcome, StepRecord


class Foreign:
    """Another library's policy: no class of ours, and its context shows pooled features only."""

    opened: list[str] = []  # noqa: RUF012 - what was opened, in order

    def __init__(self, inner: CompactVLA) -> None:
        self.inner = inner
        self.spec = replace(inner.spec, kind="foreign")

    @classmethod
    def load(cls, address: str | Path) -> Foreign:
        cls.opened.append(str(address))
        return cls(CompactVLA.load(Path(str(address).partition("?")[0])))

    def encode(self, observations: Any) -> Any:
        return Pooled(self.inner.encode(observations))

    def predict(self, noisy: Any, t: Any, context: Any, heads: Any) -> Any:
        return self.inner.predict(noisy, t, context.inner, heads)

    def decode(self, actions: Any) -> Any:
        return self.inner.decode(actions)


class Pooled:
    def __init__(self, inner: Any) -> None:
        self.inner, self.batch, self.features_BD, self.hidden = inner, inner.batch, inner.features_BD, None


@pytest.fixture
def foreign(monkeypatch):
    """``foreign:FOLDER`` is a policy."""
    load, names = registry.load, registry.names
    monkeypatch.setattr(
        registry, "load", lambda kind, name: Foreign if (kind, name) == ("policy", "foreign") else load(kind, name)
    )
    monkeypatch.setattr(registry, "names", lambda kind: [*names(kind), *(["foreign"] if kind == "policy" else [])])


def checkpoint(base: Path, where: Path, heads: tuple[str, ...] = ("success",)) -> Path:  # noqa: F811
    """A folder that says of itself that it is foreign, with a failure head that differs, if one is wanted."""
    policy = load_policy(base).with_heads(heads)
    with torch.no_grad():
        for parameter in policy.network.experts.parameters():
            if len(heads) > 1:
                parameter[1] += 0.1 * torch.randn_like(parameter[1])
    policy.save(where)
    about = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(about | {"kind": "foreign"}))
    return where


@pytest.mark.parametrize("heads", [("success",), ("success", "failure")])
def test_a_policy_that_keeps_its_weights_goes_the_whole_way(base, foreign, tmp_path, heads):  # noqa: F811
    given = checkpoint(base, tmp_path / "given", heads)
    before = (given / "model.safetensors").read_bytes()
    options = replace(OPTIONS, rounds=2)
    run = improve([ENV], Path(f"foreign:{given}?top=left"), tmp_path / "run", options)
    names = {p.name for p in (run / "round1" / "candidates").iterdir()}
    steered = {"fixed-1", "adaptive-1", "gated-1", "gated-1-best-of-4"} if len(heads) > 1 else set()
    assert names == {"unsteered", "best-of-4"} | steered
    chosen = json.loads((run / "round1" / "choice.json").read_text())
    assert chosen["proof_arms"].keys() == ({"fixed", "adaptive", "gated"} if steered else set())
    assert (chosen["divergence"] > 0) == bool(steered)
    arms = {m.arm for m in EpisodeStore(run / "proof" / "episodes").metas()}
    assert {"base", "improved-1", "improved-2"} <= arms and "c2" not in arms
    assert (
        (given / "model.safetensors").read_bytes()
        == before
        == (run / "agent" / "policy" / "model.safetensors").read_bytes()
    )
    assert json.loads((run / "agent" / "agent.json").read_text())["policy"] == "foreign:policy?top=left"
    moved = (run / "agent").rename(tmp_path / "moved")
    load_agent(moved)
    assert Foreign.opened[-1] == f"{moved / 'policy'}?top=left"
    assert (run / "proof" / "report.html").is_file()
    for store in ("round1/episodes", "round2/episodes"):
        assert all(m.n_frames <= len(range(0, m.n_steps, 4)) for m in EpisodeStore(run / store).metas()), (
            "no more pictures"
        )


def test_the_critic_scores_the_actions_that_would_be_executed(base, tmp_path):  # noqa: F811
    """In the environment's units, less their mean, over their spread; of features as they were recorded."""
    items = [RolloutItem(ENV, s, s, "own", str(base)) for s in range(600, 640)]
    collect(items, tmp_path / "own", workers=1, quiet=True)
    critic, judged = fit_pooled_critic([tmp_path / "own"], 3, OPTIONS.critic, quiet=True)
    critic.save(tmp_path / "critic")
    again = Critic.load(tmp_path / "critic")
    assert again.config == critic.config and again.config.horizon == 3 and 0 <= judged.auc_critic <= 1
    policy = load_policy(base)
    with pytest.raises(SetupError, match="bind it to its policy"):
        again(torch.zeros(1, 2, 4, 3), Features(torch.zeros(1, 32)))
    again.bind(policy)
    sampled = torch.randn(2, 5, 4, 3)
    features = torch.randn(2, 32)
    mean, std = np.array(again.config.action_mean), np.array(again.config.action_std)
    slow = torch.zeros(2, 5)
    for b in range(2):
        for n in range(5):
            units = (policy.decode(sampled[b, n][None])[0, :3] - mean) / std
            chunk = torch.from_numpy(units.astype(np.float32))[None, None]
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
            with torch.inference_mode():
                slow[b, n] = torch.sigmoid(again.network.critic(chunk, features[b][None, None], mask).mean())
    torch.testing.assert_close(again(sampled, Features(features)), slow, atol=1e-5, rtol=1e-4)
    with pytest.raises(CheckpointError, match="features of width 32, this policy has 7"):
        again.value(Features(torch.zeros(1, 7)))


class Features:
    def __init__(self, features: torch.Tensor) -> None:
        self.features_BD = features


def recorded(store: Path, telling: float | None, n: int = 40) -> Path:
    """Episodes of a policy that was asked every third step; None: it gave no features."""
    random = np.random.default_rng(0)
    for index in range(n):
        good, name = index % 2 == 0, f"tiny.reach--own--{index:06d}"
        meta = EpisodeMeta(
            episode_id=name, env_id=ENV, task="reach", instruction="go", env_seed=index, policy_seed=index, n_steps=12,
            step_limit=12, control_hz=20.0, outcome=Outcome.SUCCESS if good else Outcome.TIMEOUT, success_once=good,
            first_success_step=11 if good else None, cameras=("top",), n_frames=4,
        )  # fmt: skip
        with EpisodeStore(store).begin(name) as writer:
            for step in range(12):
                if step % 3 == 0:
                    writer.look(step, {"top": np.zeros((8, 8, 3), np.uint8)})
                    if telling is not None:
                        writer.features(step, random.normal(telling * (1 if good else -1), 1.0, 6).astype(np.float32))
                state, action = np.zeros(2, np.float32), random.normal(0, 1, 3).astype(np.float32)
                held = {"success": good and step == 11}
                writer.step(StepRecord(step, state, action, 0.0, held, chunk_step=step % 3))
            writer.commit(meta)
    return store


def test_a_pooled_critic_ranks_what_the_features_tell(tmp_path):
    longer = replace(OPTIONS.critic, steps=150, learning_rate=3e-3, batch=64)
    for telling, least, most in ((1.0, 0.95, 1.0), (0.0, 0.0, 0.75)):
        store = recorded(tmp_path / str(telling), telling)
        critic, judged = fit_pooled_critic([store], 3, longer, quiet=True)
        assert least <= judged.auc_value <= most, "held out"
        assert critic.config.prefix_dim == 6 and critic.config.action_dim == 3
    with pytest.raises(DataError, match="no features"):
        fit_pooled_critic([recorded(tmp_path / "none", None)], 3, longer, quiet=True)


def test_what_only_training_can_follow_is_refused(base, demos, foreign, monkeypatch, tmp_path):  # noqa: F811
    given = Path(f"foreign:{checkpoint(base, tmp_path / 'given')}")
    for options, message in (
        (replace(OPTIONS, demos=demos), "--demos is for policies that are trained here"),
        (replace(OPTIONS, recoveries="expert"), "--recoveries is for policies"),
        (replace(OPTIONS, samples=()), "without --samples there is nothing to choose from"),
    ):
        with pytest.raises(SetupError, match=message):
            improve([ENV], given, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(Foreign, "load", classmethod(lambda cls, address: Unsteerable()))
    with pytest.raises(SetupError, match="without a sampling that could be steered"):
        improve([ENV], given, tmp_path / "run", OPTIONS)


class Unsteerable:
    def __init__(self) -> None:
        self.spec = Features(torch.zeros(0))
        self.spec.kind = "foreign"  # type: ignore[attr-defined]


def test_a_policy_beside_an_agent_is_found_by_its_kinds_rules(foreign):
    assert beside(Path("a/b"), "policy") == (str(Path("a/b/policy")), Path("a/b/policy"))
    assert beside(Path("a"), "foreign:x?k=c") == (f"foreign:{Path('a/x')}?k=c", Path("a/x"))
