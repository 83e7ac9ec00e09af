"""Reports reach the trackers that were asked for; a tracker that fails costs one line and nothing else."""

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from failwise.errors import MissingDependencyError, SetupError, UnknownNameError
from failwise.tracking import TRACKERS, Run, report, summarise, tracked, within


class Notebook:
    """A tracker that writes down what it is told."""

    told: ClassVar[list[tuple]] = []

    def __init__(self, run):
        self.run = run

    def log(self, series, step, values):
        self.told.append((series, step, values))

    def close(self, summary, completed):
        self.told.append(("closed", dict(summary), completed))


class Away(Notebook):
    """One whose server goes away after two reports, and is away at the end."""

    calls = 0

    def log(self, series, step, values):
        Away.calls += 1
        if Away.calls > 2:
            raise ConnectionError("no route\nto host")

    def close(self, summary, completed):
        raise ConnectionError("still away")


class Refusing:
    def __init__(self, run):
        raise RuntimeError("no account")


@pytest.fixture
def told(monkeypatch):
    for name, kind in (("notebook", "Notebook"), ("away", "Away"), ("refusing", "Refusing")):
        monkeypatch.setitem(TRACKERS, name, (__name__, kind))
    monkeypatch.setattr(Notebook, "told", [])
    monkeypatch.setattr(Away, "calls", 0)
    return Notebook.told


RUN = Run("test", Path("nowhere"))


def test_without_a_tracker_a_report_goes_nowhere():
    report("training", 1, {"loss": 0.5})
    summarise({"success": 0.5})
    with tracked([], RUN), within("part"):
        report("training", 1, {"loss": 0.5})


def test_nothing_is_loaded_that_was_not_asked_for():
    code = "import sys, failwise.tracking, failwise.learn.progress, failwise.rollout.progress\n"
    code += "assert not {'torch', 'tensorboard', 'wandb', 'trackio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_parts_stand_before_the_names(told):
    with tracked(["notebook"], RUN):
        with within("round1"), within("network"):
            report("heads", 3, {"loss": 1})
            summarise({"base/success": 0.25})
        with pytest.raises(ValueError), within("round2"):
            raise ValueError
        report("value", 1, {"loss": 2})
    assert told[:2] == [("round1/network/heads", 3, {"loss": 1.0}), ("value", 1, {"loss": 2.0})]
    assert told[2:] == [("closed", {"round1/network/base/success": 0.25}, True)]


def test_the_last_figure_of_a_name_counts(told):
    with tracked(["notebook"], RUN):
        for rate in (0.1, 0.2):
            summarise({"success": rate})
    assert told == [("closed", {"success": 0.2}, True)]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SetupError])
def test_a_run_that_is_stopped_is_closed_as_such(told, stop):
    with pytest.raises(stop), tracked(["notebook"], RUN):
        raise stop
    report("training", 1, {"loss": 0.5})
    assert told == [("closed", {}, False)]


def test_a_tracker_that_fails_costs_one_line(told, capsys):
    with tracked(["away", "notebook"], RUN):
        for step in range(5):
            report("training", step, {"loss": 0.5})
    assert [step for _, step, _ in told[:-1]] == list(range(5)), "the other one goes on"
    assert told[-1] == ("closed", {}, True)
    out, err = capsys.readouterr()
    assert err == "failwise: warning: away takes no reports any more: ConnectionError: no route to host\n" and not out
    assert Away.calls == 3


def test_an_unknown_name_says_which_there_are(told, tmp_path):
    said = pytest.raises(UnknownNameError, match=r"unknown tracker 'tensorbord'.*'tensorboard'.*Known: .*wandb")
    with said, tracked(["tensorboard", "tensorbord"], Run("test", tmp_path)):
        pytest.fail("the work began")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_library_is_told_before_anything_begins(told, name, monkeypatch):
    monkeypatch.delitem(sys.modules, TRACKERS[name][0], raising=False)
    for module in [name, *(loaded for loaded in sys.modules if loaded.startswith(f"{name}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    said = pytest.raises(MissingDependencyError, match=rf"--track {name} needs .*pip install 'failwise\[{name}\]'")
    with said, tracked(["notebook", name], RUN):
        pytest.fail("the work began")
    assert not told


def test_one_that_cannot_begin_stops_the_run_and_closes_the_others(told):
    said = pytest.raises(SetupError, match="--track refusing cannot begin: RuntimeError: no account")
    with said, tracked(["notebook", "refusing"], RUN):
        pytest.fail("the work began")
    assert told == [("closed", {}, False)]
