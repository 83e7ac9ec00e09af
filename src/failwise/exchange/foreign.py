"""What an episode that others recorded has to tell before it can be kept, whatever form it is in but LeRobot's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from failwise.errors import DataError, SetupError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.types import ImageHW3

MOST_STEPS = 1_000_000
MOST_VALUES = 50_000_000
MOST_PIXELS = 4096 * 4096
"""Of an episode, of an array, of a picture. A file that claims more is refused before memory is asked for."""


@dataclass(frozen=True)
class ForeignOptions:
    """What the import of others' recordings takes besides where from and where to."""

    task: str = ""
    """Task of the episodes, NAME or SUITE/NAME; empty: as the dataset says."""
    instruction: str = ""
    """What the robot was told, in words; empty: as the dataset says."""
    outcome: Literal["success", "failure", ""] = ""
    """How those episodes ended of which the dataset does not say."""
    success_key: str = ""
    """The label that says at which steps, or whether at all, the task was done; empty: 'success', if there is one."""
    state: str = ""
    """Keys that become proprioception, joined in this order (a,b,c); 'none': none; empty: the usual ones."""
    action: str = ""
    """Keys that become the action, joined in this order; empty: the usual one."""
    control_hz: float = 0.0
    """Steps a second; 0: as the dataset says, or the form's usual rate where it does not."""
    actor: Literal["policy", "expert", "human"] = "policy"
    """Who acted."""
    arm: str = ""
    """Name of what acted; empty: the name of the dataset."""
    look_every: int = 1
    """Keep the pictures of every so many steps; 0: none."""
    pictures: Literal["png", "video"] = "png"
    """How the store keeps pictures: exact, or smaller."""


@dataclass(frozen=True)
class Recording:
    """What one episode holds.

    Attributes:
        actions_TA: float32. ``states_TS``: float32, S may be 0. ``rewards_T``: float64, or None where there are none.
        success_T: whether the task was done after each step, or None where no label says so.
        task: name of the task. ``instruction``: one sentence, or "".
        pictures: camera -> what yields its pictures, uint8 (h, w, 3), at some steps, ascending.
    """

    actions_TA: NDArray[np.float32]
    states_TS: NDArray[np.float32]
    rewards_T: NDArray[np.float64] | None
    success_T: NDArray[np.bool_] | None
    task: str
    instruction: str
    pictures: Mapping[str, Callable[[NDArray[np.int64]], Iterator[ImageHW3]]]


@dataclass(frozen=True)
class Found:
    """An episode that is there and not read yet.

    Attributes:
        number: 0-based, the same whenever the dataset is read; becomes the seed.
        where: file and key, for messages.
        source: a fingerprint, by which it is known to be in a store already.
        read: reads it; valid until the next one is asked for.
    """

    number: int
    where: str
    source: str
    read: Callable[[], Recording]


class ForeignDataset(Protocol):
    """Episodes in some form, one after the other."""

    suite: str
    name: str
    control_hz: float
    left_out: list[str]
    notes: list[str]

    @property
    def keys(self) -> Mapping[str, Sequence[str]]:
        """Which keys became what."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Found]: ...


def require_sound(options: ForeignOptions) -> None:
    """Refuse options that mean nothing.

    Raises:
        SetupError: a negative number, a rate that is none.
    """
    if options.look_every < 0:
        raise SetupError(f"--look-every must be at least 0, not {options.look_every}")
    if not 0 <= options.control_hz < float("inf"):
        raise SetupError(f"--control-hz must be a number of steps a second, not {options.control_hz}")


def successes(found: Found, recording: Recording, otherwise: Literal["success", "failure", ""]) -> NDArray[np.bool_]:
    """Whether the task was done after each step, (T,): by label, by rewards of 0 and 1, or as was said of the rest.

    Only these rewards tell: 1 at some steps and 0 at all others. A shaped reward is positive in failures too, one
    that is never positive may never have been recorded, and one that is always 1 pays for being alive.

    Raises:
        DataError: nothing tells.
    """
    if recording.success_T is not None:
        return recording.success_T
    rewards = recording.rewards_T
    if rewards is not None and np.isin(rewards, (0.0, 1.0)).all() and 0 < rewards.sum() < max(2, len(rewards)):
        return rewards > 0
    if not otherwise:
        if rewards is None:
            what = "no rewards"
        else:
            what = f"rewards of {rewards.min():g} to {rewards.max():g}, which tell it only if some are 1 and the rest 0"
        raise DataError(
            f"{found.where} does not say whether it succeeded: no success label, and {what}; say how such episodes "
            "ended with --outcome success or --outcome failure, or name a label with --success-key"
        )
    held = np.zeros(len(recording.actions_TA), np.bool_)
    held[-1] = otherwise == "success"
    return held


def joined(where: str, parts: Mapping[str, NDArray[Any]], steps: int) -> NDArray[np.float32]:
    """Arrays (T,) or (T, n) side by side, float32 (T, sum of n).

    Raises:
        DataError: an array of another shape.
    """
    columns = []
    for key, values in parts.items():
        if values.ndim not in (1, 2) or len(values) != steps:
            raise DataError(f"{where}: {key} has shape {values.shape}, expected ({steps},) or ({steps}, n)")
        with np.errstate(over="ignore"):  # what becomes infinite is refused by the writer
            columns.append(values.reshape(steps, -1).astype(np.float32))
    return np.concatenate(columns, axis=1) if columns else np.zeros((steps, 0), np.float32)


def per_step_label(where: str, key: str, values: NDArray[Any], steps: int) -> NDArray[np.bool_]:
    """A success label, one of all steps or one a step, as bool (T,). What is said once is said of the last step.

    Raises:
        DataError: another shape, or something else than 0 and 1.
    """
    flat = np.asarray(values).reshape(-1)
    if len(flat) not in (1, steps):
        raise DataError(f"{where}: {key} has shape {np.shape(values)}, expected ({steps},) or one value")
    if not np.isin(flat, (0, 1)).all():
        raise DataError(f"{where}: {key} holds {flat[~np.isin(flat, (0, 1))][0]}, expected 0 and 1 only")
    held = np.zeros(steps, np.bool_)
    held[steps - len(flat) :] = flat.astype(np.bool_)
    return held


def split_keys(text: str) -> tuple[str, ...]:
    """``"a, b"`` is ``("a", "b")``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
