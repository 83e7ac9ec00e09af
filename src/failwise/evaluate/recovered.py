"""What taking over came to, on pairs: each episode with a recovery beside the same one without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from failwise.errors import DataError
from failwise.evaluate.statistics import Interval, clopper_pearson
from failwise.evaluate.watched import ALARM
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

    @property
    def intervention_rate(self) -> Interval:
        """Episodes with a takeover over pairs, with its exact interval."""
        return clopper_pearson(self.taken_over, self.pairs)

    @property
    def recovery_rate(self) -> Interval | None:
        """Mended over the plain arm's failures; None where it has none."""
        return clopper_pearson(self.mended, self.failures) if self.failures else None

    @property
    def needless_rate(self) -> Interval | None:
        """Taken over although the plain arm succeeds, over its successes; None where it has none."""
        return clopper_pearson(self.needless, self.successes) if self.successes else None


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
    counts = {k: len(helped[k].interventions or about[k]["takeovers"]) for k in keys}
    taken = [k for k in keys if counts[k]]
    mended = {k for k in keys if not won[k] and helped[k].outcome == Outcome.SUCCESS}
    modes: dict[str, tuple[int, int]] = {}
    for k in taken:
        if not won[k]:
            mode = _first_mode(helped[k])
            n, rescued = modes.get(mode, (0, 0))
            modes[mode] = (n + 1, rescued + (k in mended))
    return RecoveryResult(
        arm=arm,
        pairs=len(keys),
        successes=sum(won.values()),
        failures=len(keys) - sum(won.values()),
        taken_over=len(taken),
        needless=sum(won[k] for k in taken),
        takeovers=sum(counts.values()),
        refused=sum(about[k]["refused"] for k in keys),
        mended=len(mended),
        spoiled=sum(won[k] and helped[k].outcome != Outcome.SUCCESS for k in keys),
        by_mode=dict(sorted(modes.items())),
    )


def _first_mode(meta: EpisodeMeta) -> str:
    """The mode that was named at an episode's first intervention, "takeover" where none was.

    Episodes from before interventions were recorded name it in the event of that step; a monitor's alarm or an injected
    fault may have one at the same step.
    """
    if meta.interventions:
        return meta.interventions[0].mode or "takeover"
    start = meta.extra["takeover"]["takeovers"][0]
    events = (e for e in meta.failure_events if e.source == "detected" and e.mode != ALARM)
    return next((e.mode for e in events if e.onset_step == start), "takeover")


def recovery_by_task(metas: Sequence[EpisodeMeta], arm: str) -> dict[str, RecoveryResult]:
    """Environment -> its own ``recovery_result``, in the order of names; without those that have no pair."""
    out = {}
    for env_id in sorted({m.env_id for m in metas if m.arm == recovered_arm(arm)}):
        try:
            out[env_id] = recovery_result([m for m in metas if m.env_id == env_id], arm)
        except DataError:
            continue
    return out


def recovery_sentences(result: RecoveryResult) -> list[str]:
    """What happened, in words, with intervals."""
    name = recovered_arm(result.arm)
    out = [
        f"{name}: taken over in {result.taken_over} of {result.pairs} episodes, {_percent(result.intervention_rate)}, "
        f"{result.takeovers} times in all"
        + (f"; {result.refused} moves out of the workspace were refused." if result.refused else ".")
    ]
    if result.needless_rate is not None:
        needless = _percent(result.needless_rate)
        out.append(
            f"{name}: {result.needless} of {result.successes} episodes that succeed without it were taken over, "
            f"{needless}; {result.spoiled} of them did not stay a success."
        )
    if result.recovery_rate is not None:
        mended = _percent(result.recovery_rate)
        out.append(f"{name}: {result.mended} of {result.failures} failures became successes, {mended}.")
    if len(result.by_mode) > 1:
        modes = ", ".join(f"{mode} {rescued} of {n}" for mode, (n, rescued) in result.by_mode.items())
        out.append(f"{name}: mended by the mode that it named first: {modes}.")
    return out


def _percent(rate: Interval) -> str:
    return f"{100 * rate.point:.0f}% [{100 * rate.lower:.0f}, {100 * rate.upper:.0f}]"
