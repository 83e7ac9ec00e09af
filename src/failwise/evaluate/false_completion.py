"""False completions: of the episodes in which what was carried fell, how many went on as if nothing had happened?

Reads recorded episodes of environments with ``@drop`` behind the task (``failwise.envs.dropping``). Each falls into
exactly one class; the definition and its source are in ``docs/false_completion.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from failwise.evaluate.statistics import Interval, clopper_pearson
from failwise.types import EpisodeMeta, Outcome


class AfterDrop(StrEnum):
    """What came after the drop."""

    NOT_DROPPED = "not dropped"  # nothing was carried far enough, or it did not fall
    FELL_INTO_PLACE = "fell into place"  # success without going back: luck, not a verdict
    RECOVERED = "recovered"  # went back for it, and succeeded
    WENT_BACK = "went back"  # went back for it, without success
    FALSE_COMPLETION = "false completion"  # went to where it would have set it down, and never back
    LOST = "lost"  # neither went back nor on


@dataclass(frozen=True)
class DropResult:
    """Counts of one arm's episodes with a drop that tells something.

    Attributes:
        arm: the arm. episodes: with ``@drop`` and a verdict.
        counts: class -> episodes; they add up to ``episodes``.
        late: of those that went back, with success or without, how many first went on to the goal.
    """

    arm: str
    episodes: int
    counts: Mapping[AfterDrop, int]
    late: int

    @property
    def dropped(self) -> int:
        """Episodes that tell something: what was carried fell, and not into place."""
        return self.episodes - self.counts[AfterDrop.NOT_DROPPED] - self.counts[AfterDrop.FELL_INTO_PLACE]

    @property
    def false_completion_rate(self) -> Interval | None:
        """False completions over ``dropped``, with its exact interval; None where nothing fell."""
        return self._rate(AfterDrop.FALSE_COMPLETION)

    @property
    def recovery_rate(self) -> Interval | None:
        """Recovered over ``dropped``, with its exact interval; None where nothing fell."""
        return self._rate(AfterDrop.RECOVERED)

    def _rate(self, what: AfterDrop) -> Interval | None:
        return clopper_pearson(self.counts[what], self.dropped) if self.dropped else None


def has_drop(meta: EpisodeMeta) -> bool:
    """Whether an episode was run with ``@drop`` and has a verdict."""
    return "drop" in meta.extra and meta.has_verdict


def after_drop(meta: EpisodeMeta) -> AfterDrop:
    """The class of one episode that was run with ``@drop``."""
    record = meta.extra["drop"]
    dropped, went_back = record["dropped"], record["returned"] >= 0
    success = meta.outcome == Outcome.SUCCESS
    if dropped < 0 or (meta.first_success_step is not None and meta.first_success_step < dropped):
        return AfterDrop.NOT_DROPPED
    if success:
        return AfterDrop.RECOVERED if went_back else AfterDrop.FELL_INTO_PLACE
    if went_back:
        return AfterDrop.WENT_BACK
    return AfterDrop.FALSE_COMPLETION if record["arrived"] >= 0 else AfterDrop.LOST


def false_completions(metas: Sequence[EpisodeMeta], arm: str) -> DropResult | None:
    """Count one arm's episodes with a drop; None where there are none."""
    own = [meta for meta in metas if meta.arm == arm and has_drop(meta)]
    if not own:
        return None
    classes = [after_drop(meta) for meta in own]
    late = sum(
        kind in (AfterDrop.RECOVERED, AfterDrop.WENT_BACK) and meta.extra["drop"]["arrived"] >= 0
        for kind, meta in zip(classes, own, strict=True)
    )
    return DropResult(arm, len(own), {kind: classes.count(kind) for kind in AfterDrop}, late)


def drop_sentences(result: DropResult) -> list[str]:
    """What happened, in words, with intervals."""
    counts, arm = result.counts, result.arm
    out = [f"{arm}: what it carried fell in {result.dropped} of {result.episodes} episodes"]
    if luck := counts[AfterDrop.FELL_INTO_PLACE]:
        out[0] += f", and in {luck} more into its place, which tells nothing"
    out[0] += "."
    false, recovered = result.false_completion_rate, result.recovery_rate
    if false is not None and recovered is not None:
        out.append(
            f"{arm}: {counts[AfterDrop.FALSE_COMPLETION]} of {result.dropped} were false completions, "
            f"{_percent(false)}: it went on to the goal and never back for the thing."
        )
        went = counts[AfterDrop.RECOVERED] + counts[AfterDrop.WENT_BACK]
        late = f" ({result.late} of them only after it had been at the goal without it)" if result.late else ""
        out.append(
            f"{arm}: it went back for the thing in {went}{late} and succeeded in {counts[AfterDrop.RECOVERED]}, "
            f"{_percent(recovered)}."
        )
    return out


def _percent(rate: Interval) -> str:
    return f"{100 * rate.point:.0f}% [{100 * rate.lower:.0f}, {100 * rate.upper:.0f}]"
