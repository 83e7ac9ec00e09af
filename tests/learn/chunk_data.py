"""Samples of made-up episodes, and a policy small enough to be fitted to them in a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from failwise.learn.data import ChunkData
from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser
from failwise.types import EpisodeMeta

H, A, S = 4, 3, 5
SENTENCE = "move to the red disc"


def small_config(**changes: Any) -> CompactConfig:
    shapes: dict[str, Any] = {
        "cameras": {"robot": (32, 32), "top": (32, 32)}, "state_dim": S, "action_dim": A, "horizon": H, "execute": H,
        "width": 32, "attention_heads": 2, "conv_channels": (8, 8, 8), "backbone_layers": 1, "expert_layers": 1,
        "denoising_steps": 4,
    }  # fmt: skip
    return CompactConfig(**{**shapes, **changes})


def small_policy(seed: int = 0, **changes: Any) -> CompactVLA:
    torch.manual_seed(seed)
    scales = (torch.zeros(S), torch.ones(S), torch.zeros(A), torch.full((A,), 0.6), -torch.ones(A), torch.ones(A))
    policy = CompactVLA(small_config(**changes), Normaliser(*scales))
    policy.text.load_state_dict({SENTENCE: torch.randn(6, 384).half()})  # no text encoder needed
    return policy


def meta(number: int, outcome: str, n_steps: int, task: str = "reach") -> EpisodeMeta:
    success = outcome == "success"
    return EpisodeMeta(
        episode_id=f"tiny.{task}--made-up--{number:06d}", env_id=f"tiny/{task}", task=task, instruction=SENTENCE,
        env_seed=number, policy_seed=number, outcome=outcome, success_once=success, success_at_end=success,
        first_success_step=n_steps - 1 if success else None, n_steps=n_steps, step_limit=120, control_hz=10.0,
    )  # fmt: skip


def made_up(episodes: Sequence[tuple[str, str, Sequence[int]]], seed: int = 0) -> ChunkData:
    """Noise as samples of episodes (task, outcome, steps of the looks), each ending four steps after its last look."""
    random = np.random.default_rng(seed)
    metas = tuple(meta(i, outcome, max(looks) + H, task) for i, (task, outcome, looks) in enumerate(episodes))
    step = np.concatenate([np.asarray(looks, np.int64) for _, _, looks in episodes])
    M = len(step)
    return ChunkData(
        images={c: random.integers(0, 256, (M, 32, 32, 3), np.uint8) for c in ("robot", "top")},
        states=random.normal(size=(M, S)).astype(np.float32),
        actions=random.uniform(-1, 1, (M, H, A)).astype(np.float32),
        valid=np.ones((M, H), bool),
        sentences=(SENTENCE,),
        sentence=np.zeros(M, np.int64),
        episodes=metas,
        episode=np.repeat(np.arange(len(episodes)), [len(looks) for _, _, looks in episodes]),
        step=step,
        inferred=np.ones(M, bool),
    )


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
