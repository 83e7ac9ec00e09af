"""What taking over came to, on pairs: each episode with a recovery beside the same one without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from failwise.errors import DataError
from failwise.evaluate.statistics import Interval, clopper_pearson
from failwise.types import EpisodeMeta, Outcome


def recovered_arm(arm: str) -> str:
    """The name of an arm's twin that somebody may take over."""
    return f"{arm}+recover"


@dataclass(frozen=True)
class RecoveryResult:
    """Counts over pairs of an arm with a recovery and its plain twin.

    Attributes:
        arm: the plain arm. pairs: seeds that both have. successes: of the plain arm. failures: the others.
        taken_over: episodes with a takeover. needless: those of them where the plain arm succeeded.
        takeovers: in all. refused: moves that would have left the workspace.
        mended: pairs lost by the plain arm and won with the recovery. spoiled: the other way round.
        by_mode: mode named at the first takeover -> (episodes that fail without it, those of them that were mended).
    """

    arm: str
    pairs: int
    successes: int
    failures: int
    taken_over: int
    needless: int
    takeovers: int
    refused: int
    mended: int
    spoiled: int
    by_mode: Mapping[str, tuple[int, int]]


def recovery_result(metas: Sequence[EpisodeMeta], arm: str) -> RecoveryResult:
    """Pair an arm with a recovery and its plain twin.

    Raises:
        DataError: no seed that both have.
    """
    plain = {(m.env_id, m.env_seed): m for m in metas if m.arm == arm}
    helped = {(m.env_id, m.env_seed): m for m in metas if m.arm == recovered_arm(arm)}
    keys = sorted(k for k in set(plain) & set(helped) if plain[k].has_verdict and helped[k].has_verdict)
    if not keys:
        raise DataError(f"no seed with both {arm!r} and {recovered_arm(arm)!r}; evaluate both")
    won = {k: plain[k].outcome == Outcome.SUCCESS for k in keys}
    about = {k: helped[k].extra["takeover"] for k in keys}
    taken = [k for k in keys if about[k]["takeovers"]]
    mended = {k for k in keys if not won[k] and helped[k].outcome == Outcome.SUCCESS}
    modes: dict[str, tuple[int, int]] = {}
    for k in taken:
        if not won[k]:
            first = next(e for e in helped[k].failure_events if e.onset_step == about[k]["takeovers"][0])
            n, rescued = modes.get(first.mode, (0, 0))
            modes[first.mode] = (n + 1, rescued + (k in mended))
    return RecoveryResult(
        arm=arm,
        pairs=len(keys),
        successes=sum(won.values()),
        failures=len(keys) - sum(won.values()),
        taken_over=len(taken),
        needless=sum(won[k] for k in taken),
        takeovers=sum(len(about[k]["takeovers"]) for k in keys),
        refused=sum(about[k]["refused"] for k in keys),
        mended=len(mended),
        spoiled=sum(won[k] and helped[k].outcome != Outcome.SUCCESS for k in keys),
        by_mode=dict(sorted(modes.items())),
    )


def recovery_sentences(result: RecoveryResult) -> list[str]:
    """What happened, in words, with intervals."""
    name = recovered_arm(result.arm)
    out = [
        f"{name}: taken over in {result.taken_over} of {result.pairs} episodes, {result.takeovers} times in all"
        + (f"; {result.refused} moves out of the workspace were refused." if result.refused else ".")
    ]
    if result.successes:
        needless = _percent(clopper_pearson(result.needless, result.successes))
        out.append(
            f"{name}: {result.needless} of {result.successes} episodes that succeed without it were taken over, "
            f"{needless}; {result.spoiled} of them did not stay a success."
        )
    if result.failures:
        mended = _percent(clopper_pearson(result.mended, result.failures))
        out.append(f"{name}: {result.mended} of {result.failures} failures became successes, {mended}.")
    if len(result.by_mode) > 1:
        modes = ", ".join(f"{mode} {rescued} of {n}" for mode, (n, rescued) in result.by_mode.items())
        out.append(f"{name}: mended by the mode that it named first: {modes}.")
    return out


def _percent(rate: Interval) -> str:
    return f"{100 * rate.point:.0f}% [{100 * rate.lower:.0f}, {100 * rate.upper:.0f}]"
