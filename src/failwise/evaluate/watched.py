"""What a monitor in the loop came to, on pairs: each watched episode beside the same one unwatched.

Both run on the same seeds, and watching changes nothing before the first alarm, so the unwatched episode shows exactly
what the alarm prevented: an alarm is *false* where the unwatched episode succeeded. What did not end in success counts
as a failure or as a timeout; both are told, because a timeout is no proof that the episode was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from failwise.errors import DataError
from failwise.evaluate.statistics import Interval, clopper_pearson
from failwise.types import EpisodeMeta, FailureEvent, Outcome

ALARM = "alarm"
"""The mode of an alarm among an episode's failure events."""


def watched_arm(arm: str, on_alarm: str) -> str:
    """The name of an arm's watched twin."""
    return f"{arm}+{on_alarm}"


@dataclass(frozen=True)
class WatchResult:
    """Counts over pairs of a watched arm and its plain twin.

    Attributes:
        arm: the plain arm. on_alarm: the reaction. alpha: the largest rate of false alarms that the band allows.
        pairs: seeds that both have. successes: of the plain arm. failures: the other ones, timeouts among them.
        false_alarms: pairs with an alarm where the plain arm succeeded. detected: pairs with an alarm where it did not.
        delay: mean share of the plain episode that had passed at a true alarm; NaN without any.
        asked: alarms that called for a person; of recordings without ``alarms``, those of the reaction "ask" alone.
        saved_steps: steps that were not run because of true alarms that stopped.
        mended: pairs lost by the plain arm and won by the watched one. spoiled: the other way round.
    """

    arm: str
    on_alarm: str
    alpha: float
    pairs: int
    successes: int
    timeouts: int
    failures: int
    false_alarms: int
    detected: int
    delay: float
    asked: int
    saved_steps: int
    mended: int
    spoiled: int

    @property
    def false_alarm_rate(self) -> Interval:
        """False alarms over the plain arm's successes, with its exact interval."""
        return clopper_pearson(self.false_alarms, self.successes)

    @property
    def detection_rate(self) -> Interval:
        """Detected over the plain arm's failures and timeouts, with its exact interval."""
        return clopper_pearson(self.detected, self.failures)


def alarm_of(meta: EpisodeMeta) -> FailureEvent | None:
    """The alarm that a monitor raised in an episode, if it did."""
    return next((e for e in meta.failure_events if e.mode == ALARM), None)


def _asked(meta: EpisodeMeta) -> bool:
    """Whether a person was asked at an episode's alarm.

    Episodes from before alarms were recorded tell only of a reaction that was the same for all.
    """
    if meta.alarms:
        return any(alarm.reaction == "ask" for alarm in meta.alarms)
    return bool(meta.extra["watch"].get("on_alarm") == "ask")


def watch_result(metas: Sequence[EpisodeMeta], arm: str, on_alarm: str) -> WatchResult:
    """Pair a watched arm with its plain twin.

    Raises:
        DataError: no seed that both have.
    """
    plain = _grid(metas, arm)
    watched = _grid(metas, watched_arm(arm, on_alarm))
    keys = sorted(k for k in set(plain) & set(watched) if plain[k].has_verdict and watched[k].outcome != Outcome.ERROR)
    if not keys:
        raise DataError(f"no seed with both {arm!r} and {watched_arm(arm, on_alarm)!r}; evaluate both")
    won = {k: plain[k].outcome == Outcome.SUCCESS for k in keys}
    alarms = {k: event for k in keys if (event := alarm_of(watched[k])) is not None}
    true = [k for k in alarms if not won[k]]
    shares = [(alarms[k].onset_step + 1) / max(1, plain[k].n_steps) for k in true]
    stopped = [k for k in true if watched[k].outcome == Outcome.ABORTED]
    return WatchResult(
        arm=arm,
        on_alarm=on_alarm,
        alpha=float(watched[keys[0]].extra["watch"]["alpha"]),
        pairs=len(keys),
        successes=sum(won.values()),
        timeouts=sum(plain[k].outcome == Outcome.TIMEOUT for k in keys),
        failures=len(keys) - sum(won.values()),
        false_alarms=len(alarms) - len(true),
        detected=len(true),
        delay=sum(shares) / len(shares) if shares else float("nan"),
        asked=sum(_asked(watched[k]) for k in alarms),
        saved_steps=sum(plain[k].n_steps - watched[k].n_steps for k in stopped),
        mended=sum(not won[k] and watched[k].outcome == Outcome.SUCCESS for k in keys),
        spoiled=sum(won[k] and watched[k].outcome != Outcome.SUCCESS for k in keys),
    )


def watch_sentences(result: WatchResult) -> list[str]:
    """What happened, in words, with intervals."""
    name = watched_arm(result.arm, result.on_alarm)
    out = []
    if result.successes:
        rate = result.false_alarm_rate
        kept = "within" if rate.lower <= result.alpha else "above"
        out.append(
            f"{name}: {result.false_alarms} of {result.successes} episodes that succeed unwatched raised an alarm, "
            f"{_percent(rate)}, {kept} the nominal {result.alpha:.0%}."
        )
    if result.failures:
        late = "" if result.delay != result.delay else f", on average after {result.delay:.0%} of the episode"
        out.append(
            f"{name}: {result.detected} of {result.failures} episodes that do not succeed unwatched "
            f"({result.timeouts} of them by timeout) raised one, {_percent(result.detection_rate)}{late}."
        )
    if result.asked:
        out.append(f"{name}: {result.asked} of {result.false_alarms + result.detected} alarms called for a person.")
    if result.on_alarm in ("stop", "learned"):
        out.append(f"{name}: true alarms saved {result.saved_steps} steps.")
    if result.on_alarm in ("recover", "ask"):
        out.append(f"{name}: {result.mended} failures became successes, {result.spoiled} successes did not stay.")
    return out


def _grid(metas: Sequence[EpisodeMeta], arm: str) -> Mapping[tuple[str, int], EpisodeMeta]:
    return {(m.env_id, m.env_seed): m for m in metas if m.arm == arm}


def _percent(rate: Interval) -> str:
    return f"{100 * rate.point:.0f}% [{100 * rate.lower:.0f}, {100 * rate.upper:.0f}]"
