"""Weights by likeness: what the classifier's ratios are worth, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from traces import D, trace, traces, write

from failwise.cli import main
from failwise.detect import calibrate, make_detector, shift_towards
from failwise.errors import DataError, SetupError
from failwise.store import EpisodeStore
from failwise.types import Provenance


def begun(n: int, mean: float, start: int = 0) -> list:
    """Successes whose first features are normal around a mean in one dimension."""
    random = np.random.default_rng(start)
    out = []
    for i in range(n):
        one = trace(start + i, False)
        first = random.normal(0, 1, D).astype(np.float32)
        first[0] += mean
        out.append(replace(one, features=np.concatenate([first[None], one.features[1:]])))
    return out


def test_the_ratios_are_those_of_the_densities():
    """N(1, 1) over N(0, 1) is exp(x - 1/2); a linear classifier can know it."""
    own, others = begun(1500, 0.0), begun(1500, 1.0, start=5000)
    shift = shift_towards(own, others)
    x = np.array([t.features[0, 0] for t in own])
    assert np.corrcoef(np.log(shift.weights), x - 0.5)[0, 1] > 0.75
    assert np.average(x, weights=shift.weights) == pytest.approx(1.0, abs=0.25)
    assert shift.new_weight > np.median(shift.weights) and 1 < shift.effective < 1500


def test_the_same_episodes_are_no_shift():
    shift = shift_towards(begun(400, 0.0), begun(400, 0.0, start=5000))
    assert shift.weights == pytest.approx(np.ones(400), abs=0.6) and shift.effective > 350


def test_a_band_towards_others_is_theirs():
    """Those that begin far out score higher later: the band that was weighted towards them is wider."""
    fitted = make_detector("mahalanobis").fit(traces(30))
    near, far = begun(120, 0.0, start=100), begun(120, 1.5, start=9000)
    scores = [np.array([float(t.features[0, 0])]) for t in near]
    plain = calibrate(fitted, near, 0.2, kind="constant", scores=scores).bands[""]
    shift = shift_towards(near, far)
    towards = calibrate(fitted, near, 0.2, kind="constant", scores=scores, shift=shift).bands[""]
    assert towards.width > plain.width and towards.n < plain.n == 120
    with pytest.raises(SetupError, match="one band of all tasks"):
        calibrate(fitted, near, 0.2, per_task=True, shift=shift)
    with pytest.raises(DataError, match=r"too few for a false-alarm rate of 0\.05 there"):
        calibrate(fitted, near, 0.05, kind="constant", scores=scores, shift=shift_towards(near, begun(120, 9.0, 700)))
    with pytest.raises(DataError, match=r"at least 10 episodes of either kind, not 120 .* and 3 others"):
        shift_towards(near, far[:3])


def test_episodes_of_another_policy_are_no_shift():
    near, others = begun(20, 0.0), begun(20, 0.0, start=100)
    another = Provenance(checkpoint_sha256="cd" * 32)
    others = [replace(t, meta=t.meta.model_copy(update={"provenance": another})) for t in others]
    with pytest.raises(DataError, match="the others are of checkpoint cdcd"):
        shift_towards(near, others)


def test_the_command_weighs(recorded, tmp_path, capsys):
    store = EpisodeStore(tmp_path / "others")
    for t in traces(20, 3000, "tiny/push"):
        write(store, t)
    line = ["detect", "fit", "--episodes", str(recorded), "--out", str(tmp_path / "d"), "--detector", "mahalanobis"]
    line += ["--alpha", "0.3", "--towards", str(tmp_path / "others")]
    assert main(line) == 0
    assert "40 calibration successes count as " in capsys.readouterr().out
    assert json.loads((tmp_path / "d" / "bands.json").read_text())[""]["n"] < 28
    assert main([*line, "--per-task"]) == 2
    assert "leave --per-task and --costs out" in capsys.readouterr().err
