"""Exported questions about failures, read for training; which are held out; and how answers to them are judged."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from failwise.errors import DataError
from failwise.learn.figures import figures
from failwise.recover.questions import IMAGE, Answer

FILE = "questions.json"
_STEP = re.compile(r"-(\d+)\.png$")


@dataclass(frozen=True)
class Asked:
    """One question, with what is to be said.

    Attributes:
        name: "EPISODE@STEP". text: with one <image> a picture. pictures: files, camera by camera. answer: verified.
    """

    name: str
    text: str
    pictures: tuple[Path, ...]
    answer: Answer

    @property
    def layout(self) -> str:
        """Environment and seed; failures of one layout show the same things in the same places."""
        parts = self.name.rpartition("@")[0].split("--")
        return f"{parts[0]}--{parts[-1]}" if len(parts) == 3 else "--".join(parts) or self.name

    def shown(self) -> tuple[str, list[Image.Image]]:
        """The question and its pictures, read.

        Raises:
            DataError: a file is no picture.
        """
        try:
            images = []
            for path in self.pictures:
                with Image.open(path) as image:
                    images.append(image.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{path} cannot be read as a picture ({type(error).__name__}); export again") from error
        return self.text, images


def read_questions(folder: Path) -> list[Asked]:
    """All questions of a folder.

    Raises:
        DataError: no questions, not in the form of ``failwise export questions``, or a picture is missing.
    """
    path = folder / FILE
    if not path.is_file():
        raise DataError(f"{folder} has no {FILE}; write it with: failwise export questions --data DATA --out {folder}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); export again") from error
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} holds no list of questions; export again")
    return [_asked(entry, number, folder) for number, entry in enumerate(entries)]


def _asked(entry: Any, number: int, folder: Path) -> Asked:
    where = f"{folder / FILE}, question {number}"
    try:
        name, files = str(entry["id"]), [str(file) for file in entry["image"]]
        text, answer = (str(turn["value"]) for turn in entry["conversations"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: not id, image and a conversation of two turns ({error!r}); export again") from error
    pictures = tuple(folder / file for file in files)
    if text.count(IMAGE) != len(pictures):
        raise DataError(f"{where} ({name}): {text.count(IMAGE)} places for {len(pictures)} pictures")
    for picture in pictures:
        if not picture.is_file():
            raise DataError(f"{where} ({name}): no picture {picture}; export again")
    try:
        return Asked(name, text, pictures, Answer.parse(answer))
    except DataError as error:
        raise DataError(f"{where} ({name}): {error}") from error


def stride_of(asked: Sequence[Asked]) -> int:
    """The steps between pictures, by their file names; 2 where those do not say."""
    steps = [sorted({int(m[1]) for p in a.pictures if (m := _STEP.search(p.name))}) for a in asked]
    return min((int(gap) for row in steps for gap in np.diff(row)), default=2)


def window_of(asked: Sequence[Asked]) -> int:
    """The most pictures side by side in a question: those of one camera."""
    return max(len(run) // len(IMAGE) for a in asked for run in re.findall(rf"(?:{IMAGE})+", a.text))


def split(asked: Sequence[Asked], held_out: float, seed: int) -> tuple[list[Asked], list[Asked]]:
    """To learn from, and held out: no layout is in both.

    Raises:
        DataError: all questions are about one layout.
    """
    layouts = sorted({a.layout for a in asked})
    if len(layouts) < 2:
        raise DataError(f"all {len(asked)} questions are about one layout, so none can be held out; generate more")
    count = min(len(layouts) - 1, max(1, round(held_out * len(layouts))))
    chosen = set(np.random.default_rng(seed).choice(layouts, count, replace=False).tolist())
    return [a for a in asked if a.layout not in chosen], [a for a in asked if a.layout in chosen]


def judge_answers(asked: Sequence[Asked], said: Sequence[str]) -> dict[str, float]:
    """The figures of ``failwise.learn.figures``, and ``unread``: answers that nobody can read.

    Those count as "not failing" and as the wrong sub-task, as they do where a robot is moved by them.
    """
    heard = [_heard(text) for text in said]
    true = [a.answer for a in asked]
    moves = [(h.delta or (0.0,) * 7, t.delta) for h, t in zip(heard, true, strict=True) if t.delta]
    advised, verified = (np.array([pair[i] for pair in moves]).reshape(-1, 7) for i in (0, 1))
    found = figures(
        np.array([t.failing for t in true]), np.array([h.failing for h in heard]),
        [(t.mode, t.axis) for t in true], [(h.mode, h.axis) for h in heard],
        np.array([h.stage == t.stage for h, t in zip(heard, true, strict=True)]), advised, verified,
    )  # fmt: skip
    return {**found, "unread": sum(not h.stage for h in heard)}


def _heard(text: str) -> Answer:
    try:
        return Answer.parse(text)
    except DataError:
        return Answer("", False)
