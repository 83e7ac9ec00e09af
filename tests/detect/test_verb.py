"""``failwise detect`` on recorded episodes: fit, score, bench, and what each refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from traces import traces, write

from failwise.cli import main
from failwise.detect import load_traces
from failwise.detect.neighbours import Mahalanobis
from failwise.errors import DataError
from failwise.evaluate.detection import Scored, at_earliest_stop, roc_auc, shortest_of, within_tasks
from failwise.evaluate.detector_bench import BenchOptions, bench, splits, usable
from failwise.report.detection import draw, write_bench_page
from failwise.store import EpisodeStore
from failwise.types import FailureEvent, Outcome

QUICK = '{"k": 3}'


def test_recorded_episodes_come_back_as_traces(recorded):
    found = {t.meta.episode_id: t for t in load_traces(recorded, lambda m: m.env_id == "tiny/push")}
    assert len(found) == 50
    for made in traces(50, 1000, "tiny/push"):
        t = found[made.meta.episode_id]
        assert (t.features == made.features).all() and (t.actions == made.actions).all()
        assert (t.asked == made.asked).all() and t.failed == made.failed
        assert t.info["risk"].tolist() == made.info["risk"].tolist()


def test_fit_then_score(recorded, tmp_path, capsys):
    out = tmp_path / "detector"
    line = ["detect", "fit", "--episodes", str(recorded), "--out", str(out), "--detector", "mahalanobis"]
    assert main([*line, "--alpha", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "all tasks: at most 20% of the successes raise an alarm, from 28 calibration successes" in said
    lines = tmp_path / "scores.jsonl"
    assert main(["detect", "score", "--episodes", str(recorded), "--detector", str(out), "--out", str(lines)]) == 0
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(rows) == 200
    for row in rows:
        above = [t for t, (s, b) in enumerate(zip(row["scores"], row["band"], strict=True)) if s > b]
        assert row["alarm_step"] == (above[0] if above else None)
    detected = [r["alarm_step"] is not None for r in rows if r["outcome"] != "success"]
    assert sum(detected) > 0.9 * len(detected)


def test_bench_writes_figures_and_a_picture(recorded, tmp_path, capsys):
    names = "mahalanobis,length,reversals,risk"
    line = ["detect", "bench", "--episodes", str(recorded), "--out", str(tmp_path), "--detectors", names]
    assert main([*line, "--folds", "2"]) == 0
    results = json.loads((tmp_path / "detect.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert results["outcomes"] == {"success": 100, "timeout": 100}
    rates = results["detectors"]["mahalanobis"]["rates"]["functional"]["unseen"]
    counted = [
        r for r in results["detectors"]["mahalanobis"]["alarms"]
        if (r["kind"], r["alpha"], r["part"]) == ("functional", 0.1, "unseen")
    ]  # fmt: skip
    share = sum(r["false_alarms"] for r in counted) / sum(r["successes"] for r in counted)
    assert rates["false_alarms"]["point"] == pytest.approx(share) and rates["false_alarms"]["n"] == 100
    assert rates["false_alarms"]["lower"] <= share <= rates["false_alarms"]["upper"]
    assert list(results["detectors"]) == names.split(",") and results["episodes"] == 200
    assert (tmp_path / "detect.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "detect.html").read_text()
    best = results["detectors"]["mahalanobis"]["unseen"]["earliest"]["within_tasks"]["point"]
    assert "mahalanobis tells failures" in page and f"{best:.3f}" in page and "tiny/door" in page
    assert "It knows more than the length" in page and "<script" not in page
    length, strong = results["detectors"]["length"], results["detectors"]["mahalanobis"]
    assert length["unseen"]["earliest"]["roc_auc"]["point"] == 0.5, "by the earliest stop, the length knows nothing"
    assert length["unseen"]["final"]["roc_auc"]["point"] > 0.95, "by the final end, it knows nearly everything"
    auc = strong["unseen"]["earliest"]["roc_auc"]
    assert auc["lower"] <= auc["point"] <= auc["upper"] and auc["point"] > 0.9
    assert "mahalanobis" in capsys.readouterr().out


def test_splits_hold_every_task_out_once_and_share_nothing():
    episodes = [t for n, task in enumerate("abcdefg") for t in traces(20, 100 * n, f"tiny/{task}")]
    folds = splits(episodes, 3, seed=4)
    assert sorted(i for fold in folds for i in fold.unseen) == list(range(140))
    for fold in folds:
        parts = [set(fold.fit), set(fold.calibrate), set(fold.seen), set(fold.unseen)]
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert not any(episodes[i].failed for i in fold.calibrate)
        unseen = {episodes[i].meta.env_id for i in fold.unseen}
        assert not unseen & {episodes[i].meta.env_id for i in [*fold.fit, *fold.calibrate, *fold.seen]}
        assert len(fold.fit) == pytest.approx(0.6 * (140 - len(fold.unseen)))
    with pytest.raises(DataError, match="2 tasks cannot be dealt into 3 folds"):
        splits(episodes[:40], 3, seed=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["fit", "--episodes", "nowhere", "--out", "x"], "--episodes nowhere is not a folder"),
        (["fit", "--episodes", "{}", "--out", "{out}", "--detector", "saef-mlp"], "Did you mean 'safe-mlp'"),
        (["fit", "--episodes", "{}", "--out", "{out}", "--options", "k=3"], "is not JSON"),
        (["fit", "--episodes", "{}", "--out", "{out}", "--detector", "length", "--alpha", "0.01"], "at least 100 are"),
        (["fit", "--episodes", "{}", "--out", "{out}", "--detector", "stac"], "record them with"),
        (["score", "--episodes", "{}", "--detector", "{out}"], "no detector at"),
        (["bench", "--episodes", "{}", "--out", "{out}", "--detectors", "length", "--folds", "3"], "4 tasks cannot"),
        (["bench", "--episodes", "{}", "--out", "{out}", "--folds", "2", "--alpha", "0.05"], "at least 20 are needed"),
        (["score", "--episodes", "{}", "--detector", "{out}", "--out", "{out}"], "is a folder; name a file in it"),
        (["bench", "--episodes", "{}", "--out", "{out}", "--folds", "2", "--detectors", "length,stac"], "record them"),
        (["fitt"], "unknown detect action"),
    ],
)
def test_bad_requests_are_one_line(recorded, tmp_path, capsys, line, message):
    given = [part.replace("{}", str(recorded)).replace("{out}", str(tmp_path)) for part in line]
    assert main(["detect", *given]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0], said


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--alpha", "1.5"], "alpha is a rate of false alarms between 0 and 1, not 1.5"),
        (["--alpha", "0.01"], "40 calibration successes bound no false-alarm rate of 0.01"),
        (["--band", "functionl"], "unknown band 'functionl'"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_anything_is_fitted(
    recorded, tmp_path, capsys, monkeypatch, asked, message
):
    def fitted(*_):
        raise AssertionError("it was fitted first")

    monkeypatch.setattr(Mahalanobis, "_fit", fitted)
    line = ["detect", "fit", "--episodes", str(recorded), "--out", str(tmp_path), "--detector", "mahalanobis"]
    assert main([*line, *asked]) == 2
    assert message in capsys.readouterr().err


def test_fit_says_for_whom_alpha_is_promised(recorded, tmp_path, capsys):
    line = ["detect", "fit", "--episodes", str(recorded), "--out", str(tmp_path), "--detector", "mahalanobis"]
    assert main([*line, "--alpha", "0.075"]) == 0
    said = capsys.readouterr().out
    assert "all tasks: at most 7.5% of the successes raise an alarm" in said and "tiny/" not in said.split("\n")[0]
    assert main([*line, "--alpha", "0.2", "--per-task"]) == 0
    said = capsys.readouterr().out
    assert "tiny/door: at most 20%" in said
    assert "other tasks: no bound of their own, as 0 successes are too few: the band of all tasks" in said


def test_episodes_that_no_detector_can_be_fitted_on_are_told_not_passed_over(recorded):
    episodes = load_traces(recorded)
    with pytest.raises(DataError, match="no successes among 100"):
        usable([t for t in episodes if t.failed], ["mahalanobis", "length", "stac"])
    options = BenchOptions(folds=2, features={"length": "expert-mean"})
    with pytest.raises(DataError, match="not 'expert-mean'"):
        bench(episodes, ["length"], options, quiet=True)


def test_episodes_of_one_layout_stay_on_one_side():
    episodes = [t for n, task in enumerate("abcd") for t in traces(20, 100 * n, f"tiny/{task}")]
    twins = [replace(t, meta=t.meta.model_copy(update={"episode_id": f"{t.meta.episode_id}.2"})) for t in episodes]
    both = [*episodes, *twins]
    for fold in splits(both, 2, seed=1):
        sides = [{(both[i].meta.env_id, both[i].meta.env_seed) for i in part} for part in (fold.fit, fold.seen)]
        assert not sides[0] & sides[1] and all(sides)


def test_watched_episodes_do_not_pass_for_further_ones(recorded, tmp_path, capsys):
    folder = tmp_path / "both"
    shutil.copytree(recorded, folder)
    store = EpisodeStore(folder)
    for t in traces(20, 0, "tiny/reach"):
        about = {"episode_id": f"{t.meta.episode_id}.watched", "extra": {"watch": {"detector": "length"}}}
        write(store, replace(t, meta=t.meta.model_copy(update=about)))
    line = ["detect", "fit", "--detector", "mahalanobis", "--alpha", "0.2"]
    for episodes in (recorded, folder):
        assert main([*line, "--episodes", str(episodes), "--out", str(tmp_path / episodes.name)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == said[2]
    arrays = [(tmp_path / f.name / "detector.safetensors").read_bytes() for f in (recorded, folder)]
    assert arrays[0] == arrays[1]


def test_a_score_that_only_tells_tasks_apart_is_worth_nothing_within_them():
    easy = [Scored("a/easy", i == 0, np.array([0.1])) for i in range(6)]
    hard = [Scored("a/hard", i != 0, np.array([0.9])) for i in range(6)]
    assert roc_auc(easy + hard) > 0.8 and within_tasks(easy + hard) == 0.5
    sharp = [Scored("a/easy", i == 0, np.array([float(i == 0)])) for i in range(6)]
    assert within_tasks(sharp + hard) == 0.75, "every task counts the same"
    assert np.isnan(within_tasks(easy[1:])), "no failures, no figure"


def test_bench_takes_what_it_measured_before_but_not_for_other_episodes(recorded, tmp_path, capsys):
    traces = load_traces(recorded)
    options = BenchOptions(folds=2, repeats=5)
    first = bench(traces, ["length", "reversals"], options, scratch=tmp_path, quiet=True)
    kept = tmp_path / "length.json"
    about = json.loads(kept.read_text())
    about["figures"]["seconds"] = -1.0
    kept.write_text(json.dumps(about))
    again = bench(traces, ["length", "reversals"], options, scratch=tmp_path, quiet=True)
    assert again["detectors"]["length"]["seconds"] == -1.0
    assert json.dumps(again["detectors"]["reversals"]) == json.dumps(first["detectors"]["reversals"])
    other = bench(traces[:-1], ["length"], options, scratch=tmp_path, quiet=True)
    assert other["detectors"]["length"]["seconds"] >= 0.0
    assert bench(traces, ["length"], replace(options, seed=1), scratch=tmp_path)["detectors"]["length"]["seconds"] >= 0
    assert "detectors: 1/1" in capsys.readouterr().err


def earliest(row):
    """Pooled figures on unseen tasks when a quarter and when all of the earliest stop was seen."""
    return row["unseen"]["early"]["0.25"]["point"], row["unseen"]["earliest"]["roc_auc"]["point"]


def test_the_same_detector_twice_with_other_options_and_demonstrations(recorded, tmp_path):
    episodes = load_traces(recorded)
    # Demonstrations of two tasks only: there the others' ways are unknown, whether or not own episodes fit it.
    demonstrations = [t for t in episodes if not t.failed and t.meta.env_id in ("tiny/reach", "tiny/push")]
    names = ["off-course", "off-course@distance"]
    options = BenchOptions(folds=2, repeats=0, options={"off-course@distance": {"late": 0.0}})
    given = {"scratch": tmp_path, "quiet": True}
    told = bench(episodes, names, options, demonstrations=demonstrations, **given)["detectors"]
    assert list(told) == names and earliest(told["off-course"]) != earliest(told["off-course@distance"])
    again = bench(episodes, names, options, demonstrations=demonstrations, **given)["detectors"]
    assert json.dumps(again) == json.dumps(told), "kept, with its seconds"
    fewer = bench(episodes, names, options, demonstrations=demonstrations[:9], **given)["detectors"]
    assert earliest(fewer["off-course"]) != earliest(told["off-course"])
    assert usable(episodes, ["off-course@distance", "stac@quick"]) == ["off-course@distance"], "no sampled chunks here"


def test_a_detector_in_the_bench_reads_only_the_features_that_are_named_for_it(recorded):
    def widened(t):
        noise = np.random.default_rng(t.meta.env_seed).normal(0, 5, t.features.shape).astype(np.float32)
        extra = {"feature_widths": [t.features.shape[1]] * 2}
        meta = t.meta.model_copy(update={"extra": extra})
        both = np.concatenate([noise, t.features], 1)
        return replace(t, meta=meta, features=both, pooling="prefix-first+prefix-mean")

    episodes = load_traces(recorded)
    plain = bench(episodes, ["mahalanobis"], BenchOptions(folds=2, repeats=0), quiet=True)["detectors"]["mahalanobis"]
    chosen = BenchOptions(folds=2, repeats=0, features={"mahalanobis": "prefix-mean"})
    wide = [widened(t) for t in episodes]
    told = bench(wide, ["mahalanobis"], chosen, quiet=True)["detectors"]["mahalanobis"]
    all_of_it = bench(wide, ["mahalanobis"], BenchOptions(folds=2, repeats=0), quiet=True)["detectors"]["mahalanobis"]
    assert earliest(told) == earliest(plain) != earliest(all_of_it)


def test_the_time_from_a_known_onset_to_the_alarm_is_told_and_earlier_alarms_apart(recorded, tmp_path):
    """Half of the failures have an injected onset at step 8; the others have a detector's word, which is none."""
    episodes = []
    for i, t in enumerate(load_traces(recorded)):
        events = [FailureEvent(mode="slip", onset_step=8, source="injected" if i % 4 else "detected")] * t.failed
        episodes.append(replace(t, meta=t.meta.model_copy(update={"failure_events": tuple(events)})))
    options = BenchOptions(folds=2, repeats=5)
    results = bench(episodes, ["mahalanobis", "length"], options, quiet=True)
    known = sum(t.failed for i, t in enumerate(episodes) if i % 4)
    late, early = (results["detectors"][n]["delay"]["functional"]["unseen"] for n in ("length", "mahalanobis"))
    assert late["n"] == known and late["before_onset"] == 0, "the length alarms on every failure, when successes end"
    assert late["median_steps"] > 15 and late["median_s"] == pytest.approx(late["median_steps"] / 20)
    assert 0 < early["n"] <= known and early["median_steps"] < late["median_steps"]
    page = write_bench_page(results, draw(results, tmp_path / "x.png"), tmp_path / "x.html").read_text()
    assert "from the onset" in page and f"median {late['median_steps']:g} steps" in page


def test_failures_and_timeouts_have_figures_apart_where_there_are_both(recorded, tmp_path):
    episodes = load_traces(recorded)
    alike = bench(episodes, ["length"], BenchOptions(folds=2, repeats=5), quiet=True)["detectors"]["length"]
    assert "apart" not in alike["unseen"], "all of them are timeouts"
    broken = [
        replace(t, meta=t.meta.model_copy(update={"outcome": Outcome.FAILURE})) if t.failed and i % 4 else t
        for i, t in enumerate(episodes)
    ]
    results = bench(broken, ["mahalanobis"], BenchOptions(folds=2, repeats=5), quiet=True)
    row = results["detectors"]["mahalanobis"]
    n = {kind: row["unseen"]["apart"][kind]["n"] for kind in ("failure", "timeout")}
    lost = results["outcomes"]
    assert n == {kind: lost[kind] + lost["success"] for kind in n} and lost["failure"] and lost["timeout"]
    held = [r for r in row["alarms"] if (r["kind"], r["alpha"], r["part"]) == ("functional", 0.1, "unseen")]
    assert sum(r["timeouts"] for r in held) == lost["timeout"]
    page = write_bench_page(results, draw(results, tmp_path / "x.png"), tmp_path / "x.html").read_text()
    assert "Failures and timeouts apart" in page


def test_a_task_is_cut_at_the_same_step_wherever_it_is_judged(recorded, monkeypatch):
    """At its shortest episode of all: the shortest of the fifth that is judged on seen tasks is longer."""
    episodes = load_traces(recorded)
    shortest = shortest_of((t.meta.env_id, len(t)) for t in episodes)
    cut: set[tuple[str, int]] = set()

    def watched(fold, *more):
        out = at_earliest_stop(fold, *more)
        if len(more) < 2:  # the whole of it, no share
            cut.update((e.task, len(e.scores)) for e in out)
        return out

    monkeypatch.setattr("failwise.evaluate.detector_bench.at_earliest_stop", watched)
    bench(episodes, ["length"], BenchOptions(folds=2, repeats=0), quiet=True)
    assert cut == set(shortest.items())
