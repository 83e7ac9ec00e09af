"""Off course: against a slow transcription, and what demonstrations, delays and known failures are worth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from traces import D, meta, trace, traces

from failwise.detect import Trace, load_detector, make_detector, score_trace
from failwise.errors import DataError, SetupError
from failwise.evaluate.detection import Scored, roc_auc

OWN = traces(24)
DEMOS = [trace(500 + i, False) for i in range(8)]


def two_views(one: Trace) -> Trace:
    """With the first five features as one part and the others as another."""
    extra = {"features": "prefix-first+prefix-mean", "feature_widths": [5, D - 5]}
    return replace(one, meta=one.meta.model_copy(update={"extra": extra}), pooling="prefix-first+prefix-mean")


def elsewhere(one: Trace) -> Trace:
    """The same course in another part of feature space, as another task is."""
    moved = one.features + np.linspace(4, -4, D, dtype=np.float32)
    return replace(one, features=moved, meta=one.meta.model_copy(update={"env_id": "tiny/push"}))


def auc(fitted, episodes) -> float:
    return roc_auc([Scored("a", t.failed, score_trace(fitted, t.until(28))) for t in episodes])


@pytest.mark.parametrize(("failures", "views"), [(0.0, 1), (3.0, 1), (3.0, 2)])
def test_it_is_the_sum_of_excess_distances_and_the_delay(failures, views):
    known, given = [DEMOS, OWN] if views == 1 else [[two_views(t) for t in some] for some in (DEMOS, OWN)]
    fitted = make_detector("off-course", k=3, late=0.2, failures=failures).fit(given, demonstrations=known)
    mean, std = fitted.scaler.mean.astype(float), fitted.scaler.std.astype(float)
    parts = [slice(0, D)] if views == 1 else [slice(0, 5), slice(5, D)]
    ways = [((e.astype(float) - mean) / std, n) for n, t in enumerate(known) for e in t.features]
    left = [t.meta.first_success_step - s for t in known for s in t.asked]
    own = [[min(math.dist(x[p], z[p]) for z, m in ways if m != n) for x, n in ways] for p in parts]
    tried = [((e.astype(float) - mean) / std, t.failed) for t in given for e in t.features]
    rate = sum(failed for _, failed in tried) / len(tried)
    for t in (trace(900, True), trace(901, False)):
        expected, excess, failing, first = [], 0.0, 0.0, None
        for number, (e, step) in enumerate(zip(t.features, t.asked, strict=True), start=1):
            x, remaining = (e.astype(float) - mean) / std, 0.0
            for p, lies in zip(parts, own, strict=True):
                order = sorted(range(len(ways)), key=lambda i: math.dist(x[p], ways[i][0][p]))
                beyond = math.dist(x[p], ways[order[0]][0][p]) - lies[order[0]]
                excess += max(0.0, beyond) / (sum(lies) / len(lies)) / views
                remaining += sum(left[i] for i in order[:3]) / 3 / views
            first = remaining if first is None else first
            score = excess + 0.2 * (remaining + step - first) * (step / (step + remaining) if step else 0.0)
            if failures:
                near = sorted(tried, key=lambda known: math.dist(x, known[0]))[:20]
                w = [math.exp(-0.5 * (math.dist(x, z) / fitted.width) ** 2) for z, _ in near]
                said = sum(wi * (failed - rate) for wi, (_, failed) in zip(w, near, strict=True)) / (sum(w) + 2)
                failing += said
                score += failures * failing / number
            expected.append(score)
        np.testing.assert_allclose(score_trace(fitted, t)[t.asked], expected, rtol=1e-4, atol=1e-4)


def test_demonstrations_make_a_task_known_of_which_there_is_no_episode():
    there = [elsewhere(t) for t in traces(30, 2000)]
    known = make_detector("off-course").fit(OWN, demonstrations=[*DEMOS, *map(elsewhere, DEMOS)])
    assert auc(known, there) > 0.9
    one = elsewhere(trace(3000, False))
    strange = make_detector("off-course").fit(OWN, demonstrations=DEMOS)
    assert score_trace(strange, one).max() > 10 * score_trace(known, one).max(), "another task is not a failure"


def test_standing_still_on_the_way_is_seen_by_the_delay_alone():
    way = trace(700, False)
    stuck = np.concatenate([way.features[:5], np.repeat(way.features[4:5], 11, axis=0)])
    asked = np.arange(0, 64, 4)
    actions = np.zeros((64, way.actions.shape[1]), np.float32)
    still = Trace(meta(701, True, 64), actions, asked, stuck, samples=None)
    fitted = make_detector("off-course").fit(OWN, demonstrations=[*DEMOS, way])
    blind = make_detector("off-course", late=0.0).fit(OWN, demonstrations=[*DEMOS, way])
    assert score_trace(blind, still).max() < 0.5
    assert score_trace(fitted, still)[-1] > 2 * score_trace(fitted, way)[-1]


def test_known_failures_tell_where_the_way_does_not():
    """Failures that run along the way, one step beside it: only episodes that went there before can tell."""

    def beside(t: Trace) -> Trace:
        aside = np.zeros(D, np.float32)
        aside[0] = 0.25 if t.failed else -0.25
        return replace(t, features=t.features * np.array([0.2] + [1] * (D - 1), np.float32) + aside)

    def on_the_way(n: int, start: int) -> list[Trace]:
        own = [trace(start + i, False) for i in range(n)]
        lost = [replace(t, meta=meta(start + i, True, len(t))) for i, t in enumerate(own) if i % 2]
        return [beside(t) for t in [*own[::2], *lost]]

    fit, test = on_the_way(40, 0), on_the_way(40, 100)
    demonstrations = [beside(t) for t in DEMOS] + [beside(replace(t, meta=meta(1, True, 9))) for t in DEMOS]
    demonstrations = [replace(t, meta=DEMOS[0].meta) for t in demonstrations]
    without = make_detector("off-course").fit(fit, demonstrations=demonstrations)
    told = make_detector("off-course", failures=20.0).fit(fit, demonstrations=demonstrations)
    assert auc(told, test) > 0.95 > 0.75 > auc(without, test)
    assert told.needs_failures and not without.needs_failures


def test_it_comes_back_from_its_folder_and_keeps_a_part_of_the_ways(tmp_path):
    fitted = make_detector("off-course", failures=2.0, limit=40).fit(OWN, seed=3, demonstrations=DEMOS)
    assert len(fitted.ways[0].x) == 40
    fitted.save(tmp_path)
    for t in OWN[:3]:
        np.testing.assert_array_equal(score_trace(load_detector(tmp_path), t), score_trace(fitted, t))


def test_what_it_refuses():
    with pytest.raises(SetupError, match="late must be a positive number"):
        make_detector("off-course", late=-1.0)
    wide = replace(DEMOS[0], features=np.zeros((len(DEMOS[0].asked), D + 1), np.float32))
    with pytest.raises(DataError, match=f"of width {D}, the demonstration .* of width {D + 1}"):
        make_detector("off-course").fit(OWN, demonstrations=[wide])
    with pytest.raises(DataError, match="failed, or has features"):
        make_detector("off-course").fit(OWN, demonstrations=[trace(1, True)])
    with pytest.raises(DataError, match="learns from failures"):
        make_detector("off-course", failures=1.0).fit([t for t in OWN if not t.failed], demonstrations=DEMOS)
    alone = make_detector("off-course").fit(OWN, demonstrations=DEMOS[:1])
    assert np.isfinite(score_trace(alone, OWN[0])).all(), "a lone demonstration has no neighbour to be compared with"
