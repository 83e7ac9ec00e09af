"""Episodes to take to LeRobot and back: every actor, events, scores, pictures now and then and after the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from failwise.store import EpisodeStore, episode_id
from failwise.types import Actor, EpisodeMeta, FailureEvent, Outcome, Provenance, StepRecord

CAMERAS = ("wrist", "corner")  # not sorted, as an environment may name them
STEPS = 11
EVENTS = (
    FailureEvent(mode="slip", stage="near_goal", onset_step=8, source="rule", evidence="it fell"),
    FailureEvent(mode="missed_grasp", stage="grasped", onset_step=4, source="injected"),
)


def picture(seed: int, step: int, camera: str, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng((seed, step, len(camera))).integers(0, 256, (height, width, 3), np.uint8)


def record(
    store: EpisodeStore, seed: int, outcome: Outcome, looks: tuple[int, ...] = (0, 4, 8, STEPS), *, arm: str = "base",
    events: tuple[FailureEvent, ...] = (), conditions: tuple[str, ...] = ("near", "success"), state_dim: int = 4,
    height: int = 24, cameras: tuple[str, ...] = CAMERAS, control_hz: float = 20.0, steps: int = STEPS,
    picture_of: Callable[[int, int], np.ndarray] | None = None,
) -> str:  # fmt: skip
    """Commit one episode; a success holds its condition from the step before the last one on."""
    name = episode_id("tiny/reach", arm, seed)
    noise = np.random.default_rng(seed)
    succeeded = outcome is Outcome.SUCCESS
    actors = (
        [Actor.POLICY] * 5 + [Actor.PERTURBATION] * 2 + [Actor.RECOVERY, Actor.EXPERT, Actor.HUMAN] + [Actor.POLICY]
    )
    with store.begin(name) as writer:
        for step in looks:
            shown = picture_of(seed, step) if picture_of else None
            writer.look(step, {c: picture(seed, step, c, height) if shown is None else shown for c in cameras})
        for step in range(steps):
            held = dict.fromkeys(conditions, step > 2) | {"success": succeeded and step >= steps - 2}
            writer.step(
                StepRecord(
                    step, noise.normal(size=state_dim).astype(np.float32), noise.normal(size=3).astype(np.float32),
                    1 / 3 + step, held, actors[step % len(actors)], step % 4, score=step / 7 if step > 2 else None,
                )
            )  # fmt: skip
        writer.commit(
            EpisodeMeta(
                episode_id=name, env_id="tiny/reach", task="reach", instruction="reach the gőal", arm=arm,
                env_seed=300_000 + seed, policy_seed=seed, outcome=outcome, success_once=succeeded,
                success_at_end=succeeded, first_success_step=steps - 2 if succeeded else None, n_steps=steps,
                step_limit=50, control_hz=control_hz, cameras=cameras if looks else (), n_frames=len(looks),
                failure_events=events, provenance=Provenance(agent="models/base", failwise="0.1.0"),
                error="the simulator fell over" if outcome is Outcome.ERROR else "",
                extra={"goal": [0.1, 0.2], "note": "ü"},
            )
        )  # fmt: skip
    return name


def recorded_run(path: Path) -> EpisodeStore:
    """A success, a failure with two events, a time-out whose first picture is late, and one that a fault ended."""
    store = EpisodeStore(path)
    record(store, 1, Outcome.SUCCESS)
    record(store, 2, Outcome.FAILURE, events=EVENTS, conditions=("success", "grasped"))
    record(store, 3, Outcome.TIMEOUT, looks=(2, 3, 4, 9))
    record(store, 4, Outcome.ERROR)
    return store


def assert_same_episode(first, second) -> None:
    """Everything that is exported, exactly."""
    assert second.meta == first.meta
    for part in ("states", "actions", "rewards", "actors", "scores", "chunk_steps", "look_steps"):
        a, b = getattr(first, part)(), getattr(second, part)()
        np.testing.assert_array_equal(a, b, err_msg=part, strict=part != "actors")
    assert list(first.conditions()) == list(second.conditions())
    for name, held in first.conditions().items():
        np.testing.assert_array_equal(held, second.conditions()[name], err_msg=name)
    assert first.cameras() == second.cameras()
    for camera in first.cameras():
        np.testing.assert_array_equal(first.frames(camera), second.frames(camera), err_msg=camera)
