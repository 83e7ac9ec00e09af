"""The words in which a vision-language model is asked about the last frames, and its answer read.

The form is FailSafe's (arXiv 2510.01642): ten consecutive frames of every camera, the task; what is the sub-task, is it
failing, and if so, how, and what is the corrective move.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from failwise.errors import DataError

Picture = TypeVar("Picture")

FRAMES = 10
IMAGE = "<image>"
_RUN = re.compile(rf"(?:{IMAGE})+")
_ANSWER = re.compile(
    r"Sub-task: (?P<stage>[\w -]+)\. Failing: (?P<failing>yes|no)\."
    r"(?: Failure: (?P<mode>[\w-]+)(?: along (?P<axis>\w+))?\. Correction: \[(?P<delta>[-+\d., e]+)\]\.)?"
)


@dataclass(frozen=True)
class Answer:
    """What is asked of a model about the last frames.

    Attributes:
        stage: the sub-task. failing: whether it is. mode, axis: how, "" where it is not.
        delta: dA (7,): metres, radians, gripper from -1 open to 1 closed; () where it is not.
    """

    stage: str
    failing: bool
    mode: str = ""
    axis: str = ""
    delta: tuple[float, ...] = ()

    def text(self) -> str:
        """As a model is to say it."""
        said = f"Sub-task: {self.stage}. Failing: {'yes' if self.failing else 'no'}."
        if self.failing:
            along = f" along {self.axis}" if self.axis else ""
            said += f" Failure: {self.mode}{along}. Correction: [{', '.join(f'{x:+.3f}' for x in self.delta)}]."
        return said

    @classmethod
    def parse(cls, text: str) -> Answer:
        """What a model said.

        Raises:
            DataError: not in that form, or a move that is not seven numbers.
        """
        found = _ANSWER.search(text)
        if found is None:
            raise DataError(f"no answer of the form 'Sub-task: ... Failing: yes|no.' in {text[:80]!r}")
        if found["failing"] == "no":
            return cls(found["stage"], failing=False)
        try:
            delta = tuple(float(x) for x in (found["delta"] or "").split(","))
        except ValueError as error:
            raise DataError(f"the correction in {text[:160]!r} is not a list of numbers") from error
        if len(delta) != 7:
            raise DataError(f"a correction has 7 numbers, not {len(delta)}, in {text[:160]!r}")
        return cls(found["stage"], True, found["mode"], found["axis"] or "", delta)


def question(instruction: str, cameras: Sequence[str], frames: int) -> str:
    """What is asked, with one <image> for each picture, camera by camera."""
    views = " ".join(f"{camera}: {IMAGE * frames}" for camera in cameras)
    return (
        f"{views}\nA robot arm was told: {instruction} These are its last {frames} frames from each camera, oldest "
        "first. Name the sub-task that it is at, and say whether it is failing. If it is, name the failure, with the "
        "axis where it has one, and give the corrective move of the hand: x, y, z in metres, roll, pitch, yaw in "
        "radians, and the gripper from -1 (open) to 1 (closed)."
    )


def thinned(text: str, pictures: Sequence[Picture], frames: int) -> tuple[str, list[Picture]]:
    """The same question with at most ``frames`` pictures of each camera, evenly spaced, the last one among them.

    Args:
        text: a question with one <image> a picture, those of a camera side by side.
        pictures: in that order.
        frames: of each camera, at most.

    Raises:
        DataError: there are not as many pictures as places for them.
    """
    if (places := text.count(IMAGE)) != len(pictures):
        raise DataError(f"a question has {places} places for pictures and {len(pictures)} pictures: {text[:80]!r}")
    if frames < 1:
        raise DataError(f"a question needs at least one frame of each camera, not {frames}")
    kept: list[Picture] = []
    at = 0

    def fewer(run: re.Match[str]) -> str:
        nonlocal at
        there = len(run[0]) // len(IMAGE)
        count = min(frames, there)
        chosen = [there - 1 - round(i * (there - 1) / max(1, count - 1)) for i in range(count)][::-1]
        kept.extend(pictures[at + i] for i in chosen)
        at += there
        return IMAGE * count

    said = _RUN.sub(fewer, text)
    return re.sub(r"its last (\d+) frames", lambda m: f"its last {min(frames, int(m[1]))} frames", said), kept
