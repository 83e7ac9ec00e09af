"""A policy's features along demonstrations: as it records them where it acts, kept, and used by the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chunk_data import small_config

from failwise.cli import main
from failwise.detect import load_detector, load_traces
from failwise.errors import CheckpointError
from failwise.learn import demonstrations
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.demonstrations import demonstration_traces
from failwise.learn.options import FitOptions
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.store import EpisodeStore
from small_trainings import fit_precision

FEATURES = "prefix-mean+expert-mean"


@pytest.fixture(scope="module")
def policy(demos, tmp_path_factory) -> Path:
    fit = FitOptions(
        steps=200, batch=32, copies=4, warmup=20, learning_rate=3e-3, shift=0, save_every=0, ema=0.98,
        precision=fit_precision(),
    )  # fmt: skip
    return train_bc(demos, tmp_path_factory.mktemp("policy"), BCOptions(config=small_config(), fit=fit))


@pytest.fixture(scope="module")
def own(policy, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("own")
    items = [RolloutItem("parity/reach", s, s, "policy", str(policy)) for s in range(100, 140)]
    collect(items, out, workers=1, options=RolloutOptions(features=FEATURES), quiet=True)
    outcomes = {m.outcome for m in EpisodeStore(out).metas()}
    assert {"success"} < outcomes, "both outcomes, or nothing can be detected"
    return out


def test_they_are_what_the_policy_records_where_it_acts(policy, own):
    """Its own successes, taken as demonstrations: the same pictures give the same features."""
    acted = {t.meta.episode_id: t for t in load_traces(own, lambda m: m.outcome == "success")}
    seen = demonstration_traces(own, policy, FEATURES, quiet=True)
    assert {t.meta.episode_id for t in seen} == set(acted)
    for t in seen:
        mine = acted[t.meta.episode_id]
        np.testing.assert_array_equal(t.asked, mine.asked)
        np.testing.assert_array_equal(t.actions, mine.actions)
        part, theirs = t.only("prefix-mean").features, mine.only("prefix-mean").features
        np.testing.assert_allclose(part, theirs, atol=2e-5)
        assert t.only("expert-mean").features.shape == part.shape


def test_demonstrations_have_looks_of_their_own_and_the_lowest_seeds(demos, policy):
    two = demonstration_traces(demos, policy, "prefix-mean", per_task=2, quiet=True)
    assert [t.meta.env_seed for t in two] == [0, 1]
    assert all((np.diff(t.asked) == 2).all() and t.asked[0] == 0 and not t.failed for t in two)


def test_kept_features_are_taken_for_the_same_policy_only(demos, policy, tmp_path, monkeypatch):
    cache = tmp_path / "kept" / "features.safetensors"
    first = demonstration_traces(demos, policy, FEATURES, per_task=3, cache=cache, quiet=True)

    def refuse(*_):
        raise RuntimeError("encoded again")

    monkeypatch.setattr(demonstrations, "_encode", refuse)
    again = demonstration_traces(demos, policy, FEATURES, per_task=3, cache=cache, quiet=True)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.features, other.features)
        assert one.only("expert-mean").features.shape == other.only("expert-mean").features.shape
    for changed in ({"per_task": 2}, {"features": "prefix-mean"}):
        given = {"features": FEATURES, "per_task": 3, **changed}
        with pytest.raises(RuntimeError, match="encoded again"):
            demonstration_traces(demos, policy, given.pop("features"), cache=cache, quiet=True, **given)
    cache.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        demonstration_traces(demos, policy, FEATURES, per_task=3, cache=cache, quiet=True)


def test_the_command_line_fits_on_them(demos, policy, own, tmp_path, capsys):
    line = f"detect fit --episodes {own} --detector off-course --alpha 0.5 --calibration 0.7".split()
    given = ["--demos", str(demos), "--policy", str(policy)]
    assert main([*line, "--out", str(tmp_path / "with"), *given]) == 0
    assert main([*line, "--out", str(tmp_path / "without")]) == 0
    told, alone = (load_detector(tmp_path / name) for name in ("with", "without"))
    assert len(told.ways) == 2, "a view for each part of the features"
    assert len(told.ways[0].x) > len(alone.ways[0].x), "forty demonstrations are more than the own successes"
    assert (tmp_path / "with" / "demonstrations.safetensors").is_file()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--demos", "{demos}"], "--demos and --policy go together"),
        (["--demos", "nowhere", "--policy", "{policy}"], "--demos nowhere is not a folder"),
        (["--demos", "{demos}", "--policy", "{policy}", "--detector", "mahalanobis"], "does not use demonstrations"),
        (["--demos", "{demos}", "--policy", "{other}"], "the episodes are of"),
    ],
)
def test_bad_requests_are_one_line(demos, policy, own, tmp_path, capsys, more, message):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"weights of another policy")
    places = {"{demos}": demos, "{policy}": policy, "{other}": other}
    line = ["detect", "fit", "--episodes", str(own), "--out", str(tmp_path / "out"), "--detector", "off-course"]
    assert main([*line, *(str(places.get(part, part)) for part in more)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0], said
