"""Questions are read as they were written, held out by layout, thinned alike everywhere, and judged by definition."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from failwise.errors import DataError
from failwise.learn.vlm_questions import Asked, judge_answers, read_questions, split, stride_of, window_of
from failwise.recover.questions import Answer, question, thinned

FAILING = Answer("near puck", True, "translation", "x", (0.03, 0.04, 0.0, 0.0, 0.0, 0.0, -1.0))
FINE = Answer("near puck", False)


def asked(name: str, answer: Answer = FINE) -> Asked:
    return Asked(name, "", (), answer)


def test_what_was_exported_is_read(questions: Path) -> None:
    read = read_questions(questions)
    entries = json.loads((questions / "questions.json").read_text())
    assert [(a.name, a.text, a.answer.text()) for a in read] == [
        (e["id"], e["conversations"][0]["value"], e["conversations"][1]["value"]) for e in entries
    ]
    text, pictures = read[0].shown()
    assert text == read[0].text
    np.testing.assert_array_equal(pictures[-1], Image.open(questions / entries[0]["image"][-1]))
    assert (stride_of(read), window_of(read)) == (2, 10)


def test_no_layout_is_both_learned_from_and_held_out() -> None:
    names = [f"tiny.push--{arm}--{seed:06d}@{step}" for arm in "ab" for seed in range(10) for step in (3, 5)]
    learned, judged = split([asked(name) for name in names], 0.2, seed=0)
    assert {a.layout for a in judged}.isdisjoint(a.layout for a in learned)
    assert len({a.layout for a in judged}) == 2 and len(judged) == 8, "both arms and both steps of two seeds"
    assert len(learned) + len(judged) == len(names)
    other = {a.layout for a in split([asked(name) for name in names], 0.2, seed=1)[1]}
    assert other != {a.layout for a in judged}
    with pytest.raises(DataError, match="one layout"):
        split([asked("tiny.push--a--000001@3"), asked("tiny.push--b--000001@9")], 0.5, seed=0)


@pytest.mark.parametrize(
    ("frames", "kept"), [(1, [9]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, range(10)), (99, range(10))]
)
def test_fewer_frames_are_evenly_spaced_and_end_with_the_last(frames: int, kept: list[int]) -> None:
    text = question("Push it.", ["top", "robot"], 10)
    pictures = [f"{camera}{i}" for camera in ("top", "robot") for i in range(10)]
    said, chosen = thinned(text, pictures, frames)
    assert chosen == [f"{camera}{i}" for camera in ("top", "robot") for i in kept]
    assert said == question("Push it.", ["top", "robot"], len(kept))


def test_a_question_with_a_picture_too_few_is_refused() -> None:
    with pytest.raises(DataError, match="20 places for pictures and 19"):
        thinned(question("Push it.", ["top", "robot"], 10), list("x" * 19), 2)


def test_answers_are_judged_by_definition() -> None:
    turned = Answer("near puck", True, "translation", "y", (-0.04, 0.03, 0.0, 0.0, 0.0, 0.0, 1.0))
    cases = [
        (FAILING, FAILING.text()),  # right in everything
        (FAILING, turned.text()),  # another axis, a move at a right angle, another gripper
        (FAILING, FINE.text()),  # missed
        (FAILING, "I see a robot."),  # unreadable: missed
        (FINE, FINE.text()),
        (FINE, FAILING.text()),  # a false alarm
        (FINE, ""),  # unreadable: right by luck, with the wrong sub-task
    ]
    found = judge_answers([asked("a@1", true) for true, _ in cases], [said for _, said in cases])
    assert found["binary"] == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert (found["kind"], found["cosine"], found["gripper"]) == pytest.approx((1 / 4, 1 / 4, 1 / 4))
    assert found["stage"] == pytest.approx(5 / 7)
    assert (found["unread"], found["moments"], found["failing_moments"], found["moves"]) == (2, 7, 4, 4)


def spoiled(folder: Path, change: str) -> None:
    """One question with one picture, and one thing wrong."""
    Image.new("RGB", (4, 4)).save(folder / "a-0001.png")
    entry = {
        "id": "tiny.push--a--000001@1", "image": ["a-0001.png"],
        "conversations": [{"from": "human", "value": "a: <image>"}, {"from": "gpt", "value": FINE.text()}],
    }  # fmt: skip
    entries: object = [entry]
    if change == "picture":
        (folder / "a-0001.png").unlink()
    elif change == "places":
        entry["image"] = ["a-0001.png"] * 2
    elif change == "answer":
        entry["conversations"][1]["value"] = "It fails."
    elif change == "form":
        del entry["image"]
    elif change == "list":
        entries = {}
    (folder / "questions.json").write_text("{" if change == "json" else json.dumps(entries))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("picture", "question 0 .*: no picture .*a-0001.png; export again"),
        ("places", "1 places for 2 pictures"),
        ("answer", "question 0 .*no answer of the form"),
        ("form", "question 0: not id, image and a conversation"),
        ("list", "holds no list of questions"),
        ("json", "is not JSON"),
    ],
)
def test_spoiled_questions_are_told_by_number(change: str, message: str, tmp_path: Path) -> None:
    spoiled(tmp_path, "")
    assert len(read_questions(tmp_path)) == 1
    spoiled(tmp_path, change)
    with pytest.raises(DataError, match=message) as caught:
        read_questions(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_picture_is_told(tmp_path: Path) -> None:
    spoiled(tmp_path, "")
    (tmp_path / "a-0001.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a-0001.png cannot be read as a picture"):
        read_questions(tmp_path)[0].shown()
