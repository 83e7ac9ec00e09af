"""Which environment seed may be used for what, disjoint by construction: no test layout was seen before.

A seed is a layout: the same seed gives the same episode, distinct seeds give distinct ones. So
demonstrations, own episodes, selection, proof and failures on purpose draw from ranges that cannot meet. ``claim``
hands out seeds inside one range and refuses to leave it; ``refuse_overlap`` guards seeds that a user names by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from failwise.errors import SetupError

WIDTH = 100_000


@dataclass(frozen=True)
class SeedRange:
    """The seeds ``start .. start + WIDTH - 1``, reserved for one purpose."""

    name: str
    start: int

    @property
    def stop(self) -> int:
        """First seed after the range."""
        return self.start + WIDTH

    def __contains__(self, seed: int) -> bool:
        return self.start <= seed < self.stop

    def claim(self, n: int, offset: int = 0) -> range:
        """``n`` seeds of this range, after its first ``offset`` (so that rounds can follow one another).

        Raises:
            SetupError: n < 1, a negative offset, or more than the range holds.
        """
        if n < 1 or offset < 0 or offset + n > WIDTH:
            raise SetupError(
                f"{n} seeds from number {offset} on do not fit into the {WIDTH} {self.name} seeds; "
                f"ask for 1 to {WIDTH - max(offset, 0)}"
            )
        return range(self.start + offset, self.start + offset + n)


DEMOS = SeedRange("demos", 0)
COLLECT = SeedRange("collect", 100_000)
VALIDATION = SeedRange("validation", 200_000)
TEST = SeedRange("test", 300_000)
GENERATE = SeedRange("generate", 400_000)
RANGES = (DEMOS, COLLECT, VALIDATION, TEST, GENERATE)


def parse_seeds(text: str, home: SeedRange = TEST) -> range:
    """``"100"``: the first 100 seeds of ``home``. ``"1000:1100"``: exactly the seeds 1000 to 1099.

    Raises:
        SetupError: neither form, an empty or negative range, or a count larger than ``home``.
    """
    first, colon, last = text.strip().partition(":")
    try:
        numbers = [int(part) for part in ([first, last] if colon else [first])]
    except ValueError:
        raise SetupError(f"seeds {text!r} are neither a count like 100 nor a range like 1000:1100") from None
    if not colon:
        return home.claim(numbers[0])
    if not 0 <= numbers[0] < numbers[1] or numbers[1] > 2**31:
        raise SetupError(
            f"seeds {text!r} hold no seed: write START:STOP with 0 <= START < STOP (STOP itself is left out)"
        )
    return range(numbers[0], numbers[1])


def home_of(seeds: Sequence[int]) -> list[SeedRange]:
    """The ranges that some seeds lie in, in the order of RANGES."""
    return [home for home in RANGES if any(seed in home for seed in seeds)]


def refuse_overlap(uses: Mapping[str, Sequence[int]]) -> None:
    """Refuse two purposes that share a seed.

    Args:
        uses: purpose -> the seeds it uses.

    Raises:
        SetupError: two purposes share at least one seed; names both, and one of the seeds.
    """
    for (one, mine), (other, theirs) in combinations(uses.items(), 2):
        shared = set(mine).intersection(theirs)
        if shared:
            raise SetupError(
                f"{one} and {other} seeds overlap: {len(shared)} shared, the first {min(shared)}; "
                "a proof needs seeds that nothing else has used, so take another range"
            )
