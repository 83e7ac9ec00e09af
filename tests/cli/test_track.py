"""``--track`` on the verbs: the curves tell what was recorded, and recording does not notice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from failwise.cli import main
from failwise.evaluate import Comparison, verdicts
from failwise.learn.fit import _schedule
from failwise.learn.options import FitOptions
from failwise.store import EpisodeStore
from failwise.types import Outcome
from tracking.event_files import scalars, text

COLLECT = "collect --env tiny/reach,tiny/push --policy random --workers 1"
SMALL = "--config.width 32 --config.attention-heads 2 --config.conv-channels 8 8 8 --config.backbone-layers 1 "
SMALL += "--config.expert-layers 1 --fit.steps 6 --fit.batch 8 --fit.warmup 2 --fit.learning-rate 0.001"


def run(command: str, out: Path, track: str = "") -> None:
    assert main([*command.split(), "--out", str(out), *(["--track", track] if track else [])]) == 0


def episodes(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for name in EpisodeStore(out).ids() for p in (out / name).iterdir()}


def test_outcomes_by_arm_as_episodes_end_and_the_same_bytes(tmp_path: Path) -> None:
    run(f"{COLLECT} --episodes 4", tmp_path / "plain")
    assert not (tmp_path / "plain" / "tensorboard").exists()
    run(f"{COLLECT} --episodes 3", tmp_path / "told", "tensorboard")
    run(f"{COLLECT} --episodes 4", tmp_path / "told", "tensorboard")
    assert episodes(tmp_path / "told") == episodes(tmp_path / "plain")
    metas = EpisodeStore(tmp_path / "told").metas()
    found = scalars(tmp_path / "told")
    curves = {outcome: found[f"episodes/random/{outcome}"] for outcome in Outcome}
    for curve in curves.values():
        assert [step for step, _ in curve] == list(range(1, 9)), "the resumed command counts on"
    for at in range(8):
        assert sum(curve[at][1] for curve in curves.values()) == at + 1
    for outcome, curve in curves.items():
        assert curve[-1][1] == sum(meta.outcome == outcome for meta in metas)
    rate = sum(meta.outcome == Outcome.SUCCESS for meta in metas) / 8
    assert found["episodes/random/success_rate"][-1] == (8, pytest.approx(rate))


def test_an_evaluation_leaves_its_figures_and_its_verdict(tmp_path: Path) -> None:
    run("evaluate --env tiny/reach --arms random,expert --seeds 8 --workers 1", tmp_path, "tensorboard")
    comparison = Comparison.model_validate_json((tmp_path / "comparison.json").read_text())
    found = scalars(tmp_path)
    for arm in comparison.arms:
        assert [step for step, _ in found[f"episodes/{arm.arm}/success_rate"]] == list(range(1, 9))
        rate = arm.pooled.rate
        for name, value in (("", rate.point), ("_lower", rate.lower), ("_upper", rate.upper)):
            assert found[f"summary/{arm.arm}/success{name}"] == [(0, pytest.approx(value))]
    assert found["summary/expert/difference"] == [(0, pytest.approx(comparison.against[0].pooled.difference.point))]
    assert [text(tmp_path, "summary/expert/verdict")] == verdicts(comparison)
    assert '"arms": "random,expert"' in text(tmp_path, "options") and "track" not in text(tmp_path, "options")


def test_a_training_leaves_loss_and_learning_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("collect --env tiny/reach --policy expert --quality mixed --episodes 4 --workers 1", tmp_path / "demos")
    trainings = f"train bc --episodes {tmp_path / 'demos'} {SMALL}"
    run(trainings, tmp_path / "plain")
    run(trainings, tmp_path / "told", "tensorboard")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "told")
    assert (tmp_path / "told/model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()
    found = scalars(tmp_path / "told")
    options = replace(FitOptions(), steps=6, warmup=2)
    rates = [(step + 1, pytest.approx(0.001 * _schedule(step, options))) for step in range(6)]
    assert found["behaviour cloning/learning_rate"] == rates
    losses = [loss for _, loss in found["behaviour cloning/loss"]]
    smooth = losses[0]
    for loss in losses[1:]:
        smooth = 0.98 * smooth + 0.02 * loss
    notes = json.loads((tmp_path / "told/about.json").read_text())
    assert notes["final_loss"] == pytest.approx(smooth), "each step's own loss, not the smoothed one"


@pytest.mark.parametrize(
    "verb", [COLLECT, "evaluate --env tiny/reach --arms random,expert", "improve --env tiny/reach"]
)
def test_a_wrong_name_is_told_before_any_work(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = ["--policy", str(tmp_path)] if verb.startswith("improve") else []
    assert main([*verb.split(), *policy, "--out", str(tmp_path / "out"), "--track", "tensorbord"]) == 2
    assert "unknown tracker 'tensorbord'. Did you mean 'tensorboard'?" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
