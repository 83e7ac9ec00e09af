"""Thresholds learned from costs: what they cost, what they promise, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from traces import traces

from failwise.cli import main
from failwise.detect import Costs, Monitor, calibrate_by_cost, load_monitor, make_detector
from failwise.detect.thresholds import (
    ALWAYS,
    NEVER,
    Spending,
    fewest_successes,
    learn_spending,
    spending_band,
)
from failwise.errors import DataError, SetupError
from failwise.rollout.watching import Watch

T = 40


def episode(random, failed, late_only=False, rise_to=4.0):
    """Noise, and for failures a rise; with ``late_only`` the first half tells nothing."""
    rise = np.linspace(0, rise_to, T) if not late_only else np.where(np.arange(T) < T // 2, 0.0, 3.0)
    return random.normal(size=T) * 0.5 + (rise if failed else 0.0), failed


def some(n, seed, **options):
    random = np.random.default_rng(seed)
    return [episode(random, i % 2 == 0, **options) for i in range(n)]


def spend(*alphas, responses=None):
    starts = tuple(10 * p for p in range(len(alphas)))
    return Spending(starts, alphas, responses or ("stop",) * len(alphas), 0.0, 0.0, 0.0)


def test_learned_thresholds_cost_less_on_new_episodes_than_none_and_than_an_even_spending():
    costs = Costs(missed=1, false_stop=1, ask=10, late=0.0)
    learned = learn_spending(some(200, 0, late_only=True), costs, 0.2)
    assert learned.cost < learned.cost_of_fixed < learned.cost_of_none
    assert sum(learned.alphas) <= 0.2 + 1e-12 and set(learned.responses) == {"stop"}
    assert max(learned.alphas) in learned.alphas[2:], "alpha is spent where scores tell something"


@pytest.mark.parametrize(("ask", "reaction"), [(0.01, "ask"), (5.0, "stop")])
def test_a_cheap_call_for_help_is_preferred_and_a_dear_one_is_not(ask, reaction):
    learned = learn_spending(some(200, 1, rise_to=1.2), Costs(missed=1, false_stop=1, ask=ask, late=0.0), 0.2)
    used = {r for a, r in zip(learned.alphas, learned.responses, strict=True) if a > 0}
    assert used == {reaction}


def test_when_failures_cost_nothing_no_alarm_is_raised():
    learned = learn_spending(some(60, 2), Costs(missed=0.0), 0.2)
    assert set(learned.alphas) == {0.0} and learned.cost == 0.0
    band = spending_band([s for s, failed in some(40, 3) if not failed], learned)
    assert all(band.first_alarm(s) is None for s, _ in some(40, 4))


def test_an_alarm_earlier_in_a_failure_costs_less():
    early = learn_spending(some(200, 5), Costs(missed=1, false_stop=0.1, ask=9, late=1.0), 0.3)
    free = learn_spending(some(200, 5), Costs(missed=1, false_stop=0.1, ask=9, late=0.0), 0.3)
    assert early.cost > free.cost


@pytest.mark.parametrize("n", [19, 60])
def test_the_rate_of_false_alarms_stays_below_the_sum_of_the_shares(n):
    random = np.random.default_rng(n)
    spending = spend(0.05, 0.0, 0.05, 0.1)
    alarms = 0
    for _ in range(2000):
        lengths = random.integers(15, T, n + 1)
        wins = [random.normal(size=length) for length in lengths]
        alarms += spending_band(wins[:n], spending).first_alarm(wins[n]) is not None
    rate, error = alarms / 2000, np.sqrt(0.2 * 0.8 / 2000)
    assert rate <= 0.2 + 3 * error and rate > 0.02, rate


def test_thresholds_by_hand():
    wins = [np.array([float(i)] * 12) for i in range(9)]
    band = spending_band(wins, spend(0.1, 0.0, 0.2))
    assert band.upper(0) == 8.0, "the 9th of 9, ceil(10 * 0.9)"
    assert band.upper(15) == np.inf, "nothing is spent on this phase"
    assert band.upper(25) == -np.inf, "no success came so far: whoever does raises an alarm"
    assert NEVER == -ALWAYS and json.dumps(band.mean.tolist(), allow_nan=False), "files hold no infinity"
    assert band.reaction(0) == "stop" and band.first_alarm(np.zeros(21)) == 20
    assert fewest_successes(spend(0.1, 0.0, 0.05)) == 19 and fewest_successes(spend(0.0)) == 1


def test_reactions_by_phase():
    band = spending_band([np.zeros(30)] * 9, spend(0.1, 0.1, responses=("ask", "stop")))
    assert [band.reaction(step) for step in (0, 9, 10, 99)] == ["ask", "ask", "stop", "stop"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Costs(missed=-1), "cost missed must be 0 or more"),
        (lambda: Costs(ask=float("inf")), "cost ask"),
        (lambda: learn_spending(some(20, 0), Costs(), 1.5), "alpha 1.5"),
    ],
)
def test_bad_costs(call, message):
    with pytest.raises(SetupError, match=message):
        call()


def test_too_few_episodes():
    wins = [e for e in some(20, 0) if not e[1]]
    with pytest.raises(DataError, match="at least 4 successes and 1 failure"):
        learn_spending(wins, Costs(), 0.1)
    with pytest.raises(DataError, match="at least 1 success"):
        spending_band([], spend(0.1))
    detector = make_detector("mahalanobis").fit(traces(30))
    with pytest.raises(DataError, match="is no success"):
        calibrate_by_cost(detector, traces(30, 100), traces(4, 200), 0.2, Costs())
    with pytest.raises(DataError, match="2 calibration successes"):
        calibrate_by_cost(detector, traces(60, 100), [t for t in traces(4, 200) if not t.failed], 0.2, Costs())


def test_a_learned_monitor_comes_back_from_disk_and_reacts(tmp_path):
    detector = make_detector("mahalanobis").fit(traces(30))
    wins = [t for t in traces(80, 200) if not t.failed]
    monitor, spending = calibrate_by_cost(detector, traces(60, 100), wins, 0.3, Costs(ask=0.01))
    monitor.save(tmp_path)
    again = load_monitor(tmp_path)
    assert (
        again.bands[""].reactions
        == monitor.bands[""].reactions
        == tuple(zip(spending.starts, spending.responses, strict=True))
    )
    for t in traces(6, 900):
        for one in (monitor, again):
            one.reset()
        assert [again.update(m).alarm for m in t.moments()] == [monitor.update(m).alarm for m in t.moments()]
    asked = []

    def ask(line):
        asked.append(line)
        return "go on"

    watch = Watch(again, "learned", ask=ask)
    failing = next(t for t in traces(6, 900) if t.failed)
    decisions = set()
    again.reset()
    for m in failing.moments():
        decisions.add(watch.decide(again.update(m), "grasped"))
    assert len(asked) == 1 and decisions == {"go on"} and watch.alarm is not None
    assert (watch.alarm.reaction, watch.alarm.decision) == ("ask", "go on")
    assert watch.alarm.score > watch.alarm.band and watch.alarm.step == watch.event.onset_step


def test_a_monitor_that_learned_nothing_cannot_react_so():
    detector = make_detector("length").fit(traces(10))
    band = spending_band([np.zeros(30)] * 9, spend(0.1))
    plain = Monitor(detector, {"": type(band)(band.mean, band.scale, 0.0, 0.1, 9, 0)})
    with pytest.raises(SetupError, match="learned no reactions"):
        Watch(plain, "learned")


def test_the_command_learns_and_says_what_it_costs(recorded, tmp_path, capsys):
    line = ["detect", "fit", "--episodes", str(recorded), "--out", str(tmp_path / "d"), "--detector", "mahalanobis"]
    assert main([*line, "--alpha", "0.3", "--costs", '{"ask": 0.05}']) == 0
    said = capsys.readouterr().out
    assert "from step 0:" in said and "cost an episode" in said and "at most" in said
    assert json.loads((tmp_path / "d" / "bands.json").read_text())[""]["reactions"]
    assert main([*line, "--costs", '{"lost": 1}']) == 2
    assert "costs are missed, false_stop, ask and late" in capsys.readouterr().err
    for unheard in (["--band", "constant"], ["--per-task"]):
        assert main([*line, "--costs", '{"ask": 0.05}', *unheard]) == 2
        assert "leave --band and --per-task out" in capsys.readouterr().err
