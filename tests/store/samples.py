"""Episodes to record in the tests of the store: small, with every kind of content."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from failwise.store import EpisodeStore, EpisodeWriter, episode_id
from failwise.types import Actor, EpisodeMeta, Outcome, StepRecord

STEPS, HORIZON, LOOKS = 20, 8, 3
CAMERAS = ("corner", "wrist")


def sample_id(seed: int, arm: str = "base") -> str:
    return episode_id("tiny/reach", arm, seed)


def step_record(step: int, /, **changes: object) -> StepRecord:
    fields: dict[str, object] = {
        "step": step,
        "state": np.array([step, 0.5], np.float32),
        "action": np.array([0.1, -0.1, step / 10], np.float32),
        "reward": step / 3,
        "conditions": {"near": step > 3, "done": step == STEPS - 1},
        "chunk_step": step % HORIZON,
        "info": {"strength": 0.25, "late": float(step)} if step % HORIZON == 0 else {},
        "actor": Actor.RECOVERY if step > 15 else Actor.POLICY,
        "score": step / 7 if step > 2 else None,
    }
    return StepRecord(**(fields | changes))


def images(seed: int, step: int, height: int = 12, width: int = 16) -> dict[str, np.ndarray]:
    noise = np.random.default_rng((seed, step))
    return {name: noise.integers(0, 256, (height, width, 3), np.uint8) for name in CAMERAS}


def features(seed: int, step: int) -> np.ndarray:
    return np.random.default_rng((seed, step, 1)).normal(size=5).astype(np.float32)


def snapshot(seed: int, step: int) -> dict[str, np.ndarray]:
    return {
        "qpos": np.arange(4.0) * seed + step,
        "time": np.array(0.5 * step),
        "held": np.array([True, False]),
    }


def fill(writer: EpisodeWriter, seed: int, steps: int = STEPS) -> None:
    for step in range(steps):
        if step % HORIZON == 0:
            writer.look(step, images(seed, step))
            writer.features(step, features(seed, step))
            writer.snapshot(step, snapshot(seed, step))
        writer.step(step_record(step))


def meta_for(name: str, seed: int = 0, **changes: object) -> EpisodeMeta:
    fields: dict[str, object] = {
        "episode_id": name,
        "env_id": "tiny/reach",
        "task": "reach",
        "instruction": "reach the goal",
        "arm": "base",
        "env_seed": seed,
        "policy_seed": seed,
        "outcome": Outcome.SUCCESS,
        "success_once": True,
        "success_at_end": True,
        "first_success_step": STEPS - 1,
        "n_steps": STEPS,
        "step_limit": 50,
        "control_hz": 10.0,
        "cameras": CAMERAS,
        "n_frames": LOOKS,
        "extra": {"b": [1, 2], "a": "ü"},
    }
    return EpisodeMeta.model_validate(fields | changes)


def record(store: EpisodeStore, seed: int = 0) -> Path:
    writer = store.begin(sample_id(seed))
    fill(writer, seed)
    return writer.commit(meta_for(writer.id, seed))
