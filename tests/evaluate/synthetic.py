"""Episode records with chosen outcomes, for tests of what is made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from failwise.types import EpisodeMeta, Outcome, Provenance

LETTERS = {
    "s": Outcome.SUCCESS,
    "f": Outcome.FAILURE,
    "t": Outcome.TIMEOUT,
    "e": Outcome.ERROR,
    "a": Outcome.ABORTED,
}


def episode(arm: str, env_id: str, seed: int, outcome: Outcome, instruction: str = "Push the puck.") -> EpisodeMeta:
    """One episode of 30 steps."""
    task = env_id.split("/")[1]
    return EpisodeMeta(
        episode_id=f"{env_id.replace('/', '.')}--{arm}--{seed:06d}",
        env_id=env_id,
        task=task,
        instruction=instruction,
        arm=arm,
        env_seed=seed,
        policy_seed=seed,
        outcome=outcome,
        success_once=outcome == Outcome.SUCCESS,
        success_at_end=outcome == Outcome.SUCCESS,
        first_success_step=29 if outcome == Outcome.SUCCESS else None,
        n_steps=30,
        step_limit=30,
        control_hz=10.0,
        error="the simulator diverged" if outcome == Outcome.ERROR else "",
        provenance=Provenance(agent=f"models/{arm}", checkpoint_sha256=f"{len(arm):064x}", failwise="0.1.0"),
    )


def episodes(outcomes: Mapping[str, Mapping[str, str]], seeds: Sequence[int] | None = None) -> list[EpisodeMeta]:
    """From ``{arm: {env_id: "sstf"}}``: one letter an episode (see ``LETTERS``), seeds counted from 100."""
    return [
        episode(arm, env_id, seed, LETTERS[letter])
        for arm, tasks in outcomes.items()
        for env_id, letters in tasks.items()
        for seed, letter in zip(seeds or range(100, 100 + len(letters)), letters, strict=True)
    ]
