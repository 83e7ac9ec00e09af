"""pi0 and pi05, of which LeRobot builds one size only: made small here by replacing its tables of sizes."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from transformers import GemmaConfig, PaliGemmaConfig, SiglipVisionConfig

from failwise.policies.lerobot.batch import Inputs
from failwise.policies.lerobot.flow import FlowPolicy
from failwise.policies.lerobot.heads import Heads
from failwise.steer import Unsteered, sample

from .small import features

pytestmark = pytest.mark.lerobot

WIDTH, WORDS = 32, 50


KEPT = {"projection_dim": WIDTH, "intermediate_size": 32}  # whatever LeRobot sets


def small_paligemma() -> PaliGemmaConfig:
    config = PaliGemmaConfig(text_config=GemmaConfig(num_hidden_layers=1))
    config.vision_config = SiglipVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=14)
    return config


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def kind(request) -> Any:
    """The name of a policy that is small while this lasts."""
    module = importlib.import_module(f"lerobot.policies.{request.param}.modeling_{request.param}")
    patch = pytest.MonkeyPatch()
    size = module.GemmaConfig(width=WIDTH, depth=2, mlp_dim=32, num_heads=2, num_kv_heads=1, head_dim=16)
    patch.setattr(module, "get_gemma_config", lambda variant: size)
    plain = SiglipVisionConfig.__setattr__
    patch.setattr(SiglipVisionConfig, "__setattr__", lambda self, name, value: plain(self, name, KEPT.get(name, value)))
    patch.setattr(module, "CONFIG_MAPPING", {"paligemma": small_paligemma, "gemma": GemmaConfig})
    yield request.param
    patch.undo()


def made(kind: str, **options: Any) -> Any:
    """A policy of this kind with random weights."""
    from lerobot.policies.factory import get_policy_class, make_policy_config

    import lerobot_policy_failwise  # noqa: F401 - registers the dual ones

    inputs, outputs = features()
    given: dict[str, Any] = {
        "device": "cpu", "chunk_size": 6, "n_action_steps": 4, "max_state_dim": 8, "max_action_dim": 8,
        "num_inference_steps": 5, "image_resolution": (28, 28),
    }  # fmt: skip
    config = make_policy_config(kind, input_features=inputs, output_features=outputs, **(given | options))
    torch.manual_seed(0)
    return get_policy_class(kind)(config).eval()


@pytest.fixture(scope="module")
def policy(kind: str) -> Any:
    return made(kind)


@pytest.fixture(scope="module")
def dual(kind: str) -> Any:
    """With a failure expert that differs from the acting one."""
    policy = made(f"failwise_{kind}")
    with torch.no_grad():
        for weight in policy.failure.parameters():
            weight.add_(0.05)
    return policy


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    pictures = {f"observation.images.{c}": torch.rand(2, 3, 32, 32, generator=draw) for c in ("top", "robot")}
    tokens = torch.randint(1, WORDS, (2, 7), generator=draw)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    state = torch.randn(2, 5, generator=draw)
    return pictures | {
        "observation.state": state, "observation.language.tokens": tokens, "observation.language.attention_mask": mask,
    }  # fmt: skip


def opened(policy: Any) -> FlowPolicy:
    return FlowPolicy(policy, Inputs(policy.config, None, None, {}))


def test_plain_sampling_is_the_policys_own(policy: Any, batch: dict[str, torch.Tensor]) -> None:
    mine = opened(policy)
    noise = torch.randn(2, 6, 8)
    context = mine.encode_batch(batch)
    got = sample(mine, context, Unsteered(), torch.Generator(), noise=noise[:, None]).actions_BHA[..., :3]
    with torch.no_grad():
        expected = policy.predict_action_chunk(batch, noise=noise)
    assert got.abs().max() > 0.01
    assert torch.equal(got, expected)
    assert context.features_BD.shape == (2, WIDTH) and torch.isfinite(context.features_BD).all()


def test_two_experts_rows_and_samples(policy: Any, batch: dict[str, torch.Tensor]) -> None:
    mine = opened(policy)
    own = mine.heads.own
    assert any("gemma_expert" in name for name in own) and "action_in_proj.weight" in own
    other = {name: weight + 0.1 for name, weight in own.items()}
    mine.heads = Heads(mine.step, "core.", own, {"failure": other})
    context = mine.encode_batch(batch)
    noisy, t = torch.randn(2, 3, 6, 8), torch.tensor(0.4)
    both = mine.predict(noisy, t, context, ("success", "failure"))
    for head in range(2):
        one = mine.predict(noisy, t, context, (("success", "failure")[head],))[0]
        torch.testing.assert_close(both[head], one, atol=1e-5, rtol=1e-4)
    assert (both[0] - both[1]).abs().mean() > 1e-4
    second = mine.predict(noisy[1:], t, context.select(torch.tensor([1])), ("success",))[0, 0]
    torch.testing.assert_close(both[0, 1], second, atol=1e-5, rtol=1e-4)


def chunk(policy: Any, batch: dict[str, torch.Tensor], alpha: float) -> torch.Tensor:
    policy.config.alpha = alpha
    torch.manual_seed(3)
    with torch.no_grad():
        return policy.predict_action_chunk(dict(batch))


def test_a_failure_expert_beside_pi_steers_from_alpha_zero_on(dual: Any, batch: dict[str, torch.Tensor]) -> None:
    parent = next(c for c in type(dual).__mro__ if c.__module__.startswith("lerobot."))
    torch.manual_seed(3)
    with torch.no_grad():
        plain = parent.predict_action_chunk(dual, dict(batch))
    assert torch.equal(chunk(dual, batch, 0.0), plain), "to the last bit"
    guided = chunk(dual, batch, 0.01)
    assert guided.shape == plain.shape == (2, 6, 3) and not torch.equal(guided, plain)
    assert not torch.equal(chunk(dual, batch, 0.02), guided), "the guidance is not yet at its clamp"
    assert not any(".lm_head." in name.replace("/", ".") for name in dual.failure.state_dict()), "nothing reads it"


def test_its_checkpoint_comes_back_and_a_plain_one_begins_it(
    kind: str, policy: Any, dual: Any, batch: dict[str, torch.Tensor], tmp_path: Any
) -> None:
    dual.save_pretrained(tmp_path / "dual")
    again = type(dual).from_pretrained(tmp_path / "dual")
    before, after = dual.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(chunk(again, batch, 1.0), chunk(dual, batch, 1.0))
    policy.save_pretrained(tmp_path / "plain")
    begun = made(f"failwise_{kind}", base=str(tmp_path / "plain"))
    assert begun.config.base == ""
    theirs = policy.state_dict()
    assert all(torch.equal(begun.state_dict()[name], weight) for name, weight in theirs.items())
    for name, weight in begun.failure.weights().items():
        assert torch.equal(weight, theirs[f"model.{name}"]), name
    with pytest.raises(RuntimeError, match="size mismatch"):
        type(dual).from_pretrained(tmp_path / "dual", config=made(f"failwise_{kind}", max_action_dim=16).config)


def test_it_learns_the_failed_chunks_and_nothing_else_moves(dual: Any, batch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    given = batch | {
        "action": torch.linspace(-1, 1, 6)[None, :, None].expand(2, 6, 3).clone(),
        "action_is_pad": torch.zeros(2, 6, dtype=torch.bool),
    }
    before = {n: p.detach().clone() for n, p in dual.named_parameters()}
    optimiser = torch.optim.Adam(dual.parameters(), lr=3e-3)
    losses = []
    dual.train()
    for _ in range(60):
        optimiser.zero_grad()
        loss = dual.failure_loss(dict(given))
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        assert dual.training
    dual.eval()
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    moved = {n for n, p in dual.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(name.startswith("failure.") for name in moved)
