"""The mode of a failure from features, and the command around it."""

import json

import numpy as np
import pytest

from failwise.cli import main
from failwise.detect import Trace
from failwise.diagnose import Classifier, confusion, load_classifier
from failwise.diagnose.learned import summary
from failwise.errors import CheckpointError, DataError
from failwise.types import EpisodeMeta, Outcome

D = 6


def failure(index, mode):
    random = np.random.default_rng(index)
    meta = EpisodeMeta(
        episode_id=f"e{index}", env_id="tiny/reach", task="reach", instruction="go", env_seed=index, policy_seed=index,
        outcome=Outcome.TIMEOUT, n_steps=20, step_limit=20, control_hz=20.0,
    )  # fmt: skip
    features = random.normal(size=(5, D)).astype(np.float32)
    features[2:, {"drop": 0, "reach": 1, "grasp": 2}[mode]] += 4.0
    return Trace(meta, np.zeros((20, 3), np.float32), np.arange(0, 20, 4), features)


def some(n, start=0, modes=("drop", "reach", "grasp")):
    named = [modes[i % len(modes)] for i in range(n)]
    return [failure(start + i, mode) for i, mode in enumerate(named)], named


@pytest.mark.parametrize("modes", [("drop", "reach", "grasp"), ("drop", "reach")])
def test_modes_are_learned_and_come_back_from_disk(modes, tmp_path):
    traces, named = some(60, modes=modes)
    model = Classifier().fit(traces, named)
    test, truth = some(30, 1000, modes)
    said = [model.diagnose(t) for t in test]
    assert confusion(truth, [d.mode for d in said])["accuracy"] > 0.9
    assert all(1 / len(modes) <= d.confidence <= 1 for d in said)
    model.save(tmp_path)
    again = load_classifier(tmp_path)
    for t in test[:5]:
        np.testing.assert_allclose(again.probabilities(t), model.probabilities(t), rtol=1e-6)


@pytest.mark.parametrize("modes", [("drop", "reach", "grasp"), ("drop", "reach")])
def test_the_probabilities_are_those_of_scikit_learn(modes):
    from sklearn.linear_model import LogisticRegression

    traces, named = some(40, modes=modes)
    model = Classifier(strength=0.2).fit(traces, named)
    x = model.scaler(np.stack([summary(t) for t in traces]))
    theirs = LogisticRegression(C=0.2, class_weight="balanced", max_iter=2000).fit(x, named)
    ours = np.stack([model.probabilities(t) for t in traces])
    np.testing.assert_allclose(ours, theirs.predict_proba(x), rtol=1e-4, atol=1e-6)


def test_the_future_is_not_read():
    whole = failure(3, "drop")
    first = Trace(whole.meta, whole.actions[:9], whole.asked[:3], whole.features[:3])
    assert np.array_equal(summary(whole.until(9)), summary(first))


def test_what_cannot_be_learned_is_one_line(tmp_path):
    traces, named = some(12)
    with pytest.raises(DataError, match="at least two modes with 5"):
        Classifier().fit(traces, named)
    model = Classifier().fit(*some(30))
    narrow = failure(1, "drop")
    narrow = Trace(narrow.meta, narrow.actions, narrow.asked, narrow.features[:, :3])
    with pytest.raises(DataError, match="features of width 3, fitted on 6"):
        model.diagnose(narrow)
    with pytest.raises(CheckpointError, match="no usable diagnoser"):
        load_classifier(tmp_path)


def test_confusion_counts():
    got = confusion(["a", "a", "a", "b"], ["a", "a", "b", "b"])
    assert (got["n"], got["accuracy"], got["commonest"]) == (4, 0.75, 0.75)
    assert got["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2) and got["table"]["a"] == {"a": 2, "b": 1}
    with pytest.raises(DataError, match="no labelled failures"):
        confusion([], [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["label", "--episodes", "nowhere", "--out", "x.jsonl"], "--episodes nowhere is not a folder"),
        (["predict", "--episodes", ".", "--model", "nowhere", "--out", "x.jsonl"], "no usable diagnoser"),
        (["label", "--episodes", ".", "--out", "x.jsonl"], "no failed episode"),
        (["explain"], "unknown diagnose action 'explain'"),
    ],
)
def test_bad_requests(line, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose", *line]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_labels_that_are_none_are_told(capsys, tmp_path):
    (tmp_path / "labels").write_text(json.dumps({"episode": "e1"}) + "\n")
    line = ["diagnose", "fit", "--episodes", str(tmp_path), "--labels", str(tmp_path / "labels")]
    assert main([*line, "--out", str(tmp_path / "out")]) == 2
    assert "a line names no episode or no mode" in capsys.readouterr().err
