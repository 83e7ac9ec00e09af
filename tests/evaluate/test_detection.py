"""Figures of detectors against their definitions, and their intervals against resamples that are written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from failwise.detect import constant_band
from failwise.errors import DataError
from failwise.evaluate.detection import (
    Scored,
    alarms,
    at_earliest_stop,
    pr_auc,
    pr_aucs,
    roc_auc,
    roc_aucs,
    shortest_of,
    timestep_accuracies,
    timestep_accuracy,
    within_tasks,
    within_tasks_of,
)
from failwise.evaluate.over_tasks import over_length, over_tasks


def episodes(n: int, seed: int = 0, tasks: int = 6) -> list[Scored]:
    """Tasks of different difficulty; scores with ties that know a little."""
    random = np.random.default_rng(seed)
    out = []
    for i in range(n):
        failed = bool(random.random() < (1 + i % tasks) / (tasks + 1))
        out.append(Scored(f"t{i % tasks}", failed, np.round(random.normal(0.7 * failed, 1.0, size=3), 1)))
    return out


def test_roc_auc_is_the_library_s_with_ties():
    given = episodes(200)
    peaks = [e.scores.max() for e in given]
    assert roc_auc(given) == pytest.approx(roc_auc_score([e.failed for e in given], peaks), abs=1e-12)


def test_a_resample_by_counts_is_the_one_with_episodes_written_out_as_often():
    given = episodes(90)
    counts = np.random.default_rng(1).integers(0, 4, size=(5, len(given)))
    written = [[e for e, times in zip(given, row, strict=True) for _ in range(times)] for row in counts]
    np.testing.assert_allclose(roc_aucs(given, counts), [roc_auc(w) for w in written], atol=1e-12)
    one_task = [e for e in given if e.task == "t1"]
    counts = np.random.default_rng(2).integers(0, 4, size=(5, len(one_task)))
    written = [[e for e, times in zip(one_task, row, strict=True) for _ in range(times)] for row in counts]
    np.testing.assert_allclose(within_tasks_of(one_task, counts), [within_tasks(w) for w in written], atol=1e-12)


def test_average_precision_is_the_library_s_with_ties_and_in_resamples():
    given = episodes(200)
    peaks = [e.scores.max() for e in given]
    assert pr_auc(given) == pytest.approx(average_precision_score([e.failed for e in given], peaks), abs=1e-12)
    counts = np.random.default_rng(1).integers(0, 4, size=(5, len(given)))
    written = [[e for e, times in zip(given, row, strict=True) for _ in range(times)] for row in counts]
    np.testing.assert_allclose(pr_aucs(given, counts), [pr_auc(w) for w in written], atol=1e-12)
    assert np.isnan(pr_auc([e for e in given if e.failed]))


def test_accuracy_a_step_is_the_library_s_at_the_best_threshold_and_in_resamples():
    given = [Scored(e.task, e.failed, e.scores[: 1 + i % 3]) for i, e in enumerate(episodes(80))]
    thresholds = np.linspace(-2, 2, 9)
    y = np.concatenate([[e.failed] * len(e.scores) for e in given])
    s = np.concatenate([e.scores for e in given])
    best = max(balanced_accuracy_score(y, s > t) for t in thresholds)
    assert timestep_accuracy(given, thresholds) == pytest.approx(best, abs=1e-12)
    counts = np.random.default_rng(1).integers(0, 4, size=(5, len(given)))
    written = [[e for e, times in zip(given, row, strict=True) for _ in range(times)] for row in counts]
    expected = [timestep_accuracy(w, thresholds) for w in written]
    np.testing.assert_allclose(timestep_accuracies(given, counts, thresholds), expected, atol=1e-12)


def test_the_earliest_stop_is_that_of_all_episodes_of_a_task_also_where_some_are_judged():
    whole = [Scored("a", True, np.arange(10.0)), Scored("a", False, np.arange(4.0)), Scored("b", False, np.ones(7))]
    assert [len(e.scores) for e in at_earliest_stop(whole)] == [4, 4, 7]
    shortest = shortest_of((e.task, len(e.scores)) for e in whole)
    assert [len(e.scores) for e in at_earliest_stop(whole[:1])] == [10]
    assert [len(e.scores) for e in at_earliest_stop(whole[:1], shortest)] == [4]
    assert [len(e.scores) for e in at_earliest_stop(whole, shortest, 0.5)] == [2, 2, 4]
    assert [len(e.scores) for e in at_earliest_stop(whole, shortest, 0.01)] == [1, 1, 1]


def test_alarms_by_hand():
    """A threshold of 2: of three successes one crosses it, of four failures three, and of the two timeouts one."""
    band = constant_band([np.array([x]) for x in np.linspace(0, 2, 21)], 0.05)
    assert band.width == pytest.approx(2.0)
    given = [Scored("a", False, np.array([0.0, top, 0.0])) for top in (1.0, 2.0, 2.1)]
    given += [Scored("a", True, np.array([0.0, 0.0, 3.0, 0.0])), Scored("a", True, np.array([3.0, 0.0]))]
    given += [Scored("a", True, np.array([0.0, top]), timed_out=True) for top in (1.0, 3.0)]
    found = alarms(given, lambda task: band)
    assert (found.false_alarms, found.successes, found.detected, found.failures) == (1, 3, 3, 4)
    assert (found.detected_timeouts, found.timeouts) == (1, 2)
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert found.mean_detection == pytest.approx((3 / 4 + 1 / 2 + 2 / 2) / 3)


def test_an_episode_that_two_folds_judge_is_no_second_one():
    """The same episodes in two folds say as much as in one; taken for others, the interval would be narrower."""
    random = np.random.default_rng(5)
    given = []
    for task in range(8):
        sign = 2.0 if task % 2 else -0.5
        for i in range(30):
            failed = i % 2 == 0
            given.append(Scored(f"t{task}", failed, random.normal(sign * failed, 1.0, size=1), f"{task}.{i}"))
    one = over_tasks([given], roc_aucs, repeats=200)
    two = over_tasks([given, given[::-1]], roc_aucs, repeats=200)
    assert (two.point, two.lower, two.upper) == pytest.approx((one.point, one.lower, one.upper), abs=1e-12)
    nameless = [Scored(e.task, e.failed, e.scores) for e in given]
    parts = over_tasks([nameless, nameless], roc_aucs, repeats=200)
    assert parts.upper - parts.lower > 0.8 * (one.upper - one.lower), "the tasks are the same ones in any case"


def test_a_task_drawn_twice_counts_twice_and_one_not_drawn_not_at_all():
    given = episodes(60, tasks=3)
    times = np.array([2, 0, 1])
    counts = np.array([[times[int(e.task[1])] for e in given]])
    each = [roc_auc([e for e in given if e.task == f"t{t}"]) for t in (0, 2)]
    assert within_tasks_of(given, counts)[0] == pytest.approx((2 * each[0] + each[1]) / 3, abs=1e-12)


def test_undefined_figures_are_left_out_and_said():
    wins = [Scored("a", False, np.array([0.1])), Scored("b", False, np.array([0.2]))]
    assert np.isnan(roc_auc(wins)) and np.isnan(within_tasks(wins))
    alone = over_tasks([wins, episodes(60)], roc_aucs, repeats=20)
    assert alone.point == pytest.approx(roc_auc(episodes(60))) and alone.n == 62
    assert np.isnan(over_tasks([wins], roc_aucs, repeats=20).lower)
    with pytest.raises(DataError, match="no episodes"):
        over_tasks([[], []], pr_aucs)


def test_the_interval_is_as_wide_as_tasks_differ():
    """Of tasks that behave alike it is that of the episodes; where half of the tasks are the reverse, wider."""
    random = np.random.default_rng(3)

    def made(signs: list[int]) -> list[Scored]:
        out = []
        for task, sign in enumerate(signs):
            for i in range(40):
                out.append(Scored(f"t{task}", i % 2 == 0, random.normal(sign * (i % 2 == 0), 1.0, size=1)))
        return out

    alike = over_tasks([made([1] * 8)], within_tasks_of, repeats=400)
    mixed = over_tasks([made([3, 3, 3, 3, -3, -3, -3, -3])], within_tasks_of, repeats=400)
    assert alike.lower < alike.point < alike.upper and alike.lower > 0.6
    assert mixed.upper - mixed.lower > 3 * (alike.upper - alike.lower)
    assert mixed.lower < 0.3 and mixed.upper > 0.7, "eight tasks, half of them the reverse: anything may come out"


def test_the_gain_over_the_length_is_paired():
    """Scores that are the length and a little more: surely better, though tasks spread both intervals widely."""
    random = np.random.default_rng(4)
    given = []
    for task in range(8):
        T = int(random.integers(5, 60))
        for _ in range(40):
            failed = bool(random.random() < 0.1 + 0.8 * random.random())
            steps = np.arange(1.0, T + 1)
            given.append(Scored(f"t{task}", failed, steps + 6.0 * failed))
    gain = over_length([given], repeats=300)
    alone = over_tasks([given], roc_aucs, repeats=300)
    length = over_tasks([[Scored(e.task, e.failed, np.arange(1.0, len(e.scores) + 1)) for e in given]], roc_aucs)
    assert gain.point == pytest.approx(alone.point - length.point, abs=1e-12)
    assert 0 < gain.lower < gain.point < gain.upper
    same = over_length([[Scored(e.task, e.failed, np.arange(1.0, len(e.scores) + 1)) for e in given]], repeats=50)
    assert same.point == same.lower == same.upper == 0.0
