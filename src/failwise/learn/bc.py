"""Behaviour cloning: the base policy from successful demonstrations."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from failwise.errors import DataError, SetupError
from failwise.learn.data import load_chunks
from failwise.learn.fit import FitOptions, Source, fit
from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser
from failwise.store import EpisodeStore
from failwise.types import EpisodeMeta, Outcome


@dataclass(frozen=True)
class BCOptions:
    """Options of behaviour cloning."""

    fit: FitOptions = field(default_factory=FitOptions)
    """Length and rate of training."""
    config: CompactConfig = field(default_factory=CompactConfig)
    """Shapes of the policy; cameras and widths are taken from the data."""
    per_task: int = 0
    """Use at most so many successful episodes a task, those of the lowest seeds; 0 uses all."""


def train_bc(episodes: Path, out: Path, options: BCOptions | None = None) -> Path:
    """Train a compact VLA on a store's successful episodes; returns its folder.

    A run that was interrupted goes on where it stopped when called again.

    Raises:
        DataError: the store has no successful episode with pictures.
        SetupError: ``out`` cannot be written.
    """
    options = options or BCOptions()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot write to {out} ({error.strerror}); choose another --out") from error
    chosen = choose_demonstrations(episodes, options.per_task)
    data = load_chunks(episodes, options.config.horizon, lambda m: m.episode_id in chosen)
    config = replace(
        options.config,
        cameras={c: (x.shape[1], x.shape[2]) for c, x in data.images.items()},
        state_dim=data.states.shape[1],
        action_dim=data.actions.shape[2],
    )
    # Recorded actions are inside the environment's bounds, which are symmetric unit boxes in every suite here.
    bound = torch.ones(config.action_dim).numpy()
    normaliser = Normaliser.fit(data.states, data.actions[:, 0], -bound, bound)
    torch.manual_seed(options.fit.seed)
    policy = CompactVLA(config, normaliser)
    policy.text.add(all_wordings({m.env_id for m in data.episodes}, data.sentences))
    tasks = Counter(m.env_id for m in data.episodes)
    policy.notes = {"trained_on": dict(sorted(tasks.items())), "fit": asdict(options.fit)}
    trained = fit(policy, [Source(data)], options.fit, title="behaviour cloning", scratch=out / "training")
    trained.save(out)
    (out / "training" / "training.safetensors").unlink(missing_ok=True)
    if (out / "training").is_dir():
        (out / "training").rmdir()
    (out / "about.json").write_text(json.dumps(trained.notes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return out


def choose_demonstrations(episodes: Path, per_task: int) -> set[str]:
    """Ids of the successful episodes to imitate, the lowest seeds of each task first."""
    if not episodes.is_dir():
        raise DataError(f"no episode store at {episodes}; make one with: failwise collect --policy expert:mixed")
    by_task: dict[str, list[EpisodeMeta]] = {}
    for meta in EpisodeStore(episodes, create=False).metas():
        if meta.outcome == Outcome.SUCCESS and meta.n_frames:
            by_task.setdefault(meta.env_id, []).append(meta)
    if not by_task:
        raise DataError(f"{episodes} holds no successful episode with pictures to imitate")
    ordered = {t: sorted(m, key=lambda m: m.env_seed) for t, m in by_task.items()}
    return {m.episode_id for metas in ordered.values() for m in (metas[:per_task] if per_task else metas)}


def all_wordings(env_ids: set[str], sentences: tuple[str, ...]) -> list[str]:
    """Every sentence that these tasks may be told, so that the checkpoint needs no text encoder to run them."""
    from failwise.envs import make_env

    out = list(sentences)
    for env_id in sorted(env_ids):
        env = make_env(env_id)
        out += [env.spec.instruction, *env.spec.paraphrases, *env.spec.held_out]
        env.close()
    return list(dict.fromkeys(out))
