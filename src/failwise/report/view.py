"""What the page shows of a comparison: plain values, ready for the template. Pure; percentages in 0..100."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from failwise.evaluate.records import ArmComparison, ArmResult, Comparison, PairedResult, TaskResult
from failwise.evaluate.statistics import Interval
from failwise.evaluate.verdict import Finding, finding, p_text, percent, points, statements
from failwise.types import Outcome, Provenance

GLYPHS = {Finding.BETTER: "▲", Finding.WORSE: "▼", Finding.CANNOT_TELL: "≈", Finding.TOO_FEW: "…"}
TONES = {
    Finding.BETTER: "better",
    Finding.WORSE: "worse",
    Finding.CANNOT_TELL: "open",
    Finding.TOO_FEW: "open",
}


@dataclass(frozen=True)
class Sentence:
    """A verdict, cut into its claim and its evidence. ``tone``: better, worse, open or plain."""

    claim: str
    evidence: str
    tone: str
    glyph: str


@dataclass(frozen=True)
class Track:
    """An interval on an axis. Positions in percent of the axis; ``text`` says the same in words."""

    point: float
    lower: float
    upper: float
    text: str


@dataclass(frozen=True)
class Effect:
    """An arm against the baseline, pooled or on one task."""

    track: Track
    tone: str
    glyph: str
    word: str
    p: str


@dataclass(frozen=True)
class ArmRow:
    """An arm on one task, or pooled. ``colour``: index of its colour, 0 for the baseline."""

    arm: str
    colour: int
    is_baseline: bool
    successes: int
    n: int
    rate: Track
    effect: Effect | None
    outcomes: Mapping[str, int]


@dataclass(frozen=True)
class TaskBlock:
    """One task and every arm that ran it."""

    env_id: str
    rows: tuple[ArmRow, ...]


@dataclass(frozen=True)
class SeedBlock:
    """The paired seeds of one arm on one task."""

    env_id: str
    n: int
    won: tuple[int, ...]
    lost: tuple[int, ...]
    both: tuple[int, ...]
    neither: tuple[int, ...]


@dataclass(frozen=True)
class AgainstBlock:
    """One arm against the baseline, seed by seed. ``unpaired``: sentences on the seeds left out."""

    arm: str
    colour: int
    won: int
    lost: int
    tasks: tuple[SeedBlock, ...]
    unpaired: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """All that a comparison alone gives. ``reach``: half width of the difference axis, in points. ``test``: name."""

    sentences: tuple[Sentence, ...]
    facts: tuple[tuple[str, str], ...]
    baseline: str
    confidence: str
    reach: int
    test: str
    arms: tuple[ArmRow, ...]
    outcomes: tuple[str, ...]
    tasks: tuple[TaskBlock, ...]
    against: tuple[AgainstBlock, ...]
    provenance: tuple[tuple[str, tuple[str, ...]], ...]
    seeds: tuple[tuple[str, str, int], ...]


def page(comparison: Comparison) -> Page:
    """Return what the page shows of ``comparison``."""
    against = {one.arm: one for one in comparison.against}
    colours = {arm.arm: index for index, arm in enumerate(comparison.arms)}
    reach = _reach(one.pooled.difference for one in comparison.against)

    def row(arm: ArmResult, result: TaskResult, paired: PairedResult | None, axis: int) -> ArmRow:
        return ArmRow(
            arm=arm.arm,
            colour=colours[arm.arm],
            is_baseline=arm.arm == comparison.baseline,
            successes=result.successes,
            n=result.n,
            rate=_rate(result.rate),
            effect=None if paired is None else _effect(paired, axis),
            outcomes={outcome.value: count for outcome, count in result.outcomes.items()},
        )

    def paired(arm: str, env_id: str) -> PairedResult | None:
        return against[arm].tasks.get(env_id) if arm in against else None

    return Page(
        sentences=_sentences(comparison),
        facts=_facts(comparison),
        baseline=comparison.baseline or "",
        confidence=f"{100 * comparison.confidence:g}%",
        reach=reach,
        test=comparison.against[0].pooled.test if comparison.against else "",
        arms=tuple(
            row(arm, arm.pooled, against[arm.arm].pooled if arm.arm in against else None, reach)
            for arm in comparison.arms
        ),
        outcomes=tuple(o.value for o in Outcome if any(o in arm.pooled.outcomes for arm in comparison.arms)),
        tasks=tuple(
            TaskBlock(
                env_id,
                tuple(
                    row(arm, arm.tasks[env_id], paired(arm.arm, env_id), 100)
                    for arm in comparison.arms
                    if env_id in arm.tasks
                ),
            )
            for env_id in comparison.env_ids
        ),
        against=tuple(_against(one, colours[one.arm], comparison.baseline or "") for one in comparison.against),
        provenance=_provenance(comparison.arms),
        seeds=tuple((env_id, ranges(seeds), len(seeds)) for env_id, seeds in comparison.seeds.items()),
    )


def ranges(seeds: Sequence[int]) -> str:
    """Return ascending integers as runs: ``3, 5–8``."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def _sentences(comparison: Comparison) -> tuple[Sentence, ...]:
    findings = [finding(one.pooled) for one in comparison.against]
    tones = [(TONES[found], GLYPHS[found]) for found in findings] or [("plain", "●")] * len(comparison.arms)
    return tuple(
        Sentence(each.claim, each.evidence, tone, glyph)
        for each, (tone, glyph) in zip(statements(comparison), tones, strict=True)
    )


def _facts(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    per_task = sorted({len(seeds) for seeds in comparison.seeds.values()})
    span = f"{per_task[0]}" if len(per_task) == 1 else f"{per_task[0]}–{per_task[-1]}"
    errors = sum(arm.pooled.outcomes.get(Outcome.ERROR, 0) for arm in comparison.arms)
    return (
        ("arms" if len(comparison.arms) > 1 else "arm", str(len(comparison.arms))),
        ("tasks" if len(comparison.env_ids) > 1 else "task", str(len(comparison.env_ids))),
        ("seeds a task", span),
        ("episodes", str(sum(arm.pooled.n for arm in comparison.arms))),
        ("ended in error", str(errors)),
    )


def _rate(rate: Interval) -> Track:
    return Track(100 * rate.point, 100 * rate.lower, 100 * rate.upper, percent(rate))


def _reach(differences: Iterable[Interval]) -> int:
    widest = max((max(abs(d.lower), abs(d.upper)) for d in differences), default=0.1)
    return min(100, max(10, 10 * ceil(10 * widest)))


def _effect(result: PairedResult, reach: int) -> Effect:
    def place(rate: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, 100 * rate / reach))

    d, found = result.difference, finding(result)
    track = Track(place(d.point), place(d.lower), place(d.upper), points(d))
    return Effect(
        track,
        TONES[found],
        GLYPHS[found],
        found.value,
        f"p {p_text(result.p_adjusted)}".replace(" ", "\N{NO-BREAK SPACE}"),
    )


def _against(one: ArmComparison, colour: int, baseline: str) -> AgainstBlock:
    return AgainstBlock(
        arm=one.arm,
        colour=colour,
        won=one.pooled.won,
        lost=one.pooled.lost,
        tasks=tuple(SeedBlock(env_id, p.n, p.won, p.lost, p.both, p.neither) for env_id, p in one.seeds.items()),
        unpaired=tuple(
            f"{entry.env_id}: only {who} ran seed{'' if len(seeds) == 1 else 's'} {ranges(seeds)}"
            for entry in one.unpaired
            for who, seeds in ((one.arm, entry.only_arm), (baseline, entry.only_baseline))
            if seeds
        ),
    )


def _provenance(arms: Sequence[ArmResult]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    declared = list(Provenance.model_fields)
    extra = sorted({key for arm in arms for one in arm.provenance for key in (one.model_extra or {})})

    def cell(arm: ArmResult, key: str) -> str:
        values = (str(getattr(one, key, "") or "") for one in arm.provenance)
        return "; ".join(dict.fromkeys(value for value in values if value)) or "not recorded"

    table = [(key, tuple(cell(arm, key) for arm in arms)) for key in (*declared, *extra)]
    return (*table, ("episodes", tuple(str(arm.pooled.n) for arm in arms)))
