"""What every environment here does with the seed and the actions that it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.errors import EpisodeError
from failwise.types import EnvSpec


def seed_or_random(seed: int | None) -> int:
    """The seed itself; without one, a random one."""
    return int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)


def checked_action(spec: EnvSpec, action: NDArray[Any]) -> NDArray[np.float32]:
    """The action (A,), clipped to the environment's bounds.

    Raises:
        EpisodeError: it has another shape, or is not finite.
    """
    a = np.asarray(action, np.float32)
    if a.shape != spec.action_low.shape or not np.isfinite(a).all():
        raise EpisodeError(f"{spec.env_id}: an action must be {len(spec.action_low)} finite numbers, got {a.tolist()}")
    return np.clip(a, spec.action_low, spec.action_high)
