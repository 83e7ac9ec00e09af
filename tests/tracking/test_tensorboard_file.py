"""Event files as TensorBoard itself reads them."""

import subprocess
import sys

from failwise.tracking import Run, report, summarise, tracked
from tracking.event_files import read, scalars, text

TRAINING = """
import resource, sys
from pathlib import Path
from failwise.tracking import Run, report, tracked
with tracked(["tensorboard"], Run("train", Path(sys.argv[1]))):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    for step in range(5000):
        report("training", step, {"loss": step})
print("trained")
"""


def test_curves_options_and_figures_come_back(tmp_path):
    with tracked(["tensorboard"], Run("train bc", tmp_path, {"fit": {"steps": 3}})):
        for step in (1, 2, 3):
            report("behaviour cloning", step, {"loss": 1 / step, "learning_rate": 2.0**-step})
        report("value", 1, {"loss": float("nan")})
        summarise({"base/success": 0.5, "base/verdict": "Cannot tell."})
    found = scalars(tmp_path)
    assert found["behaviour cloning/learning_rate"] == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert [round(loss, 6) for _, loss in found["behaviour cloning/loss"]] == [1.0, 0.5, 0.333333]
    assert found["value/loss"][0][1] != found["value/loss"][0][1]
    assert found["summary/base/success"] == [(0, 0.5)]
    assert text(tmp_path, "summary/base/verdict") == "Cannot tell."
    assert text(tmp_path, "options").startswith("train bc") and '"steps": 3' in text(tmp_path, "options")


def test_a_resumed_run_draws_on_the_same_curves(tmp_path):
    for steps in (range(1, 4), range(4, 6)):
        with tracked(["tensorboard"], Run("train", tmp_path)):
            for step in steps:
                report("training", step, {"loss": step})
    assert scalars(tmp_path)["training/loss"] == [(s, float(s)) for s in range(1, 6)]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_what_was_reported_is_on_disk_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("failwise.tracking.tensorboard_file.FLUSH_EVERY_S", 0.0)
    with tracked(["tensorboard"], Run("train", tmp_path)):
        report("training", 1, {"loss": 0.5})
        assert read(tmp_path).Scalars("training/loss")[0].value == 0.5


def test_a_full_disk_costs_one_line_and_no_step(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "trained\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("failwise: warning: tensorboard takes no reports any more: OSError: ")
    kept = scalars(tmp_path)["training/loss"]
    assert kept == [(s, float(s)) for s in range(len(kept))] and 100 < len(kept) < 5000
