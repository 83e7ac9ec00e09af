"""From episodes to a comparison: pair strictly by task and seed, count everything, test what is paired."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from failwise.errors import DataError
from failwise.evaluate.records import (
    ArmComparison,
    ArmResult,
    Comparison,
    PairedResult,
    SeedPairs,
    TaskResult,
    Unpaired,
)
from failwise.evaluate.sequential import anytime_difference, anytime_mcnemar, fewest_pairs
from failwise.evaluate.statistics import (
    clopper_pearson,
    holm,
    mcnemar_exact,
    paired_difference,
    pairs_needed,
)
from failwise.types import EpisodeMeta, Outcome

TARGET_DIFFERENCE = 0.10  # the effect that a verdict of "cannot tell" plans for
TARGET_POWER = 0.8

Grid = Mapping[tuple[str, int], EpisodeMeta]  # (env_id, env_seed) -> episode


@runtime_checkable
class HasMetas(Protocol):
    """An episode store, as far as a comparison cares."""

    def metas(self) -> list[EpisodeMeta]:
        """The metadata of every committed episode."""
        ...


Episodes = HasMetas | Iterable[EpisodeMeta | HasMetas]


def compare(
    metas: Episodes, baseline: str, *, arms: Sequence[str] | None = None, confidence: float = 0.95,
    anytime: bool = False,
) -> Comparison:  # fmt: skip
    """Compare every arm with the baseline on the seeds that both have.

    Episodes pair by (env_id, env_seed) and by nothing else. Only the outcome ``success`` counts as success:
    an ``error`` or ``aborted`` episode is counted, shown, and held against its arm, so that crashing cannot
    help.

    Args:
        metas: episode records, or episode stores, or a mixture.
        baseline: the arm that the others are compared with.
        arms: which other arms to compare, in this order; None takes all, sorted by name.
        confidence: level of the intervals; tests reject at ``1 - confidence``.
        anytime: use the test and the interval that stay valid when the number of pairs depended on their outcomes.

    Raises:
        DataError: no such arm, two episodes of one arm on one task and seed, no common seed, or too few
            pairs for any verdict.
    """
    grids = _by_arm(metas)
    others = sorted(set(grids) - {baseline}) if arms is None else [arm for arm in arms if arm != baseline]
    for arm in (baseline, *others):
        if arm not in grids:
            raise DataError(f"no episode of the arm {arm!r}; the episodes are of: {', '.join(sorted(grids))}")
    drafts = [_against(arm, grids[arm], grids[baseline], confidence, anytime) for arm in others]
    adjusted = holm([draft.pooled.p_value for draft in drafts])
    against = tuple(
        draft.model_copy(update={"pooled": _adjust(draft.pooled, p, len(drafts))})
        for draft, p in zip(drafts, adjusted, strict=True)
    )
    chosen = {arm: grids[arm] for arm in (baseline, *others)}
    return Comparison(
        baseline=baseline,
        confidence=confidence,
        arms=tuple(_arm_result(arm, grid, confidence) for arm, grid in chosen.items()),
        against=against,
        seeds=_seeds(chosen.values()),
    )


def describe(metas: Episodes, *, confidence: float = 0.95) -> Comparison:
    """Every arm by itself, nothing compared: for episodes that have no baseline.

    Raises:
        DataError: no episode, or two episodes of one arm on one task and seed.
    """
    grids = _by_arm(metas)
    return Comparison(
        baseline=None,
        confidence=confidence,
        arms=tuple(_arm_result(arm, grids[arm], confidence) for arm in sorted(grids)),
        seeds=_seeds(grids.values()),
    )


def _by_arm(episodes: Episodes) -> dict[str, dict[tuple[str, int], EpisodeMeta]]:
    grids: dict[str, dict[tuple[str, int], EpisodeMeta]] = defaultdict(dict)
    for source in [episodes] if isinstance(episodes, HasMetas) else episodes:
        for meta in source.metas() if isinstance(source, HasMetas) else [source]:
            key = (meta.env_id, meta.env_seed)
            other = grids[meta.arm].get(key)
            if other is not None:
                raise DataError(
                    f"two episodes of the arm {meta.arm!r} on {meta.env_id} seed {meta.env_seed} "
                    f"({other.episode_id}, {meta.episode_id}): pairing needs one; "
                    "give the runs different arm names or leave one out"
                )
            grids[meta.arm][key] = meta
    if not grids:
        raise DataError("no episodes to compare: collect or evaluate first")
    return dict(grids)


def _seeds(grids: Iterable[Grid]) -> dict[str, tuple[int, ...]]:
    keys = sorted({key for grid in grids for key in grid})
    found: dict[str, list[int]] = defaultdict(list)
    for env_id, seed in keys:
        found[env_id].append(seed)
    return {env_id: tuple(seeds) for env_id, seeds in found.items()}


def _task_result(metas: Sequence[EpisodeMeta], confidence: float) -> TaskResult:
    counts = Counter(meta.outcome for meta in metas)
    successes = counts[Outcome.SUCCESS]
    return TaskResult(
        n=len(metas),
        successes=successes,
        outcomes={outcome: counts[outcome] for outcome in Outcome if counts[outcome]},
        rate=clopper_pearson(successes, len(metas), confidence),
    )


def _arm_result(arm: str, grid: Grid, confidence: float) -> ArmResult:
    by_task: dict[str, list[EpisodeMeta]] = defaultdict(list)
    for (env_id, _), meta in sorted(grid.items()):
        by_task[env_id].append(meta)
    origins = {meta.provenance.model_dump_json(): meta.provenance for _, meta in sorted(grid.items())}
    return ArmResult(
        arm=arm,
        tasks={env_id: _task_result(metas, confidence) for env_id, metas in by_task.items()},
        pooled=_task_result(list(grid.values()), confidence),
        provenance=tuple(origins.values()),
    )


def _against(arm: str, grid: Grid, base: Grid, confidence: float, anytime: bool) -> ArmComparison:
    cells: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for env_id, seed in sorted(grid.keys() & base.keys()):
        mine = grid[env_id, seed].outcome == Outcome.SUCCESS
        theirs = base[env_id, seed].outcome == Outcome.SUCCESS
        cell = ("both" if theirs else "won") if mine else ("lost" if theirs else "neither")
        cells[env_id][cell].append(seed)
    seeds = {env_id: SeedPairs.model_validate(found) for env_id, found in cells.items()}
    _require_pairs(sum(pairs.n for pairs in seeds.values()), arm, confidence, anytime)
    tasks = {env_id: _paired([pairs], confidence, anytime) for env_id, pairs in seeds.items()}
    adjusted = holm([result.p_value for result in tasks.values()])
    return ArmComparison(
        arm=arm,
        pooled=_paired(list(seeds.values()), confidence, anytime),
        tasks={e: _adjust(r, p, len(tasks)) for (e, r), p in zip(tasks.items(), adjusted, strict=True)},
        seeds=seeds,
        unpaired=_unpaired(grid, base),
    )


def _require_pairs(n: int, arm: str, confidence: float, anytime: bool) -> None:
    least = fewest_pairs(1 - confidence, anytime)
    if n < least:
        raise DataError(
            f"{n} paired episode{'' if n == 1 else 's'} of {arm!r} and the baseline: too few for any "
            f"verdict, since its test needs at least {least}; "
            "run both on the same tasks with more seeds (100 a task is a good start)"
        )


def _paired(pairs: Sequence[SeedPairs], confidence: float, anytime: bool) -> PairedResult:
    won, lost = sum(len(p.won) for p in pairs), sum(len(p.lost) for p in pairs)
    n = sum(p.n for p in pairs)
    test = (anytime_mcnemar if anytime else mcnemar_exact)(lost, won)
    # One pseudo-pair of each kind keeps a plan from resting on an observed share of zero.
    discordant = max((won + lost + 2) / (n + 4), TARGET_DIFFERENCE)
    return PairedResult(
        n=n,
        won=won,
        lost=lost,
        both=sum(len(p.both) for p in pairs),
        neither=sum(len(p.neither) for p in pairs),
        difference=(anytime_difference if anytime else paired_difference)(lost, won, n, confidence),
        test=test.method,
        p_value=test.p_value,
        p_adjusted=test.p_value,
        family=1,
        target_difference=TARGET_DIFFERENCE,
        pairs_needed=pairs_needed(TARGET_DIFFERENCE, round(discordant, 2), TARGET_POWER, round(1 - confidence, 12)),
    )


def _adjust(result: PairedResult, p_adjusted: float, family: int) -> PairedResult:
    return result.model_copy(update={"p_adjusted": p_adjusted, "family": family})


def _unpaired(grid: Grid, base: Grid) -> tuple[Unpaired, ...]:
    only_arm, only_baseline = grid.keys() - base.keys(), base.keys() - grid.keys()
    return tuple(
        Unpaired(
            env_id=env_id,
            only_arm=tuple(sorted(seed for e, seed in only_arm if e == env_id)),
            only_baseline=tuple(sorted(seed for e, seed in only_baseline if e == env_id)),
        )
        for env_id in sorted({e for e, _ in only_arm | only_baseline})
    )
