"""What a comparison is: frozen records that survive a round trip through JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from failwise.errors import DataError
from failwise.evaluate.statistics import Interval
from failwise.types import Outcome, Provenance

FIXED_TEST = "exact McNemar"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskResult(_Record):
    """One arm on one task, or on all of its tasks together.

    Attributes:
        n: episodes, each with exactly one outcome; ``outcomes`` adds up to it.
        successes: episodes with the outcome ``success``; every other one, ``error`` included, counts
            against the arm.
        rate: ``successes / n`` with its interval.
    """

    n: int = Field(ge=1)
    successes: int = Field(ge=0)
    outcomes: Mapping[Outcome, int]
    rate: Interval


class ArmResult(_Record):
    """One arm: every episode of it, paired or not.

    Attributes:
        tasks: env_id -> result, sorted by env_id. ``pooled``: all tasks together, equal weight for each
            episode.
        provenance: the distinct origins of its episodes (one, unless versions or checkpoints were mixed).
    """

    arm: str
    tasks: Mapping[str, TaskResult]
    pooled: TaskResult
    provenance: tuple[Provenance, ...] = ()


class SeedPairs(_Record):
    """The environment seeds of the pairs, by what happened. Ascending tuples, together all pairs.

    Attributes:
        won: the arm succeeded where the baseline did not. ``lost``: the other way round.
        both: both succeeded. ``neither``: neither did.
    """

    won: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    both: tuple[int, ...] = ()
    neither: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """How many pairs."""
        return len(self.won) + len(self.lost) + len(self.both) + len(self.neither)


class PairedResult(_Record):
    """An arm against the baseline on the same seeds.

    Attributes:
        n: pairs; ``won``, ``lost``, ``both``, ``neither`` add up to it.
        difference: success rate of the arm minus the baseline's over these pairs, in [-1, 1], with its
            interval, which is not adjusted for the number of arms.
        p_value: of the ``test``, two-sided. ``p_adjusted``: after Holm's correction over ``family`` tests: the
            pooled tests of all arms, or the tasks of one arm.
        pairs_needed: about how many pairs, their number fixed beforehand, would show ``target_difference`` with
            power .8 at this share of discordant pairs.
    """

    n: int = Field(ge=1)
    won: int = Field(ge=0)
    lost: int = Field(ge=0)
    both: int = Field(ge=0)
    neither: int = Field(ge=0)
    difference: Interval
    test: str = FIXED_TEST
    p_value: float = Field(ge=0, le=1)
    p_adjusted: float = Field(ge=0, le=1)
    family: int = Field(ge=1)
    target_difference: float = 0.1
    pairs_needed: int = Field(ge=1)


class Unpaired(_Record):
    """Seeds of one task that only one of the two arms has: left out of the test, never out of the record."""

    env_id: str
    only_arm: tuple[int, ...] = ()
    only_baseline: tuple[int, ...] = ()


class ArmComparison(_Record):
    """One arm against the baseline: pooled, by task, and seed by seed."""

    arm: str
    pooled: PairedResult
    tasks: Mapping[str, PairedResult]
    seeds: Mapping[str, SeedPairs]
    unpaired: tuple[Unpaired, ...] = ()


class Comparison(_Record):
    """Arms on tasks and seeds, compared with one baseline.

    Attributes:
        baseline: name of the arm that the others are compared with; None where nothing is compared.
        confidence: level of every interval; a test rejects at ``1 - confidence``.
        arms: baseline first. ``against``: every other arm against the baseline, in the same order.
        seeds: env_id -> every environment seed that any arm ran, ascending.
    """

    format: Literal["failwise-comparison-1"] = "failwise-comparison-1"
    baseline: str | None
    confidence: float = Field(gt=0, lt=1)
    arms: tuple[ArmResult, ...]
    against: tuple[ArmComparison, ...] = ()
    seeds: Mapping[str, tuple[int, ...]]

    @property
    def env_ids(self) -> tuple[str, ...]:
        """Every task of the comparison, sorted."""
        return tuple(self.seeds)

    def arm(self, name: str) -> ArmResult:
        """The result of the arm called ``name``; KeyError where there is none."""
        return {result.arm: result for result in self.arms}[name]

    def to_json(self) -> str:
        """This comparison as indented JSON."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The comparison that ``to_json`` wrote.

        Raises:
            DataError: not JSON, or not a comparison of this format.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the text"
            raise DataError(
                f"not a failwise-comparison-1: {where}: {first['msg']}; run 'failwise evaluate' again"
            ) from error
