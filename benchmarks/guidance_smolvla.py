"""SmolVLA at its published size, random weights: ``benchmarks/guidance.py --smolvla``, in LeRobot's environment."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from failwise.policies.lerobot.batch import Inputs
from failwise.policies.lerobot.flow import FlowPolicy, expert_weights
from failwise.protocols import Steering
from failwise.steer import AFIL, Several, Unsteered, sample

CAMERAS, WORDS = ("front", "wrist"), 48


def smolvla(device: str) -> FlowPolicy:
    """SmolVLA as ``lerobot/smolvla_base`` is built (450 M weights), and a second expert that differs a little.

    The sizes are those of SmolVLM2-500M-Video-Instruct: 16 of its 32 text layers, and its vision encoder.
    """
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config
    from lerobot.policies.smolvla import smolvlm_with_expert
    from transformers import SmolVLMConfig

    vlm = SmolVLMConfig(
        image_token_id=49190, scale_factor=4, pad_token_id=2,
        vision_config={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 512, "patch_size": 16,
        },
        text_config={
            "model_type": "llama", "vocab_size": 49280, "hidden_size": 960, "intermediate_size": 2560,
            "num_hidden_layers": 16, "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64,
            "max_position_embeddings": 8192, "pad_token_id": 2,
        },
    )  # fmt: skip
    tokenizer = SimpleNamespace(fake_image_token_id=49189, global_image_token_id=49152)
    original = smolvlm_with_expert.AutoConfig, smolvlm_with_expert.AutoProcessor
    # Nothing is on disk, and no text is tokenised here.
    smolvlm_with_expert.AutoConfig = SimpleNamespace(from_pretrained=lambda _: vlm)
    smolvlm_with_expert.AutoProcessor = SimpleNamespace(from_pretrained=lambda _: SimpleNamespace(tokenizer=tokenizer))
    inputs = {f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, 256, 256)) for c in CAMERAS}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (6,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (6,))}
    try:
        config = make_policy_config("smolvla", device=device, input_features=inputs, output_features=outputs)
        policy = get_policy_class("smolvla")(config).to(device).eval()
    finally:
        smolvlm_with_expert.AutoConfig, smolvlm_with_expert.AutoProcessor = original
    own = expert_weights(policy.model)
    other = {name: (weight + 0.01 * torch.randn_like(weight)).detach() for name, weight in own.items()}
    policy.extra_heads = lambda: {"failure": other}
    return FlowPolicy(policy, Inputs(config, None, None, {}))


def batch(device: str) -> dict[str, torch.Tensor]:
    """One observation as LeRobot's pre-processor gives it."""
    pictures = {f"observation.images.{c}": torch.rand(1, 3, 256, 256, device=device) for c in CAMERAS}
    return pictures | {
        "observation.state": torch.randn(1, 6, device=device),
        "observation.language.tokens": torch.randint(3, 49000, (1, WORDS), device=device),
        "observation.language.attention_mask": torch.ones(1, WORDS, dtype=torch.bool, device=device),
    }


def ways(policy: FlowPolicy, device: str) -> dict[str, Callable[[], object]]:
    """What is compared: a chunk each, from pictures to normalised actions."""
    seen = batch(device)
    generator = torch.Generator().manual_seed(0)

    def chunk(steering: Steering) -> Callable[[], object]:
        def run() -> Any:
            done = sample(policy, policy.encode_batch(seen), steering, generator)
            return done.actions_BHA.cpu()  # waits for the device

        return run

    def lerobot() -> Any:
        with torch.no_grad():
            return policy.policy.predict_action_chunk(dict(seen)).cpu()

    return {
        "lerobot": lerobot,
        "unguided": chunk(Unsteered()),
        "guided": chunk(AFIL(alpha=1.0, every=2)),
        "exact": chunk(AFIL(alpha=1.0)),
        "eight": chunk(Several(8)),
    }


def figures_of(seconds: dict[str, float]) -> dict[str, float]:
    """The ratios."""
    return {
        "smolvla_guided_over_unguided": seconds["guided"] / seconds["unguided"],
        "smolvla_exact_over_unguided": seconds["exact"] / seconds["unguided"],
        "smolvla_8_samples_over_1": seconds["eight"] / seconds["unguided"],
        "smolvla_unguided_over_lerobot": seconds["unguided"] / seconds["lerobot"],
    }
