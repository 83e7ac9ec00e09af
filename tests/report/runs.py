"""Run folders with synthetic episodes, written through the store."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from failwise.evaluate import compare, write_comparison
from failwise.store import EpisodeStore, episode_id
from failwise.types import EpisodeMeta, Outcome, Provenance, StepRecord

CONDITIONS = ("near object", "grasped", "object at goal")
CAMERA = "corner"


def picture(seed: int, progress: float, size: int) -> np.ndarray:
    """A table, a goal and a puck that is ``progress`` of the way there. uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    start, goal = rng.uniform(0.15, 0.85, (2, 2)) * size
    y, x = np.mgrid[:size, :size]
    image = np.stack([170 + 0 * x, 150 + 0.2 * y, 130 + 0.3 * x], -1)
    place = start + progress * (goal - start)
    image[np.hypot(x - goal[0], y - goal[1]) < size / 9] = (70, 160, 90)
    image[np.hypot(x - place[0], y - place[1]) < size / 14] = (190, 50, 40)
    return image.clip(0, 255).astype(np.uint8)


def write_episode(
    store: EpisodeStore,
    arm: str,
    env_id: str,
    seed: int,
    outcome: Outcome,
    *,
    reached: int,
    size: int | None = 48,
    instruction: str = "Push the puck to the goal.",
    steps: int = 16,
) -> EpisodeMeta:
    """One episode in which the first ``reached`` conditions come to hold; ``size=None`` records no frames."""
    name = episode_id(env_id, arm, seed)
    writer = store.begin(name)
    far = 1.0 if outcome == Outcome.SUCCESS else 0.2 + 0.2 * reached
    for step in range(steps):
        if size and step % 4 == 0:
            writer.look(step, {CAMERA: picture(seed, far * step / steps, size)})
        held = {c: i < reached and step >= steps * (i + 1) // 4 for i, c in enumerate(CONDITIONS)}
        writer.step(StepRecord(step, np.zeros(3, np.float32), np.zeros(2, np.float32), 0.0, held, chunk_step=step % 4))
    if size:
        writer.look(steps, {CAMERA: picture(seed, far, size)})
    good = outcome == Outcome.SUCCESS
    meta = EpisodeMeta(
        episode_id=name,
        env_id=env_id,
        task=env_id.split("/")[1],
        instruction=instruction,
        arm=arm,
        env_seed=seed,
        policy_seed=seed,
        outcome=outcome,
        success_once=good,
        success_at_end=good,
        first_success_step=steps * 3 // 4 if good else None,
        n_steps=steps,
        step_limit=steps,
        control_hz=10.0,
        cameras=(CAMERA,) if size else (),
        n_frames=len(range(0, steps, 4)) + 1 if size else 0,
        error="the simulator diverged" if outcome == Outcome.ERROR else "",
        provenance=Provenance(
            agent=f"models/{arm}",
            checkpoint_sha256=sha256(arm.encode()).hexdigest(),
            failwise="0.1.0",
            git_revision="60cae89f",
            python="3.11.9",
            torch="2.7.1",
            simulator="metaworld 3.1.1",
        ),
    )
    writer.commit(meta)
    return meta


def write_run(
    folder: Path,
    arms: Sequence[tuple[str, float]],
    env_ids: Sequence[str],
    seeds: Sequence[int],
    *,
    size: int | None = 48,
    compared: bool = True,
    instruction: str = "Push the puck to the goal.",
) -> list[EpisodeMeta]:
    """A run folder; each arm succeeds with its own probability. First arm: the baseline."""
    rng = random.Random(0)
    store = EpisodeStore(folder / "episodes" if compared else folder)
    metas = []
    for env_id in env_ids:
        for seed in seeds:
            luck = rng.random()
            for arm, rate in arms:
                good = (luck if rng.random() < 0.6 else rng.random()) < rate
                bad = rng.choice([Outcome.TIMEOUT] * 6 + [Outcome.FAILURE] * 3 + [Outcome.ERROR])
                outcome = Outcome.SUCCESS if good else bad
                reached = 3 if good else rng.choice([0, 0, 1, 1, 1, 2])
                metas.append(
                    write_episode(
                        store,
                        arm,
                        env_id,
                        seed,
                        outcome,
                        reached=reached,
                        size=size,
                        instruction=instruction,
                    )
                )
    if compared:
        write_comparison(compare(metas, arms[0][0], arms=[arm for arm, _ in arms]), folder)
    return metas
