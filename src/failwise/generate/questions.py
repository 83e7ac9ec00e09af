"""Questions and answers about failures on purpose, with pictures, for fine-tuning a vision-language model.

The form is FailSafe's (arXiv 2510.01642): ten consecutive frames of every camera, the task; what is the sub-task, is it
failing, and if so, how, and what is the corrective move. Written as the JSON that LLaVA's and most other training
scripts read: a list of {"id", "image": [paths], "conversations": [{"from", "value"}, ...]}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from failwise.errors import DataError
from failwise.generate.plan import stage_at
from failwise.rollout.progress import track
from failwise.store import EpisodeStore, StoredEpisode
from failwise.types import EpisodeMeta

FRAMES = 10
FILE = "questions.json"
PICTURES = "pictures"
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
    views = " ".join(f"{camera}: {'<image>' * frames}" for camera in cameras)
    return (
        f"{views}\nA robot arm was told: {instruction} These are its last {frames} frames from each camera, oldest "
        "first. Name the sub-task that it is at, and say whether it is failing. If it is, name the failure, with the "
        "axis where it has one, and give the corrective move of the hand: x, y, z in metres, roll, pitch, yaw in "
        "radians, and the gripper from -1 (open) to 1 (closed)."
    )


def export_questions(data: Path, out: Path, correct: float = 1.0, seed: int = 0) -> Path:
    """Write one question for each verified correction, and so many about moments that do not fail.

    Args:
        data: folder that ``failwise.generate.generate`` made, with pictures.
        out: folder for ``questions.json`` and the pictures.
        correct: questions about correct moments for each about a failing one.
        seed: of their choice.

    Returns:
        The JSON file.

    Raises:
        DataError: no failure with a verified correction and pictures.
    """
    store = EpisodeStore(data / "episodes", create=False)
    metas = sorted((m for m in store.metas() if "stages" in m.extra and m.n_frames), key=lambda m: m.episode_id)
    failing = [(m, int(c["at"]), c) for m in metas for c in m.extra.get("corrections", ())]
    if not failing:
        raise DataError(f"{data} has no failure with a verified correction and pictures; generate some first")
    random = np.random.default_rng(seed)
    fine = [(m, step) for m in metas for step in _correct_steps(store.read(m.episode_id))]
    count = min(len(fine), round(correct * len(failing)))
    chosen = [fine[i] for i in sorted(random.choice(len(fine), count, replace=False))]
    asked = [(m, at, _failing(m, at, c)) for m, at, c in failing] + [
        (m, s, Answer(_stage(m, s), False)) for m, s in chosen
    ]
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    entries = [
        _entry(store, m, step, answer, out)
        for m, step, answer in track(asked, total=len(asked), title="questions", outcomes=False)
    ]
    path = out / FILE
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return path


def _entry(store: EpisodeStore, meta: EpisodeMeta, step: int, answer: Answer, out: Path) -> dict[str, Any]:
    episode = store.read(meta.episode_id)
    looks = episode.look_steps()
    last = int(np.searchsorted(looks, step, side="right")) - 1
    window = np.maximum(np.arange(last - FRAMES + 1, last + 1), 0).tolist()
    paths = []
    for camera in meta.cameras:
        frames = episode.frames(camera, sorted(set(window)))
        by_look = dict(zip(sorted(set(window)), frames, strict=True))
        for look in window:
            path = out / PICTURES / meta.episode_id / f"{camera}-{int(looks[look]):04d}.png"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(by_look[look]).save(path)
            paths.append(str(path.relative_to(out)))
    return {
        "id": f"{meta.episode_id}@{step}",
        "image": paths,
        "conversations": [
            {"from": "human", "value": question(meta.instruction, meta.cameras, FRAMES)},
            {"from": "gpt", "value": answer.text()},
        ],
    }


def _correct_steps(episode: StoredEpisode) -> Iterator[int]:
    """Recorded steps at which nothing had gone wrong yet, with frames before them."""
    events = episode.meta.failure_events
    until = events[0].onset_step if events else episode.meta.n_steps
    yield from (int(s) for s in episode.look_steps()[FRAMES - 1 :] if s < until)


def _failing(meta: EpisodeMeta, step: int, correction: dict[str, Any]) -> Answer:
    kind = meta.extra["kind"]
    return Answer(_stage(meta, step), True, kind["mode"], kind["axis"], tuple(correction["delta"]))


def _stage(meta: EpisodeMeta, step: int) -> str:
    return stage_at(meta.extra["stages"], step).replace("_", " ")
