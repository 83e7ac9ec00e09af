"""Made-up episodes: features drift away from a task's path where the episode fails."""

from __future__ import annotations

import numpy as np

from failwise.detect.trace import Trace
from failwise.store import EpisodeStore
from failwise.types import EpisodeMeta, Outcome, Provenance, StepRecord

D, A, H, N = 12, 3, 8, 6


def meta(index: int, failed: bool, n_steps: int, task: str = "tiny/reach") -> EpisodeMeta:
    return EpisodeMeta(
        episode_id=f"{task.replace('/', '.')}.{index}", env_id=task, task=task.split("/")[1], instruction="go",
        env_seed=index, policy_seed=index, outcome=Outcome.TIMEOUT if failed else Outcome.SUCCESS, n_steps=n_steps,
        step_limit=200, control_hz=20.0,
        success_once=not failed, success_at_end=not failed,
        first_success_step=None if failed else n_steps - 1, provenance=Provenance(checkpoint_sha256="ab" * 32),
    )  # fmt: skip


def trace(index: int, failed: bool, *, task: str = "tiny/reach", every: int = 4, drift: float = 0.5) -> Trace:
    random = np.random.default_rng((index, failed))
    T = 64 if failed else int(random.integers(28, 48))
    asked = np.arange(0, T, every)
    path = np.sin(np.linspace(0, 3, len(asked)))[:, None] * np.linspace(-1, 1, D)
    features = path + random.normal(0, 0.2, (len(asked), D))
    if failed:
        features[:, :3] += drift * np.arange(len(asked))[:, None] * random.choice([-1, 1])
    spread = 0.1 + (0.05 * np.arange(len(asked)) if failed else np.zeros(len(asked)))
    samples = random.normal(0, 1, (len(asked), N, H, A)) * spread[:, None, None, None]
    if failed:  # each inference wants something else than the one before
        samples += random.normal(0, 0.5, (len(asked), 1, 1, A))
    info = {"head_divergence": spread.astype(np.float32), "risk": np.linspace(0, failed, len(asked), dtype=np.float32)}
    actions = random.normal(0.3, 0.4 if failed else 0.1, (T, A)).astype(np.float32)
    return Trace(
        meta(index, failed, T, task), actions, asked, features.astype(np.float32), samples.astype(np.float32), info
    )


def traces(n: int = 40, start: int = 0, task: str = "tiny/reach") -> list[Trace]:
    return [trace(start + i, i % 2 == 0, task=task) for i in range(n)]


def write(store: EpisodeStore, trace: Trace) -> None:
    with store.begin(trace.meta.episode_id) as writer:
        rows = {int(step): row for row, step in enumerate(trace.asked)}
        for step, action in enumerate(trace.actions):
            if step in rows:
                writer.features(step, trace.features[rows[step]])
            info = {k: float(v[rows[step]]) for k, v in trace.info.items()} if step in rows else {}
            start = int(trace.asked[trace.asked <= step].max())
            writer.step(
                StepRecord(
                    step, np.zeros(2, np.float32), action, 0.0, {"done": False}, chunk_step=step - start, info=info
                )
            )
        writer.commit(trace.meta)
