"""Every detector on the same recorded episodes: fitted on some tasks, judged on others.

Tasks are dealt into folds; each fold's tasks are *unseen* once. Of the other, *seen* tasks 60% of the episodes fit the
detector, the successes of 20% calibrate its band, and 20% are for the test. (SAFE, arXiv 2506.09937, holds out 30% of
the tasks and fits on 60% of the seen episodes; folds make every task unseen once.)
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.detect import Detector, Trace, calibrate, make_detector, score_recorded, smallest_n
from failwise.detect.trace import checkpoint, known_onset
from failwise.errors import DataError
from failwise.evaluate.detection import (
    Counts,
    Scored,
    alarms,
    at_earliest_stop,
    pr_aucs,
    roc_auc,
    roc_aucs,
    shortest_of,
    timestep_accuracies,
    within_tasks_of,
)
from failwise.evaluate.over_tasks import Figure, over_length, over_tasks
from failwise.rollout.progress import track
from failwise.types import EpisodeMeta, Outcome

ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
EARLY = (0.25, 0.5, 0.75)
BANDS = ("functional", "constant")
FIGURES = 3  # counts up when a row's figures change: kept rows of before are measured again


@dataclass(frozen=True)
class Split:
    """One fold's episodes, by index."""

    fit: tuple[int, ...]
    calibrate: tuple[int, ...]
    seen: tuple[int, ...]
    unseen: tuple[int, ...]


@dataclass(frozen=True)
class BenchOptions:
    """How detectors are compared."""

    folds: int = 3
    """Folds of tasks; each task is unseen in one of them."""
    alpha: float = 0.1
    """Rate of false alarms of the bands, over episodes."""
    seed: int = 0
    """Of folds, fits and intervals."""
    repeats: int = 500
    """Bootstrap samples of each interval."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of a detector, by its name; NAME@LABEL is the same detector with other options, for comparison."""
    features: Mapping[str, str] = field(default_factory=dict)
    """Which of the recorded features a detector reads, by its name; those that are not named read all."""


def splits(traces: Sequence[Trace], folds: int, seed: int) -> list[Split]:
    """Folds of tasks, and inside the seen tasks 60 / 20 / 20% of each task's failures and successes.

    Raises:
        DataError: fewer than two tasks a fold.
    """
    random = np.random.default_rng(seed)
    tasks = sorted({t.meta.env_id for t in traces})
    if folds < 2 or len(tasks) < 2 * folds:
        raise DataError(
            f"{len(tasks)} tasks cannot be dealt into {folds} folds of at least 2 unseen ones; collect more tasks"
        )
    dealt = [set(part) for part in np.array_split(random.permutation(tasks), folds)]
    out = []
    for unseen_tasks in dealt:
        parts: tuple[list[int], list[int], list[int]] = ([], [], [])
        for task in tasks:
            if task in unseen_tasks:
                continue
            layouts: dict[int, list[int]] = {}
            for i, t in enumerate(traces):
                if t.meta.env_id == task:
                    layouts.setdefault(t.meta.env_seed, []).append(i)
            for failed in (False, True):
                # Episodes of one layout stay together: what was fitted on one of them knows the other.
                units = [rows for rows in layouts.values() if traces[rows[0]].failed == failed]
                units = [units[i] for i in random.permutation(len(units))]
                a, b = round(0.6 * len(units)), round(0.8 * len(units))
                for part, more in zip(parts, (units[:a], units[a:b], units[b:]), strict=True):
                    part.extend(i for rows in more for i in rows)
        unseen = tuple(i for i, t in enumerate(traces) if t.meta.env_id in unseen_tasks)
        fit, middle, seen = (tuple(sorted(p)) for p in parts)
        out.append(Split(fit, tuple(i for i in middle if not traces[i].failed), seen, unseen))
    return out


def usable(traces: Sequence[Trace], names: Sequence[str]) -> list[str]:
    """The detectors whose needs these episodes meet: sampled chunks, or the scalars that some detectors read.

    Raises:
        DataError: not one can be fitted on them, with the last one's reason.
    """
    out, reason = [], None
    for name in names:
        try:
            make_detector(_plain(name)).check(traces)
        except DataError as error:
            reason = error
            continue
        out.append(name)
    if reason is not None and not out:
        raise reason
    return out


def _plain(name: str) -> str:
    """The detector that a name with a label stands for."""
    return name.partition("@")[0]


def bench(
    traces: Sequence[Trace], names: Sequence[str], options: BenchOptions | None = None, *,
    demonstrations: Sequence[Trace] = (), scratch: Path | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Fit, score and judge every detector; returns JSON-able figures.

    Args:
        traces: episodes of one policy on several tasks, both outcomes.
        names: detectors, as in the registry, or with a label after "@".
        options: how.
        demonstrations: what the policy was trained on, of all tasks, for the detectors that use them.
        scratch: folder for each detector's figures; those found there for the same episodes and options are taken.
        quiet: show no progress.

    Raises:
        DataError: too few tasks, or a detector cannot be fitted on these episodes.
    """
    options = options or BenchOptions()
    folds = splits(traces, options.folds, options.seed)
    fewest = min(len(fold.calibrate) for fold in folds)
    if fewest < (needed := smallest_n(options.alpha) + 1):
        raise DataError(
            f"{fewest} calibration successes in a fold bound no false-alarm rate of {options.alpha:g}: at least "
            f"{needed} are needed; collect more episodes, or ask for a larger alpha"
        )
    for name in names:  # before the first one is measured, which may take minutes
        detector = make_detector(_plain(name), **options.options.get(name, {}))
        if features := options.features.get(name, ""):
            traces[0].only(features)
        for fold in folds:
            detector.check([traces[i] for i in fold.fit], demonstrations)
    kept = {name: _kept(scratch, name, _request(name, traces, options, demonstrations)) for name in names}
    missing = [name for name in names if kept[name] is None]

    def measure() -> Iterator[tuple[str, dict[str, Any]]]:
        for name in missing:
            yield name, _one(traces, name, folds, options, demonstrations)

    done = len(names) - len(missing)
    shown = track(measure(), total=len(names), done=done, title="detectors", quiet=quiet, outcomes=False)
    for name, row in shown:
        kept[name] = row
        _keep(scratch, name, _request(name, traces, options, demonstrations), row)
    rows = {name: row for name, row in kept.items() if row is not None}
    return {
        "episodes": len(traces),
        "failures": sum(t.failed for t in traces),
        "outcomes": dict(sorted(Counter(t.meta.outcome.value for t in traces).items())),
        "tasks": sorted({t.meta.env_id for t in traces}),
        "folds": [sorted({traces[i].meta.env_id for i in fold.unseen}) for fold in folds],
        "alpha": options.alpha,
        "calibration_successes": [len(fold.calibrate) for fold in folds],
        "detectors": rows,
    }


def _request(name: str, traces: Sequence[Trace], options: BenchOptions, demonstrations: Sequence[Trace]) -> str:
    """What a detector's figures depend on, as a digest."""
    chosen = [name, options.options.get(name, {}), options.folds, options.alpha, options.seed, options.repeats]
    episodes = sorted(f"{t.meta.episode_id} {t.meta.outcome} {len(t)} {t.pooling} {checkpoint(t.meta)}" for t in traces)
    known: list[str] = []
    if make_detector(_plain(name), **options.options.get(name, {})).uses_demonstrations:
        known = sorted(f"{t.meta.episode_id} {len(t)} {t.pooling}" for t in demonstrations)
    about = [FIGURES, chosen, options.features.get(name, ""), episodes, known]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _kept(scratch: Path | None, name: str, request: str) -> dict[str, Any] | None:
    path = scratch / f"{name}.json" if scratch else None
    if path is None or not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return with_null(found["figures"], float("nan")) if found["request"] == request else None


def _keep(scratch: Path | None, name: str, request: str, row: Mapping[str, Any]) -> None:
    if scratch:
        scratch.mkdir(parents=True, exist_ok=True)
        half = scratch / f"{name}.tmp"
        half.write_text(json.dumps({"request": request, "figures": with_null(row)}, allow_nan=False), encoding="utf-8")
        half.replace(scratch / f"{name}.json")


def with_null(figures: Any, null: float | None = None) -> Any:
    """Figures with null instead of NaN, which JSON does not have; with ``null`` NaN, the other way round."""
    if isinstance(figures, Mapping):
        return {key: with_null(value, null) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [with_null(value, null) for value in figures]
    undefined = figures is None or (isinstance(figures, float) and math.isnan(figures))
    return null if undefined else figures


def _one(
    traces: Sequence[Trace], name: str, folds: Sequence[Split], options: BenchOptions, demonstrations: Sequence[Trace]
) -> dict[str, Any]:
    if features := options.features.get(name, ""):
        traces, demonstrations = ([t.only(features) for t in some] for some in (traces, demonstrations))
    shortest = shortest_of((t.meta.env_id, len(t)) for t in traces)
    seen: list[list[Scored]] = []
    unseen: list[list[Scored]] = []
    raised: dict[str, dict[str, list[tuple[Scored, int | None]]]] = {k: {"seen": [], "unseen": []} for k in BANDS}
    alarm_rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    for number, fold in enumerate(folds):
        detector = make_detector(_plain(name), **options.options.get(name, {}))
        detector.fit([traces[i] for i in fold.fit], seed=options.seed + number, demonstrations=demonstrations)
        seen.append(_scored(detector, [traces[i] for i in fold.seen]))
        unseen.append(_scored(detector, [traces[i] for i in fold.unseen]))
        successes = [traces[i] for i in fold.calibrate]
        scores = [score_recorded(detector, t) for t in successes]
        possible = [a for a in sorted({*ALPHAS, options.alpha}) if len(successes) > smallest_n(a)]
        for kind in BANDS:
            for alpha in possible:
                band = calibrate(detector, successes, alpha, kind=kind, scores=scores).bands[""]
                for part, episodes in (("seen", seen[-1]), ("unseen", unseen[-1])):
                    found = alarms(episodes, lambda task: band)  # noqa: B023 - called at once
                    alarm_rows.append({"kind": kind, "alpha": alpha, "part": part, "fold": number, **asdict(found)})
                    if alpha == options.alpha:
                        raised[kind][part] += [(e, band.first_alarm(e.scores)) for e in episodes]
    metas = {t.meta.episode_id: t.meta for t in traces}
    return {
        "seen": _figures(seen, shortest, options),
        "unseen": _figures(unseen, shortest, options),
        "alarms": alarm_rows,
        "rates": {kind: {part: _rates(at, options) for part, at in parts.items()} for kind, parts in raised.items()},
        "delay": {kind: {part: _delay(at, metas) for part, at in parts.items()} for kind, parts in raised.items()},
        "seconds": round(time.perf_counter() - start, 1),
    }


def _scored(detector: Detector, traces: Sequence[Trace]) -> list[Scored]:
    return [
        Scored(
            t.meta.env_id, t.failed, score_recorded(detector, t), t.meta.episode_id, t.meta.outcome == Outcome.TIMEOUT
        )
        for t in traces
    ]


def _figures(folds: Sequence[Sequence[Scored]], shortest: Mapping[str, int], options: BenchOptions) -> dict[str, Any]:
    """ROC-AUC within tasks and pooled and PR-AUC at both ends, early detection, and accuracy a step."""
    cut = [at_earliest_stop(fold, shortest) for fold in folds]

    def over(some: Sequence[Sequence[Scored]], figure: Figure) -> dict[str, Any]:
        return asdict(over_tasks(some, figure, repeats=options.repeats, seed=options.seed))

    def steps(fold: Sequence[Scored], counts_RM: Counts) -> NDArray[np.float64]:
        values = np.concatenate([e.scores for e in fold])
        return timestep_accuracies(fold, counts_RM, np.quantile(values, np.linspace(0, 1, 101)))

    figures: dict[str, Figure] = {"within_tasks": within_tasks_of, "roc_auc": roc_aucs, "pr_auc": pr_aucs}
    out: dict[str, Any] = {
        end: {name: over(which, figure) for name, figure in figures.items()}
        for end, which in (("final", folds), ("earliest", cut))
    }
    out["earliest"]["over_length"] = asdict(over_length(cut, repeats=options.repeats, seed=options.seed))
    out["early"] = {f"{s:g}": over([at_earliest_stop(f, shortest, s) for f in folds], roc_aucs) for s in EARLY}
    out["timestep_accuracy"] = over(cut, steps)
    lost = [e for fold in cut for e in fold if e.failed]
    if any(e.timed_out for e in lost) and not all(e.timed_out for e in lost):
        # Running out of time and doing harm are different failures: each against the successes.
        out["apart"] = {
            name: over([[e for e in fold if not e.failed or e.timed_out == late] for fold in cut], roc_aucs)
            for name, late in (("failure", False), ("timeout", True))
        }
    out["by_task"] = {
        task: roc_auc([e for e in fold if e.task == task]) for fold in cut for task in sorted({e.task for e in fold})
    }
    return out


def _rates(raised: Sequence[tuple[Scored, int | None]], options: BenchOptions) -> dict[str, Any]:
    """Share of the successes and of the failures with an alarm, all folds together."""
    out = {}
    for name, failed in (("false_alarms", False), ("detected", True)):
        some = [(e, at is not None) for e, at in raised if e.failed == failed]
        if not some:
            continue
        alarmed_M = np.array([at for _, at in some], np.float64)

        def share(episodes: Sequence[Scored], counts_RM: Counts, alarmed_M: NDArray[Any] = alarmed_M) -> NDArray[Any]:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray((counts_RM @ alarmed_M) / counts_RM.sum(1), np.float64)

        found = over_tasks([[e for e, _ in some]], share, repeats=options.repeats, seed=options.seed)
        out[name] = asdict(found)
    return out


def _delay(raised: Sequence[tuple[Scored, int | None]], metas: Mapping[str, EpisodeMeta]) -> dict[str, Any]:
    """From a known onset to the alarm, over detected failures that have one; alarms before it are counted apart."""
    late = []
    for e, at in raised:
        onset = known_onset(metas[e.episode])
        if e.failed and at is not None and onset is not None:
            late.append((at - onset, (at - onset) / metas[e.episode].control_hz))
    after = [one for one in late if one[0] >= 0]
    out: dict[str, Any] = {"n": len(late), "before_onset": len(late) - len(after)}
    if after:
        out |= {"median_steps": float(np.median([a[0] for a in after]))}
        out |= {"median_s": round(float(np.median([a[1] for a in after])), 3)}
    return out
