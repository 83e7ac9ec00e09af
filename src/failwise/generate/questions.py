"""Questions and answers about failures on purpose, with pictures, for fine-tuning a vision-language model.

Written as the JSON that LLaVA's and most other training scripts read: a list of {"id", "image": [paths],
"conversations": [{"from", "value"}, ...]}. The words are those of ``failwise.recover.questions``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from failwise.errors import DataError
from failwise.generate.plan import stage_at
from failwise.recover.questions import FRAMES, Answer, question
from failwise.rollout.progress import track
from failwise.store import EpisodeStore, StoredEpisode
from failwise.types import EpisodeMeta

FILE = "questions.json"
PICTURES = "pictures"


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
    if not (data / "episodes").is_dir():
        raise DataError(_no_episodes(data))
    store = EpisodeStore(data / "episodes", create=False)
    made = [m for m in store.metas() if "stages" in m.extra]
    metas = sorted((m for m in made if m.n_frames), key=lambda m: m.episode_id)
    failing = [(m, int(c["at"]), c) for m in metas for c in m.extra.get("corrections", ())]
    if not failing:
        raise DataError(_why_not(data, made))
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


def _no_episodes(data: Path) -> str:
    """What a folder is that 'failwise generate' did not make, and the command that helps."""
    env_ids = sorted({m.env_id for m in EpisodeStore(data, create=False).scan()}) if data.is_dir() else []
    if env_ids:
        return (
            f"{data} is no folder that 'failwise generate --out' made, but recorded episodes; inject failures: "
            f"failwise generate --env {','.join(env_ids)} --out FOLDER (with --failures {data}, of Meta-World and "
            "ManiSkill, these own failures)"
        )
    return (
        f"{data} is no folder that 'failwise generate --out' made: it has no {data / 'episodes'}; make one: "
        "failwise generate --env ENV --out FOLDER"
    )


def _why_not(data: Path, made: list[EpisodeMeta]) -> str:
    """Why nothing can be asked about a folder's episodes, and the command that helps."""
    if not made:
        return (
            f"{data / 'episodes'} holds no injected failure, only episodes of 'failwise collect' or none; inject some: "
            "failwise generate --env ENV --out FOLDER"
        )
    corrected = sum(bool(m.extra.get("corrections")) for m in made)
    if corrected:
        return (
            f"{data}: {corrected} failures have a verified correction, but none of them has images; generate into "
            "another folder with --look-every 2"
        )
    if any("own" in m.extra for m in made):  # none that are recorded could be recovered from where it was tried
        return (
            f"{data}: none of {len(made)} episodes has a verified correction; search from more of their steps, into "
            "another folder: the same 'failwise generate --failures' with more --corrections"
        )
    return (
        f"{data}: none of {len(made)} episodes has a verified correction; let it search more: the same 'failwise "
        "generate' with more --episodes"
    )


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
