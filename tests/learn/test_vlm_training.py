"""Fine-tuning a vision-language model: the loss is the answer's alone, an interruption changes no bit, two questions
can be learned by heart, and what was saved says the same."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from failwise.errors import CheckpointError, DataError
from failwise.learn.options import VLMTraining
from failwise.learn.vlm_questions import Asked, read_questions

pytest.importorskip("peft")
from failwise.learn import vlm as module
from failwise.learn.vlm import answer_loss, backward, batch_rows, fit, prepare, schedule
from failwise.recover.pretrained import load_model, load_processor
from failwise.recover.vision_language import IGNORED, Asking, VisionLanguage

OPTIONS = VLMTraining(epochs=3, batch=2, frames=1, rank=4, learning_rate=1e-2, save_every=2, seed=3)


@pytest.fixture(scope="module")
def asked(questions: Path) -> list[Asked]:
    """Failing and correct in turn."""
    read = read_questions(questions)
    bad, fine = ([a for a in read if a.answer.failing is failing] for failing in (True, False))
    return [a for pair in zip(bad, fine, strict=False) for a in pair]


def ready(folder: str, options: VLMTraining = OPTIONS, frames: int = 1) -> VisionLanguage:
    model = prepare(load_model(folder), options)
    return VisionLanguage(model, load_processor(folder), Asking(frames, answer_tokens=120), folder)


def learned(vl: VisionLanguage) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in vl.model.named_parameters() if p.requires_grad}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(v, two[k]) for k, v in one.items())


def test_labels_are_the_answer_and_its_end_and_nothing_else(tiny_vlm: str, asked: list[Asked]) -> None:
    vl, pair = ready(tiny_vlm, frames=2), asked[:2]
    shown, tokenizer = [a.shown() for a in pair], vl.processor.tokenizer
    inputs, labels = vl.lesson(shown, [vl.answer_ids(a.answer.text()) for a in pair])
    assert labels.shape == inputs["input_ids"].shape == inputs["attention_mask"].shape
    for row, a in enumerate(pair):
        ids, mask = inputs["input_ids"][row], inputs["attention_mask"][row].bool()
        where = (labels[row] != IGNORED).nonzero()[:, 0]
        assert tokenizer.decode(labels[row][where]) == f" {a.answer.text()}<end_of_utterance>"
        assert where.tolist() == list(range(int(where[0]), int(mask.sum()))), "in one piece, up to the padding"
        assert torch.equal(ids[where], labels[row][where])
        alone = vl.prompts([shown[row]])["input_ids"][0]
        assert torch.equal(ids[: int(where[0])], alone), "the question is what generation begins with"
    assert len({len(vl.answer_ids(a.answer.text())) for a in pair}) == 2, "so that one row was padded"


def test_the_loss_is_the_models_own_on_these_labels(tiny_vlm: str, asked: list[Asked]) -> None:
    vl = ready(tiny_vlm)
    inputs, labels = vl.lesson([a.shown() for a in asked[:2]], [vl.answer_ids(a.answer.text()) for a in asked[:2]])
    with torch.no_grad():
        whole = vl.model(**inputs, labels=labels).loss
        scores, wanted = vl.logits(inputs, labels)
    assert scores.shape[1] < labels.shape[1] / 2, "no scores for the question"
    assert float(answer_loss(scores, wanted) / (wanted != IGNORED).sum()) == pytest.approx(float(whole), rel=1e-5)


def test_the_gradient_does_not_depend_on_how_many_are_in_memory(tiny_vlm: str, asked: list[Asked]) -> None:
    losses, gradients = [], []
    for at_once, checkpointing in ((1, False), (2, False), (3, False), (3, True)):
        vl = ready(tiny_vlm, replace(OPTIONS, checkpointing=checkpointing))
        with torch.no_grad():
            for name, p in vl.model.named_parameters():
                if "lora_B" in name:
                    p.fill_(0.01)  # LoRA begins at zero, where half of the gradient is zero
        losses.append(backward(vl, asked[:3], at_once))
        gradients.append(torch.cat([p.grad.flatten() for p in vl.model.parameters() if p.requires_grad]))
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-3, atol=1e-6)
    assert gradients[0].abs().max() > 1e-4


def test_lora_learns_in_the_language_model_and_leaves_the_rest(tiny_vlm: str, asked: list[Asked]) -> None:
    vl = ready(tiny_vlm)
    assert all("text_model" in name and "lora" in name for name in learned(vl))
    before = {k: v.clone() for k, v in vl.model.state_dict().items() if "lora" not in k}
    first = backward(vl, asked[:4], 2)
    vl.model.zero_grad()
    assert fit(vl, asked[:4], replace(OPTIONS, epochs=10), quiet=True) < 0.8 * first
    assert all(torch.equal(v, before[k]) for k, v in vl.model.state_dict().items() if "lora" not in k)


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A progress display at which the user presses Ctrl-C, after so many steps."""

    def press(self: object, step: int, loss: float, **more: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.TrainingProgress, "update", press)


def test_a_training_that_was_interrupted_ends_with_the_same_bits(
    tiny_vlm: str, asked: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = ready(tiny_vlm), ready(tiny_vlm)
    fit(whole, asked[:4], OPTIONS, quiet=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, at=5)
        fit(parts, asked[:4], OPTIONS, tmp_path, quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["training.safetensors"]
    fresh = ready(tiny_vlm, replace(OPTIONS, seed=9))  # other random weights, to be overwritten
    steps: list[int] = []
    monkeypatch.setattr(module.TrainingProgress, "update", lambda self, step, loss, **more: steps.append(step))
    fit(fresh, asked[:4], replace(OPTIONS, at_once=1), tmp_path, quiet=True)
    assert steps == [5, 6]
    assert same(learned(fresh), learned(whole)) and not same(learned(parts), learned(whole))
    with pytest.raises(CheckpointError, match="another learning_rate; remove it"):
        fit(fresh, asked[:4], replace(OPTIONS, learning_rate=1e-3), tmp_path, quiet=True)
    with pytest.raises(CheckpointError, match="another questions; remove it"):
        fit(fresh, asked[1:5], OPTIONS, tmp_path, quiet=True)


def test_all_weights_have_two_rates_and_a_still_tower_stays(tiny_vlm: str, asked: list[Asked]) -> None:
    still, moving = (replace(OPTIONS, full=True, vision_rate=rate) for rate in (0.0, 1e-3))
    for options in (still, moving):
        vl = ready(tiny_vlm, options)
        before = {name: p.detach().clone() for name, p in vl.model.named_parameters()}
        fit(vl, asked[:2], replace(options, epochs=1), quiet=True)
        moved = {name for name, p in vl.model.named_parameters() if not torch.equal(p, before[name])}
        assert any("text_model" in name for name in moved)
        assert any("vision_model" in name for name in moved) is (options is moving)
    assert (replace(still, learning_rate=None).rate, VLMTraining().rate) == (1e-5, 1e-4)


def test_the_rate_rises_for_three_in_a_hundred_steps_and_falls_to_nothing() -> None:
    rates = [schedule(step, 1000, 0.03) for step in range(1000)]
    assert max(rates) == rates[29] == rates[30] == 1.0
    assert all(a < b for a, b in pairwise(rates[:30]))
    assert all(a > b for a, b in pairwise(rates[30:]))
    assert rates[30 + 485] == pytest.approx(0.5) and rates[-1] < 1e-4
    assert schedule(0, 1, 0.03) == 1.0


def test_every_question_is_asked_once_before_any_a_second_time() -> None:
    options = replace(OPTIONS, batch=3)
    rows = [row for step in range(14) for row in batch_rows(step, 7, options)]
    epochs = [rows[at : at + 7] for at in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_rate_that_is_too_high_is_told(tiny_vlm: str, asked: list[Asked]) -> None:
    with pytest.raises(DataError, match=r"the loss is .* at step .*; lower the learning rate"):
        fit(ready(tiny_vlm), asked[:2], replace(OPTIONS, learning_rate=1e30, warmup=0.0), quiet=True)
