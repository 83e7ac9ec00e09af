"""``failwise diagnose``: say why recorded episodes failed, by rules or by a classifier that learned from them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from failwise.cli.options import Actions, existing_folder, parse, run_action, writable_folder
from failwise.cli.tables import print_table
from failwise.errors import DataError, EpisodeError, SetupError

EPISODES = "episodes that 'failwise collect' wrote"


@dataclass(frozen=True)
class Label:
    """Say by rules why each failed episode failed, replaying its actions without pictures. The same command resumes."""

    episodes: Path
    """Folder of recorded episodes, of environments that tell poses (Meta-World, ManiSkill)."""
    out: Path
    """File for one JSON line a failed episode: mode, stage, axis, onset, correction."""


@dataclass(frozen=True)
class Fit:
    """Learn the mode from the policy's features, and score it on episodes that were held out."""

    episodes: Path
    """Folder of recorded episodes of one policy."""
    labels: Path
    """File that 'failwise diagnose label' wrote."""
    out: Path
    """Folder for the classifier."""
    held_out: float = 0.3
    """Share of the labelled episodes of each mode that is not learned from."""
    features: str = ""
    """Which of the recorded features it reads; without it all."""
    seed: int = 0
    """Of the split."""


@dataclass(frozen=True)
class Predict:
    """Say by a classifier why each failed episode failed."""

    episodes: Path
    """Folder of recorded episodes of the policy that the classifier was fitted on."""
    model: Path
    """Folder that 'failwise diagnose fit' wrote."""
    out: Path
    """File for one JSON line a failed episode."""


def label(argv: Sequence[str]) -> int:
    """Label by rules."""
    from failwise.diagnose import diagnose, replay
    from failwise.envs import make_env
    from failwise.rollout.progress import track
    from failwise.store import EpisodeStore

    asked = parse(Label, argv, "diagnose label")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    writable_folder(asked.out.parent)
    store = EpisodeStore(asked.episodes, create=False)
    failed = [m for m in store.metas() if m.has_verdict and m.outcome != "success" and m.n_steps]
    if not failed:
        raise DataError(f"no failed episode in {asked.episodes}: there is nothing to explain")
    wanted = {m.episode_id for m in failed}
    lines = [row for row in _read(asked.out, "--out") if row["episode"] in wanted] if asked.out.is_file() else []
    done = {row["episode"] for row in lines}
    todo = sorted((m for m in failed if m.episode_id not in done), key=lambda m: (m.env_id, m.env_seed))
    odd: list[str] = []
    env: Any = None
    try:
        for meta in track(todo, total=len(failed), done=len(done), title="replay", outcomes=False):
            if env is None or env.spec.env_id != meta.env_id:
                env = make_env(meta.env_id)
            try:
                found = diagnose(replay(env, store.read(meta.episode_id)))
            except (EpisodeError, DataError) as error:
                odd.append(str(error))
                continue
            one = {"episode": meta.episode_id, "env_id": meta.env_id, "onset": found.onset}
            lines.append({**one, **found.diagnosis.model_dump(mode="json")})
    finally:  # also on Ctrl-C: the same command goes on from here
        _write(asked.out, lines)
    if odd:
        print(f"failwise: {len(odd)} episodes could not be explained; the first: {odd[0]}", file=sys.stderr)
    _table(lines)
    print(asked.out)
    return 0


def fit(argv: Sequence[str]) -> int:
    """Learn and score."""
    import numpy as np

    from failwise.detect import load_traces
    from failwise.diagnose import Classifier, confusion

    asked = parse(Fit, argv, "diagnose fit")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    if not 0 < asked.held_out < 1:
        raise SetupError(f"--held-out {asked.held_out} must lie between 0 and 1")
    writable_folder(asked.out)
    modes = {row["episode"]: row["mode"] for row in _read(asked.labels, "--labels")}
    traces = load_traces(asked.episodes, lambda m: m.episode_id in modes, asked.features)
    random = np.random.default_rng(asked.seed)
    held: set[str] = set()
    for mode in sorted(set(modes.values())):
        names = [t.meta.episode_id for t in traces if modes[t.meta.episode_id] == mode]
        held |= {names[i] for i in random.permutation(len(names))[: round(asked.held_out * len(names))]}
    rest = [t for t in traces if t.meta.episode_id not in held]
    model = Classifier().fit(rest, [modes[t.meta.episode_id] for t in rest])
    model.save(asked.out)
    test = [t for t in traces if t.meta.episode_id in held]
    scores = confusion([modes[t.meta.episode_id] for t in test], [model.diagnose(t).mode for t in test])
    (asked.out / "held_out.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    print(
        f"held-out failures: {scores['n']}; accuracy {scores['accuracy']:.3f}, "
        f"balanced {scores['balanced_accuracy']:.3f}; "
        f"always saying the commonest mode would be right in {scores['commonest']:.3f}"
    )
    print(asked.out)
    return 0


def predict(argv: Sequence[str]) -> int:
    """Classify."""
    from failwise.detect import load_traces
    from failwise.diagnose import load_classifier

    asked = parse(Predict, argv, "diagnose predict")
    existing_folder(asked.episodes, "--episodes", EPISODES)
    model = load_classifier(asked.model)
    writable_folder(asked.out.parent)
    traces = load_traces(asked.episodes, lambda m: m.outcome != "success")
    lines = [
        {"episode": t.meta.episode_id, "env_id": t.meta.env_id, **model.diagnose(t).model_dump(mode="json")}
        for t in traces
    ]
    _write(asked.out, lines)
    _table(lines)
    print(asked.out)
    return 0


ACTIONS: Actions = {
    "label": ("modes, stages, axes and onsets by rules on the simulator's state", label),
    "fit": ("a classifier of modes from the policy's features, scored on held-out episodes", fit),
    "predict": ("modes by a classifier", predict),
}


def main(argv: Sequence[str]) -> int:
    """Run one action."""
    return run_action("diagnose", ACTIONS, argv)


def _write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    half = path.with_name(path.name + ".tmp")
    half.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    half.replace(path)


def _read(path: Path, option: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all({"episode", "mode"} <= set(row) for row in rows):
            raise ValueError("a line names no episode or no mode")
    except (OSError, ValueError, TypeError) as error:
        raise SetupError(f"{option} {path} cannot be read ({error}); write it with: failwise diagnose label") from error
    return rows


def _table(lines: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    counts = Counter((line["env_id"], line["mode"]) for line in lines)
    modes = sorted({mode for _, mode in counts})
    table = Table("task", *modes)
    for task in sorted({task for task, _ in counts}):
        table.add_row(task, *(str(counts[task, mode] or "") for mode in modes))
    print_table(table)
