"""What an episode's meta data must agree on: with themselves, and with the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from failwise.types import EpisodeMeta, Outcome


@dataclass(frozen=True)
class Recorded:
    """How much of what an episode's record holds.

    Attributes:
        n_steps: environment steps.
        look_steps: the steps at which the cameras were recorded.
        cameras: their names, in any order.
        feature_steps: the steps with policy features.
        snapshot_steps: the steps with a simulator snapshot.
    """

    n_steps: int
    look_steps: Sequence[int]
    cameras: Sequence[str]
    feature_steps: Sequence[int] = ()
    snapshot_steps: Sequence[int] = ()


def contradictions(meta: EpisodeMeta, episode_id: str, recorded: Recorded) -> list[str]:
    """One phrase for each thing in ``meta`` or the record that cannot be so, empty when all is well.

    Args:
        meta: the meta data.
        episode_id: the name under which the episode is stored.
        recorded: what was recorded.
    """
    found: list[str] = []

    def expect(holds: bool, otherwise: str) -> None:
        if not holds:
            found.append(otherwise)

    steps, looks = recorded.n_steps, len(recorded.look_steps)
    cameras = sorted(recorded.cameras)
    expect(meta.episode_id == episode_id, f"episode_id is {meta.episode_id!r}, stored as {episode_id!r}")
    expect(meta.n_steps == steps, f"n_steps is {meta.n_steps}, recorded were {steps}")
    expect(meta.n_frames == looks, f"n_frames is {meta.n_frames}, recorded were {looks} looks")
    if looks:
        expect(sorted(meta.cameras) == cameras, f"cameras are {sorted(meta.cameras)}, recorded were {cameras}")
    for what, at in (
        ("look", recorded.look_steps),
        ("features", recorded.feature_steps),
        ("snapshot", recorded.snapshot_steps),
    ):
        # The step after the last one is the state in which the episode ended.
        expect(max(at, default=0) <= steps, f"{what} at step {max(at, default=0)} of {steps}")
    first = meta.first_success_step
    expect((first is None) != meta.success_once, f"success_once is {meta.success_once}, first step {first}")
    expect(first is None or 0 <= first < steps, f"first_success_step is {first} of {steps} steps")
    expect(meta.success_once or not meta.success_at_end, "success_at_end without success_once")
    expect(
        meta.outcome is not Outcome.SUCCESS or meta.success_once,
        "the outcome is success, but the success condition never held",
    )
    expect(meta.outcome is not Outcome.ERROR or bool(meta.error), "the outcome is error, but no error is named")
    return found
