"""Questions for a VLM: their pictures are the last ones, their answers are what was verified, and can be read back."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from failwise.cli import main
from failwise.envs.tiny import make
from failwise.errors import DataError
from failwise.generate import GenerateOptions, Request, cells_of, generate
from failwise.generate.plan import stage_at
from failwise.generate.questions import _no_episodes, _why_not, export_questions
from failwise.recover.questions import FRAMES, Answer
from failwise.rollout import RolloutItem, collect
from failwise.store import EpisodeStore


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("failures")
    requests = [Request(mode=mode, episodes=3) for mode in ("translation", "wrong_sequence")]
    generate(cells_of(make("push"), requests), out, GenerateOptions(workers=1, look_every=1))
    return out


def test_every_correction_is_asked_for_and_as_many_correct_moments(data: Path, tmp_path: Path) -> None:
    entries = json.loads(export_questions(data, tmp_path).read_text())
    store = EpisodeStore(data / "episodes")
    corrections = {f"{m.episode_id}@{c['at']}": c for m in store.metas() for c in m.extra.get("corrections", ())}
    answers = {e["id"]: Answer.parse(e["conversations"][1]["value"]) for e in entries}
    assert {name for name, answer in answers.items() if answer.failing} == set(corrections)
    assert sum(not a.failing for a in answers.values()) == len(corrections)
    for name, correction in corrections.items():
        done = store.read(name.split("@")[0]).meta.extra["perturbation"]
        assert (answers[name].mode, answers[name].axis) == (done["mode"], done["axis"])
        np.testing.assert_allclose(answers[name].delta, correction["delta"], atol=5e-4)


def test_pictures_are_the_last_ones_up_to_the_moment_camera_by_camera(data: Path, tmp_path: Path) -> None:
    entries = json.loads(export_questions(data, tmp_path).read_text())
    store = EpisodeStore(data / "episodes")
    for entry in entries:
        name, _, step = entry["id"].partition("@")
        episode = store.read(name)
        cameras = episode.meta.cameras
        assert entry["conversations"][0]["value"].count("<image>") == len(entry["image"]) == FRAMES * len(cameras)
        steps = [max(0, int(step) - FRAMES + 1 + k) for k in range(FRAMES)]
        for place, camera in enumerate(cameras):
            shown = entry["image"][place * FRAMES : (place + 1) * FRAMES]
            assert [int(p[-8:-4]) for p in shown] == steps
            picture = np.asarray(Image.open(tmp_path / shown[-1]))
            np.testing.assert_array_equal(picture, episode.frames(camera, [int(step)])[0])


def test_a_recorded_stage_is_found_by_its_steps_not_by_its_place_in_the_file(data: Path) -> None:
    spans = {"grasped": [8, 13], "near_goal": [13, 20], "near_object": [0, 8], "success": [20, 23]}
    found = [stage_at(spans, step) for step in (0, 7, 8, 12, 13, 22, 40)]
    assert found == ["near_object", "near_object", "grasped", "grasped", "near_goal", "success", "success"]
    read = next(m for m in EpisodeStore(data / "episodes").metas() if m.arm == "plan").extra["stages"]
    assert stage_at(read, 0) == "near_puck", "the first thing that the expert of tiny/push does"


@pytest.mark.parametrize(
    "answer",
    [
        Answer("near goal", False),
        Answer("near goal", True, "slip", "", (0.01, -0.2, 0.0, 0.0, 0.0, 0.1, 1.0)),
        Answer("grasped", True, "translation", "x", (0.0, 0.0, 0.123, 0.0, 0.0, 0.0, -1.0)),
    ],
)
def test_answers_are_read_back(answer: Answer) -> None:
    assert Answer.parse("Well. " + answer.text() + " Good luck!") == answer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I cannot help with that.", "no answer of the form"),
        ("Sub-task: grasp. Failing: yes. Failure: slip. Correction: [1, 2].", "7 numbers, not 2"),
        ("Sub-task: grasp. Failing: yes.", "not a list of numbers"),
    ],
)
def test_what_is_no_answer_is_told(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Answer.parse(text)


def test_the_verb(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "questions", "--data", str(data), "--out", str(tmp_path / "qa"), "--correct", "0"]) == 0
    assert capsys.readouterr().out.strip().endswith("questions.json")
    entries = json.loads((tmp_path / "qa" / "questions.json").read_text())
    assert entries and all(Answer.parse(e["conversations"][1]["value"]).failing for e in entries)
    assert main(["export", "questions", "--data", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    (tmp_path / "empty" / "episodes").mkdir(parents=True)
    assert main(["export", "questions", "--data", str(tmp_path / "empty"), "--out", str(tmp_path)]) == 2
    assert "holds no injected failure, only episodes of 'failwise collect' or none" in capsys.readouterr().err


def test_what_is_missing_is_named_with_the_command_that_helps(tmp_path: Path) -> None:
    collect([RolloutItem("tiny/push", 0, 0, "x", "expert")], tmp_path / "own" / "episodes", workers=1, quiet=True)
    with pytest.raises(DataError, match=r"holds no injected failure.*inject some: failwise generate --env"):
        export_questions(tmp_path / "own", tmp_path / "out")
    collected = tmp_path / "own" / "episodes"
    with pytest.raises(DataError, match=r"inject failures: failwise generate --env tiny/push --out FOLDER") as caught:
        export_questions(collected, tmp_path / "out")
    assert "\n" not in str(caught.value)
    (tmp_path / "nothing").mkdir()
    for folder in (tmp_path / "nothing", tmp_path / "not there"):
        with pytest.raises(
            DataError, match=r"it has no .*episodes; make one: failwise generate --env ENV --out FOLDER"
        ):
            export_questions(folder, tmp_path / "out")
    assert not (tmp_path / "not there").exists()
    options = GenerateOptions(workers=1, look_every=0)
    generate(cells_of(make("push"), [Request(mode="translation", episodes=2)]), tmp_path / "blind", options)
    with pytest.raises(DataError, match=r"\d failures have a verified correction, but none .* --look-every 2"):
        export_questions(tmp_path / "blind", tmp_path / "out")


def test_every_command_that_a_refusal_names_exists(tmp_path: Path, data: Path, capsys) -> None:
    """The remedy of each refusal is one of generate's own options."""
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    help_text = capsys.readouterr().out
    plan = next(m for m in EpisodeStore(data / "episodes").metas() if "stages" in m.extra)
    bare = plan.model_copy(update={"extra": {"stages": plan.extra["stages"]}})
    own = bare.model_copy(update={"extra": {**bare.extra, "own": True}})
    corrected = bare.model_copy(update={"extra": {**bare.extra, "corrections": [{"at": 1}]}})
    remedies = [_why_not(data, made) for made in ([], [bare], [own], [corrected])] + [_no_episodes(tmp_path / "x")]
    for remedy, option in zip(remedies, ("--env", "--episodes", "--corrections", "--look-every", "--env"), strict=True):
        assert option in remedy.rpartition(";")[2]
        assert all(word in help_text for word in re.findall(r"--[a-z-]+", remedy)), remedy
