"""Every detector on the same recorded episodes: fitted on some tasks, judged on others.

Tasks are dealt into folds; each fold's tasks are *unseen* once. Of the other, *seen* tasks 60% of the episodes fit the
detector, the successes of 20% calibrate its band, and 20% are for the test. (SAFE, arXiv 2506.09937, holds out 30% of
the tasks and fits on 60% of the seen episodes; folds make every task unseen once.)
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from failwise import registry
from failwise.detect import Detector, Trace, calibrate, make_detector, score_recorded, score_trace, smallest_n
from failwise.detect.trace import checkpoint
from failwise.errors import DataError
from failwise.evaluate.detection import (
    Scored,
    alarms,
    at_earliest_stop,
    early_auc,
    over_folds,
    over_length,
    over_tasks,
    pr_auc,
    roc_auc,
    roc_aucs,
    timestep_accuracy,
    within_tasks_of,
)
from failwise.rollout.progress import track

ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
EARLY = (0.25, 0.5, 0.75)
FIGURES = 2  # counts up when a row's figures change: kept rows of before are measured again


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
            for failed in (False, True):
                rows = [i for i, t in enumerate(traces) if t.meta.env_id == task and t.failed == failed]
                rows = [rows[i] for i in random.permutation(len(rows))]
                a, b = round(0.6 * len(rows)), round(0.8 * len(rows))
                for part, more in zip(parts, (rows[:a], rows[a:b], rows[b:]), strict=True):
                    part.extend(more)
        unseen = tuple(i for i, t in enumerate(traces) if t.meta.env_id in unseen_tasks)
        fit, middle, seen = (tuple(sorted(p)) for p in parts)
        out.append(Split(fit, tuple(i for i in middle if not traces[i].failed), seen, unseen))
    return out


def usable(traces: Sequence[Trace], names: Sequence[str]) -> list[str]:
    """The detectors whose needs these episodes meet: sampled chunks, or the scalars that some detectors read."""
    out = []
    for name in names:
        kind = registry.load("detector", _plain(name))
        scalar = getattr(kind, "scalar", None)
        if kind.needs_samples and any(t.samples is None for t in traces):
            continue
        if scalar is not None and any(scalar not in t.info for t in traces):
            continue
        out.append(name)
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
    return found["figures"] if found["request"] == request else None


def _keep(scratch: Path | None, name: str, request: str, row: Mapping[str, Any]) -> None:
    if scratch:
        scratch.mkdir(parents=True, exist_ok=True)
        half = scratch / f"{name}.tmp"
        half.write_text(json.dumps({"request": request, "figures": row}), encoding="utf-8")
        half.replace(scratch / f"{name}.json")


def _one(
    traces: Sequence[Trace], name: str, folds: Sequence[Split], options: BenchOptions, demonstrations: Sequence[Trace]
) -> dict[str, Any]:
    if features := options.features.get(name, ""):
        traces, demonstrations = ([t.only(features) for t in some] for some in (traces, demonstrations))
    seen: list[list[Scored]] = []
    unseen: list[list[Scored]] = []
    alarm_rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    for number, fold in enumerate(folds):
        detector = make_detector(_plain(name), **options.options.get(name, {}))
        detector.fit([traces[i] for i in fold.fit], seed=options.seed + number, demonstrations=demonstrations)
        seen.append(_scored(detector, [traces[i] for i in fold.seen]))
        unseen.append(_scored(detector, [traces[i] for i in fold.unseen]))
        successes = [traces[i] for i in fold.calibrate]
        scores = [score_trace(detector, t) for t in successes]
        possible = [a for a in sorted({*ALPHAS, options.alpha}) if len(successes) > smallest_n(a)]
        for kind in ("functional", "constant"):
            for alpha in possible:
                monitor = calibrate(detector, successes, alpha, kind=kind, scores=scores)
                for part, episodes in (("seen", seen[-1]), ("unseen", unseen[-1])):
                    found = alarms(episodes, lambda task: monitor.bands[""])  # noqa: B023 - called at once
                    alarm_rows.append({"kind": kind, "alpha": alpha, "part": part, "fold": number, **asdict(found)})
    return {
        "seen": _figures(seen, options),
        "unseen": _figures(unseen, options),
        "alarms": alarm_rows,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _scored(detector: Detector, traces: Sequence[Trace]) -> list[Scored]:
    return [Scored(t.meta.env_id, t.failed, score_recorded(detector, t)) for t in traces]


def _figures(folds: Sequence[Sequence[Scored]], options: BenchOptions) -> dict[str, Any]:
    """ROC-AUC within tasks and pooled and PR-AUC at both ends, early detection, and accuracy a step."""
    cut = [at_earliest_stop(fold) for fold in folds]
    keywords = {"repeats": options.repeats, "seed": options.seed}

    def steps(fold: Sequence[Scored]) -> float:
        values = np.concatenate([e.scores for e in fold])
        return timestep_accuracy(fold, np.quantile(values, np.linspace(0, 1, 101)))

    out: dict[str, Any] = {
        end: {
            "within_tasks": asdict(over_tasks(which, within_tasks_of, **keywords)),
            "roc_auc": asdict(over_tasks(which, roc_aucs, **keywords)),
            "pr_auc": asdict(over_folds(which, pr_auc)),
        }
        for end, which in (("final", folds), ("earliest", cut))
    }
    out["earliest"]["over_length"] = asdict(over_length(cut, **keywords))
    for share in EARLY:
        found = over_folds(folds, partial(early_auc, share=share))
        out.setdefault("early", {})[f"{share:g}"] = asdict(found)
    out["timestep_accuracy"] = asdict(over_folds(cut, steps))
    out["by_task"] = {
        task: roc_auc([e for e in fold if e.task == task]) for fold in cut for task in sorted({e.task for e in fold})
    }
    return out
