"""The whole way: questions, training, a folder, and the same words from it; what cannot work is one line before."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from failwise.cli import main
from failwise.errors import CheckpointError, SetupError
from failwise.learn.options import VLMTraining
from failwise.learn.vlm_questions import read_questions
from failwise.recover.takeover import TakeoverOptions, load_takeover
from failwise.rollout import RolloutItem, collect
from failwise.types import Observation

pytest.importorskip("peft")
from failwise.learn.vlm import SCRATCH, _write, fit, prepare
from failwise.recover.local import LocalVLM, TunedVLM
from failwise.recover.pretrained import load_model, load_processor
from failwise.recover.vision_language import Asking, VisionLanguage

BY_HEART = VLMTraining(epochs=80, batch=2, at_once=2, frames=2, rank=16, learning_rate=1e-2)


@pytest.fixture(scope="module")
def two(questions: Path):
    """A failing moment and one that is not."""
    read = read_questions(questions)
    return [next(a for a in read if a.answer.failing is failing) for failing in (True, False)]


@pytest.fixture(scope="module")
def by_heart(tiny_vlm: str, two, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model that learned two questions by heart."""
    out = tmp_path_factory.mktemp("by_heart")
    asking = Asking(frames=2, answer_tokens=120)
    vl = VisionLanguage(prepare(load_model(tiny_vlm), BY_HEART), load_processor(tiny_vlm), asking, tiny_vlm)
    assert fit(vl, two, BY_HEART, quiet=True) < 0.05
    about = TunedVLM(base=tiny_vlm, weights="adapter", frames=2, answer_tokens=120, stride=3)
    _write(vl, about, out)
    return out


def test_two_questions_learned_by_heart_are_answered_word_for_word(by_heart: Path, two) -> None:
    actor = LocalVLM(str(by_heart))
    said = actor.model().say([a.shown() for a in two])
    assert said == [a.answer.text() for a in two]
    assert [actor.model().say([a.shown()])[0] for a in two] == said, "padding in a batch changes nothing"
    untaught = LocalVLM(actor.about.base).model().say([two[0].shown()])
    assert untaught != said[:1], "it is the adapter that knows"
    assert list(by_heart.rglob("*.bin")) == [] and (by_heart / "adapter" / "adapter_model.safetensors").is_file()


def test_as_a_recovery_actor_it_sees_what_it_was_taught_on(by_heart: Path, two) -> None:
    actor = load_takeover(str(by_heart), TakeoverOptions()).advisor
    assert isinstance(actor, LocalVLM) and (actor.window, actor.stride) == (10, 3)
    for asked in two:
        _, pictures = asked.shown()
        cameras = [part.split(":")[0].split()[-1] for part in asked.text.split("<image>") if part.endswith(": ")]
        instruction = asked.text.partition("was told: ")[2].partition(" These are")[0]
        actor.begin()
        for i in range(10):
            images = {camera: np.array(pictures[at * 10 + i]) for at, camera in enumerate(cameras)}
            actor.see(Observation(images, np.zeros(1, np.float32), instruction))
        advice = actor.advise()
        told = asked.answer
        assert (advice.failing, advice.stage, advice.mode) == (float(told.failing), told.stage, told.mode)
        assert advice.delta == (told.delta or (0.0,) * 7)
    assert actor.unread == 0


def test_it_is_asked_in_rollouts(by_heart: Path, tmp_path: Path) -> None:
    options = TakeoverOptions(attempts=1)
    item = RolloutItem("tiny/push", 1, 1, "a", "random:3", recover=f"vlm:transformers#{by_heart}", takeover=options)
    (meta,) = collect([item], tmp_path, workers=1, quiet=True)
    assert meta.error == "" and meta.extra["takeover"]["recovery"] == item.recover


@pytest.mark.parametrize("how", [[], ["--full"]])
def test_the_verb_trains_tells_figures_and_leaves_a_folder_that_answers(
    how: list[str], tiny_vlm: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "actor"
    argv = ["train", "vlm", "--data", str(questions), "--model", tiny_vlm, "--out", str(out), *how]
    argv += ["--epochs", "0.5", "--frames", "1", "--image-size", "16", "--judged", "2", "--held-out", "0.5"]
    assert main(argv) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == str(out) and "unreadable answers" in told[-2] and "mode and axis" in told[-2]
    about = TunedVLM.read(out)
    assert (about.weights, about.frames, about.image_size, about.stride) == ("model" if how else "adapter", 1, 16, 2)
    assert about.notes["figures"]["moments"] == 2 and about.base == str(Path(tiny_vlm).resolve())
    assert not (out / SCRATCH).exists()
    actor = load_takeover(f"vlm:transformers#{out}", TakeoverOptions()).advisor
    assert isinstance(actor, LocalVLM)
    asked = read_questions(questions)[0]
    assert isinstance(actor.model().say([asked.shown()])[0], str)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command is refused with, before it wrote anything."""
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_cannot_be_trained_is_one_line(
    tiny_vlm: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(data: Path = questions, model: str = tiny_vlm) -> str:
        return refused(["train", "vlm", "--data", str(data), "--model", model, "--out", str(tmp_path / "o")], capsys)

    (tmp_path / "empty").mkdir()
    assert "has no questions.json; write it with: failwise export questions" in train(data=tmp_path / "empty")
    assert "is no model that transformers can load" in train(model=str(tmp_path / "empty"))
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert "is a 'llama', not a vision-language model" in train(model=str(tmp_path / "words"))
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "LoRA needs peft: pip install 'failwise[vlm]'; or train all weights with --full" in train()


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="it is there")
def test_a_processor_that_needs_torchvision_says_so_before_any_work(
    tiny_vlm: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_vlm, tmp_path / "video")
    for path in (tmp_path / "video").glob("*.json"):
        path.write_text(path.read_text().replace("Idefics3Processor", "SmolVLMProcessor"))
    video = {"video_processor_type": "SmolVLMVideoProcessor", "processor_class": "SmolVLMProcessor"}
    (tmp_path / "video" / "video_preprocessor_config.json").write_text(json.dumps(video))
    argv = ["train", "vlm", "--data", str(questions), "--model", str(tmp_path / "video"), "--out", str(tmp_path / "o")]
    assert "needs torchvision: pip install torchvision" in refused(argv, capsys)


def test_folders_that_are_no_actor_are_told(by_heart: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="write vlm:transformers#FOLDER"):
        load_takeover("vlm:transformers#", TakeoverOptions())
    with pytest.raises(CheckpointError, match="no model that transformers can load"):
        load_takeover(f"vlm:transformers#{tmp_path}", TakeoverOptions())
    spoiled = tmp_path / "spoiled"
    shutil.copytree(by_heart, spoiled)
    (spoiled / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no adapter_model\.safetensors"):
        LocalVLM(str(spoiled)).model()
    (spoiled / "vlm.json").write_text(json.dumps({"format": "failwise-vlm-0"}))
    with pytest.raises(CheckpointError, match="is no model that 'failwise train vlm' wrote") as caught:
        load_takeover(str(spoiled), TakeoverOptions())
    assert "\n" not in str(caught.value)
