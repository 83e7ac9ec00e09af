"""What ``failwise improve`` offers for a checkpoint of LeRobot: a critic of its features, and its failure expert."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from failwise.errors import DataError, SetupError
from failwise.improve import ImproveOptions, improve
from failwise.improve.frozen import check_fit, fit_frozen, load_frozen
from failwise.learn.options import CriticOptions
from failwise.policies.critic_config import CriticConfig
from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore
from small_trainings import fit_precision

pytestmark = pytest.mark.lerobot

OPTIONS = ImproveOptions(
    samples=(4,),
    guidance=(1.0,),
    critic=CriticOptions(
        config=CriticConfig(width=16, attention_heads=2, layers=1, members=2),
        steps=5,
        batch=16,
        precision=fit_precision(),
    ),
)


@pytest.mark.parametrize(("fixture", "steerable"), [("dual", True), ("dual_diffusion", True), ("smolvla", False)])
def test_candidates_of_a_checkpoint_act(fixture: str, steerable: bool, request, tmp_path: Path) -> None:
    policy = f"lerobot:{request.getfixturevalue(fixture)}"
    items = [RolloutItem("tiny/reach", s, s, "own", policy) for s in range(6)]
    collect(items, tmp_path / "round1" / "episodes", workers=1, quiet=True)
    for number, meta in enumerate(EpisodeStore(tmp_path / "round1" / "episodes").metas()):
        path = tmp_path / "round1" / "episodes" / meta.episode_id / "meta.json"
        said = json.loads(path.read_text())  # weights at random never succeed: three of six are said to have
        path.write_text(json.dumps(said | ({"outcome": "success", "success_once": True} if number % 2 else {})))
    check_fit(load_frozen(policy, OPTIONS), policy, ["tiny/reach"])
    stores = [tmp_path / "round1" / "episodes"]
    candidates, divergence, notes = fit_frozen(policy, stores, tmp_path / "round1", OPTIONS)
    assert (divergence > 0) == steerable and {"held_out_auc_value", "held_out_auc_critic"} <= notes.keys()
    names = {"unsteered", "best-of-4"} | (
        {"fixed-1", "adaptive-1", "gated-1", "gated-1-best-of-4"} if steerable else set()
    )
    assert {c.name for c in candidates} == names
    runs = [RolloutItem("tiny/reach", 7, 7, n, str(tmp_path / "round1" / "candidates" / n)) for n in sorted(names)]
    metas = collect(
        [*runs, RolloutItem("tiny/reach", 7, 7, "given", policy)], tmp_path / "tried", workers=1, quiet=True
    )
    assert not [m.error for m in metas if m.error]
    store = EpisodeStore(tmp_path / "tried")
    actions = {m.arm: store.read(m.episode_id).actions().tobytes() for m in metas}
    assert actions["unsteered"] == actions["given"], "it is the policy as it was given"
    assert len({actions[name] for name in names}) > len(names) // 2, "steering changes what is done"


def test_what_does_not_fit_is_told_before_anything_runs(smolvla: Path, act: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="without a sampling that could be steered"):
        improve(["tiny/reach"], Path(f"lerobot:{act}"), tmp_path / "run", OPTIONS)
    with pytest.raises(DataError, match="collected episodes failed"):
        improve(["tiny/reach"], smolvla, tmp_path / "two", replace(OPTIONS, episodes=2, workers=1))
    assert not (tmp_path / "run").exists()
