"""A detector with its bands: the word on every step of a running episode."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.detect.base import Detector, score_trace
from failwise.detect.conformal import Band, Shift, constant_band, functional_band, smallest_n
from failwise.detect.thresholds import Costs, Spending, fewest_successes, learn_spending, spending_band
from failwise.detect.trace import Moment, Trace
from failwise.errors import CheckpointError, DataError, SetupError
from failwise.types import Verdict

KINDS = {"functional": functional_band, "constant": constant_band}


class Monitor:
    """Says at every step whether an alarm is due; once raised, an alarm stays for the episode.

    Args:
        detector: fitted.
        bands: by task; "" judges all tasks without one of their own.
    """

    def __init__(self, detector: Detector, bands: Mapping[str, Band]) -> None:
        if "" not in bands:
            raise SetupError("a monitor needs a pooled band under the name ''")
        self.detector, self.bands = detector, dict(bands)
        self.reset("")

    def reset(self, task: str = "") -> None:
        """Start an episode of a task."""
        self.detector.reset()
        self.band = self.bands.get(task, self.bands[""])
        self.alarmed_at: int | None = None

    def update(self, moment: Moment) -> Verdict:
        """The verdict after this step's observation."""
        score, bound = self.detector.update(moment), self.band.upper(moment.step)
        if self.alarmed_at is None and self.band.crossed(moment.step, score):
            self.alarmed_at = moment.step
        return Verdict(score, bound, self.alarmed_at is not None, moment.step)

    def save(self, folder: Path) -> None:
        """Write the detector and bands.json."""
        self.detector.save(folder)
        rows = {task: _band_json(band) for task, band in self.bands.items()}
        (folder / "bands.json").write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, detector: Detector) -> Monitor:
        """With the bands that were saved beside the detector.

        Raises:
            CheckpointError: there are none, or they are damaged.
        """
        try:
            rows = json.loads((folder / "bands.json").read_text(encoding="utf-8"))
            bands = {task: _band_from(row) for task, row in rows.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder} holds no usable bands ({error}); calibrate with: failwise detect fit"
            ) from error
        return cls(detector, bands)


def check_calibration(successes: int, alpha: float, kind: str = "functional") -> None:
    """Refuse what no band can be made of, before anything long is done for it.

    Args:
        successes: how many there are to calibrate on.
        alpha: rate of false alarms over episodes.
        kind: "functional" or "constant".

    Raises:
        SetupError: no such band, or alpha is no rate. DataError: too few successes for any finite bound.
    """
    if kind not in KINDS:
        raise SetupError(f"unknown band {kind!r}; choose functional or constant")
    needed = smallest_n(alpha) + (kind == "functional")
    if successes < needed:
        counted = successes - (kind == "functional")
        # Rounded up: the alpha that is named must be enough.
        instead = f", or ask for alpha {math.ceil(1e3 / (counted + 1)) / 1e3:g} or more" if counted > 0 else ""
        raise DataError(
            f"{successes} calibration successes bound no false-alarm rate of {alpha:g}: at least {needed} are "
            f"needed; collect more{instead}"
        )


def calibrate(
    detector: Detector, successes: Sequence[Trace], alpha: float, *, kind: str = "functional", per_task: bool = False,
    seed: int = 0, scores: Sequence[NDArray[np.float64]] | None = None, shift: Shift | None = None,
) -> Monitor:  # fmt: skip
    """Bands from successes that the detector was not fitted on.

    Args:
        detector: fitted on other episodes.
        successes: the calibration episodes.
        alpha: rate of false alarms over episodes.
        kind: "functional" or "constant".
        per_task: also a band of its own for every task that has enough successes for a finite one. The band of the
            other tasks then rests on their successes alone, since alpha is to hold over them too; where these are too
            few for that, it rests on all and alpha is not promised there (its ``n`` is then that of all).
        seed: of the functional band's split.
        scores: ``score_trace`` of each success, for several bands on the same; computed where not given.
        shift: where the episodes to come are distributed otherwise (``shift_towards``); not with ``per_task``.

    Raises:
        DataError: an episode that failed, too few successes for any finite bound, or too few that are like the episodes
            to come.
    """
    if shift is not None and (per_task or len(shift.weights) != len(successes)):
        raise SetupError("a shift has one weight a success, and is for one band of all tasks")
    if wrong := [t for t in successes if t.failed]:
        raise DataError(f"{wrong[0].meta.episode_id} is no success: a band is calibrated on successes only")
    check_calibration(len(successes), alpha, kind)
    needed = smallest_n(alpha) + (kind == "functional")
    scored = [score_trace(detector, t) for t in successes] if scores is None else scores

    def fit(rows: Sequence[int], task: str) -> Band:
        chosen = [scored[i] for i in rows]
        if kind == "functional":
            return functional_band(chosen, alpha, seed=seed, task=task, shift=shift)
        return constant_band(chosen, alpha, task=task, shift=shift)

    bands: dict[str, Band] = {}
    others: list[int] = []
    for task in sorted({t.meta.env_id for t in successes}) if per_task else []:
        rows = [i for i, t in enumerate(successes) if t.meta.env_id == task]
        if len(rows) >= needed:
            bands[task] = fit(rows, task)
        else:
            others += rows
    bands[""] = fit(others if len(others) >= needed else range(len(scored)), "")
    if shift is not None and bands[""].vacuous:
        raise DataError(
            f"{len(successes)} calibration successes count as {bands[''].n} that are like the episodes to come: too "
            f"few for a false-alarm rate of {alpha:g} there; calibrate on successes that are more like them"
        )
    return Monitor(detector, bands)


def calibrate_by_cost(
    detector: Detector, tuning: Sequence[Trace], successes: Sequence[Trace], alpha: float, costs: Costs, *,
    phases: int = 4, seed: int = 0,
) -> tuple[Monitor, Spending]:  # fmt: skip
    """A monitor whose thresholds and reactions by phase cost least; see ``failwise.detect.thresholds``.

    Args:
        detector: fitted on other episodes.
        tuning: episodes of both outcomes to learn from.
        successes: other episodes, to calibrate on.
        alpha: largest rate of false alarms over successes.
        costs: what goes wrong costs.
        phases: of an episode.
        seed: of the split of the tuning episodes.

    Raises:
        DataError: an episode that failed among the successes, or too few of any kind.
    """
    if wrong := [t for t in successes if t.failed]:
        raise DataError(f"{wrong[0].meta.episode_id} is no success: a band is calibrated on successes only")
    scored = [(score_trace(detector, t), t.failed) for t in tuning]
    spending = learn_spending(scored, costs, alpha, phases=phases, seed=seed)
    if len(successes) < (needed := fewest_successes(spending)):
        raise DataError(
            f"{len(successes)} calibration successes: the learned shares of alpha {spending.alphas} need at least "
            f"{needed}; collect more, or ask for a larger alpha"
        )
    band = spending_band([score_trace(detector, t) for t in successes], spending)
    return Monitor(detector, {"": band}), spending


def _band_json(band: Band) -> dict[str, Any]:
    return {
        "mean": band.mean.tolist(), "scale": band.scale.tolist(), "width": band.width, "alpha": band.alpha,
        "n": band.n, "n_mean": band.n_mean, "task": band.task, "reactions": [list(r) for r in band.reactions],
    }  # fmt: skip


def _band_from(row: Mapping[str, Any]) -> Band:
    return Band(
        np.asarray(row["mean"], np.float64), np.asarray(row["scale"], np.float64), float(row["width"]),
        float(row["alpha"]), int(row["n"]), int(row["n_mean"]), str(row["task"]),
        tuple((int(start), str(what)) for start, what in row.get("reactions", [])),
    )  # fmt: skip
