"""What an episode's meta data must agree on: with themselves, and with the record."""

from __future__ import annotations

from collections.abc import Sequence

from failwise.types import EpisodeMeta, Outcome


def contradictions(
    meta: EpisodeMeta, episode_id: str, n_steps: int, n_frames: int, cameras: Sequence[str]
) -> list[str]:
    """One phrase for each thing in ``meta`` that is not so, empty when all is well.

    Args:
        meta: the meta data.
        episode_id: the name under which the episode is stored.
        n_steps: recorded environment steps.
        n_frames: recorded looks.
        cameras: recorded cameras, in any order.

    """
    found: list[str] = []

    def expect(holds: bool, otherwise: str) -> None:
        if not holds:
            found.append(otherwise)

    expect(meta.episode_id == episode_id, f"episode_id is {meta.episode_id!r}, stored as {episode_id!r}")
    expect(meta.n_steps == n_steps, f"n_steps is {meta.n_steps}, recorded were {n_steps}")
    expect(meta.n_frames == n_frames, f"n_frames is {meta.n_frames}, recorded were {n_frames} looks")
    if n_frames:
        recorded = ", ".join(sorted(cameras))
        expect(
            sorted(meta.cameras) == sorted(cameras), f"cameras are {meta.cameras}, recorded were {recorded}"
        )
    first = meta.first_success_step
    expect(
        (first is not None) == meta.success_once, f"success_once is {meta.success_once}, first step {first}"
    )
    expect(first is None or 0 <= first < n_steps, f"first_success_step {first} is not among {n_steps} steps")
    expect(meta.success_once or not meta.success_at_end, "success_at_end without success_once")
    expect(
        meta.outcome is not Outcome.SUCCESS or meta.success_once,
        "the outcome is success, but the success condition never held",
    )
    expect(
        meta.outcome is not Outcome.ERROR or bool(meta.error), "the outcome is error, but no error is named"
    )
    return found
