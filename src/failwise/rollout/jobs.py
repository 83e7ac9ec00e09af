"""What executors share: an item on its way, and what takes the place of its result when it is given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from failwise.errors import SetupError


@dataclass(frozen=True)
class WorkerFailure:
    """Takes the place of an item's result after the item lost its worker again and again.

    Attributes:
        item: what was to be done. reason: how its worker was lost, and how often; one line.
    """

    item: Any
    reason: str


@dataclass
class Job:
    """An item, and how many workers it has lost."""

    item: Any
    losses: int = 0

    def lost_again(self, cause: str, max_attempts: int) -> WorkerFailure | None:
        """Count another lost worker; the failure when the item is to be given up, else None: do it again."""
        self.losses += 1
        if self.losses < max_attempts:
            return None
        return WorkerFailure(self.item, f"its worker {cause}; {self.losses} attempts in all")


def check_pool(workers: int, item_timeout_s: float | None, max_attempts: int) -> None:
    """Raise ``SetupError`` unless a pool can be made with these."""
    if workers < 1 or max_attempts < 1 or (item_timeout_s is not None and item_timeout_s <= 0):
        raise SetupError(
            f"a pool needs workers >= 1, max_attempts >= 1 and item_timeout_s > 0 or None, "
            f"not {workers}, {max_attempts} and {item_timeout_s}"
        )
