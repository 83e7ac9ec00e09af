"""Policies of LeRobot with a few thousand random weights, saved as checkpoints: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

SIDE, STATE, ACTION = 32, 5, 3  # those of the tiny environment
SPECIAL = ["<pad>", "<s>", "<end_of_utterance>", "<unk>", "<fake_token_around_image>", "<image>", "<global-img>"]
CAMERAS = ("top", "robot")


def tiny_smolvlm(folder: Path, *, seed: int = 0) -> str:
    """A vision-language model of SmolVLA's kind, as a folder."""
    torch.manual_seed(seed)
    pieces = {p: i for i, p in enumerate([*SPECIAL, "\n", *map(chr, range(32, 127))])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="<unk>", continuing_subword_prefix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<end_of_utterance>",
        unk_token="<unk>",
        extra_special_tokens={
            "fake_image_token": SPECIAL[4], "image_token": SPECIAL[5], "global_image_token": SPECIAL[6]
        },
    )  # fmt: skip
    size = {"longest_edge": 64}
    pictures = SmolVLMImageProcessor(size=size, max_image_size=size)
    SmolVLMProcessor(
        pictures, fast, SmolVLMVideoProcessor(size=size, max_image_size=size), image_seq_len=4
    ).save_pretrained(folder)
    config = SmolVLMConfig(
        image_token_id=fast.convert_tokens_to_ids("<image>"), scale_factor=2, pad_token_id=0,
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(fast), "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 512, "pad_token_id": 0,
        },
    )  # fmt: skip
    config.save_pretrained(folder)
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def features(cameras: tuple[str, ...] = CAMERAS) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of a policy for the tiny environment."""
    inputs = {f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)) for c in cameras}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    return inputs, {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}


def save(kind: str, folder: Path, *, seed: int = 0, cameras: tuple[str, ...] = CAMERAS, **options: Any) -> Path:
    """A checkpoint of a policy with random weights and made-up statistics."""
    register_third_party_plugins()
    torch.manual_seed(seed)
    inputs, outputs = features(cameras)
    modes = {
        "VISUAL": NormalizationMode.IDENTITY,
        "STATE": NormalizationMode.MEAN_STD,
        "ACTION": NormalizationMode.MEAN_STD,
    }
    config = make_policy_config(
        kind, input_features=inputs, output_features=outputs, device="cpu", normalization_mapping=modes, **options
    )
    policy = get_policy_class(kind)(config)
    draw = torch.Generator().manual_seed(seed)
    stats = {
        key: {"mean": torch.randn(n, generator=draw) * 0.1, "std": torch.rand(n, generator=draw) + 0.5}
        for key, n in (("observation.state", STATE), ("action", ACTION))
    }
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    policy.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    return folder


SMOLVLA = {
    "chunk_size": 6, "n_action_steps": 4, "max_state_dim": 8, "max_action_dim": 8, "num_steps": 5,
    "resize_imgs_with_padding": (64, 64), "num_vlm_layers": 4, "tokenizer_max_length": 24,
}  # fmt: skip
DIFFUSION = {
    "n_obs_steps": 2, "horizon": 8, "n_action_steps": 4, "crop_shape": (28, 28), "down_dims": (16, 32),
    "diffusion_step_embed_dim": 16, "num_train_timesteps": 10, "num_inference_steps": 5, "noise_scheduler_type": "DDIM",
    "pretrained_backbone_weights": None, "spatial_softmax_num_keypoints": 4, "use_group_norm": True,
}  # fmt: skip
ACT = {
    "chunk_size": 6, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1,
    "n_decoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
}  # fmt: skip
VQBET = {
    "n_obs_steps": 2, "n_action_pred_token": 3, "action_chunk_size": 3, "crop_shape": (28, 28), "vqvae_n_embed": 4,
    "vqvae_embedding_dim": 8, "vqvae_enc_hidden_dim": 16, "gpt_block_size": 32, "gpt_input_dim": 32,
    "gpt_output_dim": 32, "gpt_n_layer": 1, "gpt_n_head": 2, "gpt_hidden_dim": 32, "use_group_norm": True,
    "pretrained_backbone_weights": None, "spatial_softmax_num_keypoints": 4,
}  # fmt: skip


def stir(folder: Path, amount: float = 0.05) -> Path:
    """Move the failure expert of a checkpoint away from the acting one."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    draw = torch.Generator().manual_seed(1)
    for name, weight in weights.items():
        if name.startswith("failure."):
            weights[name] = weight + amount * torch.randn(weight.shape, generator=draw)
    save_file(weights, folder / "model.safetensors")
    return folder
