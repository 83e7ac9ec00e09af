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
def policy(request) -> Any:
    module = importlib.import_module(f"lerobot.policies.{request.param}.modeling_{request.param}")
    from lerobot.policies.factory import get_policy_class, make_policy_config

    patch = pytest.MonkeyPatch()
    size = module.GemmaConfig(width=WIDTH, depth=2, mlp_dim=32, num_heads=2, num_kv_heads=1, head_dim=16)
    patch.setattr(module, "get_gemma_config", lambda variant: size)
    plain = SiglipVisionConfig.__setattr__
    patch.setattr(SiglipVisionConfig, "__setattr__", lambda self, name, value: plain(self, name, KEPT.get(name, value)))
    patch.setattr(module, "CONFIG_MAPPING", {"paligemma": small_paligemma, "gemma": GemmaConfig})
    inputs, outputs = features()
    config = make_policy_config(
        request.param, input_features=inputs, output_features=outputs, device="cpu", chunk_size=6, n_action_steps=4,
        max_state_dim=8, max_action_dim=8, num_inference_steps=5, image_resolution=(28, 28),
    )  # fmt: skip
    torch.manual_seed(0)
    made = get_policy_class(request.param)(config).eval()
    yield made
    patch.undo()


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
