"""What every environment here does with the seed, the options and the actions that it is given."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.errors import EpisodeError, SetupError
from failwise.seeds import RANGES
from failwise.types import EnvSpec

INSTRUCTION = "instruction"
FIRST_FREE = max(purpose.stop for purpose in RANGES)
"""Layouts of a ``reset()`` without a seed begin here: long trainings must not meet validation or test layouts."""
AFTER_LAST = 2**31  # where the seeds end that the command line takes, so every drawn layout can be named there
_STREAM = 13  # keeps the draws of later layouts apart from what a layout draws with its own seed


class LayoutSeeds:
    """Gymnasium's rule for seeds: which layout each ``reset`` of one environment begins.

    ``reset(seed=s)`` begins layout s and seeds a generator. Each later ``reset()`` begins the layout that this
    generator draws next, so the sequence after ``reset(seed=s)`` is always the same. Without any seed so far, the
    generator is seeded from the operating system.

    Args:
        env_id: of the environment, for its errors.
    """

    def __init__(self, env_id: str) -> None:
        self._env_id = env_id
        self._generator: np.random.Generator | None = None

    def draw(self, seed: int | None) -> int:
        """The seed of the layout to begin.

        Args:
            seed: what ``reset`` was given.

        Returns:
            ``seed`` itself; without one, the generator's next, at least ``FIRST_FREE`` and below ``AFTER_LAST``.

        Raises:
            SetupError: the seed is negative or no whole number.
        """
        if seed is None:
            if self._generator is None:
                self._generator = np.random.default_rng()
            return int(self._generator.integers(FIRST_FREE, AFTER_LAST))
        try:
            number = operator.index(seed)
        except TypeError:
            raise SetupError(f"{self._env_id}: a seed is a whole number, not {seed!r}") from None
        if number < 0:
            raise SetupError(f"{self._env_id}: a seed is 0 or more, not {number}")
        self._generator = np.random.default_rng([number, _STREAM])
        return number


def checked_options(spec: EnvSpec, options: dict[str, Any] | None, also: Collection[str] = ()) -> str:
    """The instruction of the episode that ``reset(options=options)`` begins.

    Args:
        spec: of the environment; its instruction counts where the options name none.
        options: what ``reset`` was given.
        also: further keys that the environment documents, and reads itself.

    Returns:
        The instruction, as it was written.

    Raises:
        SetupError: a key that is not known, an instruction that is not text or blank, or options that are no dict.
    """
    if options is None:
        return spec.instruction
    accepted = ", ".join(repr(key) for key in (INSTRUCTION, *also))
    if not isinstance(options, dict):
        raise SetupError(f"{spec.env_id}: reset takes options as a dict with the keys {accepted}, not {options!r}")
    if unknown := [key for key in options if key != INSTRUCTION and key not in also]:
        raise SetupError(f"{spec.env_id}: reset knows no option {unknown[0]!r}; it takes {accepted}")
    instruction = options.get(INSTRUCTION, spec.instruction)
    if not (isinstance(instruction, str) and instruction.strip()):
        raise SetupError(f"{spec.env_id}: the option 'instruction' must be an English sentence, not {instruction!r}")
    return instruction


def checked_action(spec: EnvSpec, action: NDArray[Any]) -> NDArray[np.float32]:
    """The action (A,), clipped to the environment's bounds.

    Args:
        spec: of the environment.
        action: what ``step`` was given.

    Returns:
        A new float32 array (A,).

    Raises:
        EpisodeError: it has another shape, or is not finite.
    """
    a = np.asarray(action, np.float32)
    if a.shape != spec.action_low.shape or not np.isfinite(a).all():
        raise EpisodeError(f"{spec.env_id}: an action must be {len(spec.action_low)} finite numbers, got {a.tolist()}")
    return np.clip(a, spec.action_low, spec.action_high)
