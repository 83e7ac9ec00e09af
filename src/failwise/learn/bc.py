"""Behaviour cloning: the base policy from successful demonstrations."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from failwise.errors import CheckpointError, DataError, SetupError
from failwise.learn.data import load_chunks
from failwise.learn.fit import Source, fit
from failwise.learn.options import FitOptions
from failwise.policies import load_policy, policy_folder
from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser
from failwise.policies.compact.policy import weights_sha256
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
    start: Path | None = None
    """Train on from this compact policy instead of from random weights; its shapes and normaliser are kept."""


def train_bc(episodes: Path, out: Path, options: BCOptions | None = None) -> Path:
    """Train a compact VLA on a store's successful episodes; returns its folder.

    A run that was interrupted goes on where it stopped when called again.

    Raises:
        DataError: the store has no successful episode with pictures.
        SetupError: ``out`` cannot be written.
        CheckpointError: the policy to start from is none, or takes other cameras, states or actions than the data hold.
    """
    options = options or BCOptions()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot write to {out} ({error.strerror}); choose another --out") from error
    chosen = choose_demonstrations(episodes, options.per_task)
    horizon = options.config.horizon if options.start is None else load_policy(options.start).spec.horizon
    data = load_chunks(episodes, horizon, lambda m: m.episode_id in chosen)
    config = replace(
        options.config,
        cameras={c: (x.shape[1], x.shape[2]) for c, x in data.images.items()},
        state_dim=data.states.shape[1],
        action_dim=data.actions.shape[2],
    )
    if options.start is None:
        # Recorded actions are inside the environment's bounds, which are symmetric unit boxes in every suite here.
        bound = torch.ones(config.action_dim).numpy()
        normaliser = Normaliser.fit(data.states, data.actions[:, 0], -bound, bound)
        torch.manual_seed(options.fit.seed)
        policy = CompactVLA(config, normaliser)
    else:
        policy = _start_from(options.start, config)
    policy.text.add(all_wordings({m.env_id for m in data.episodes}, data.sentences))
    tasks = Counter(m.env_id for m in data.episodes)
    policy.notes = {"trained_on": dict(sorted(tasks.items())), "fit": asdict(options.fit)}
    if options.start is not None:
        policy.notes["started_from"] = weights_sha256(policy_folder(options.start))
    trained = fit(policy, [Source(data)], options.fit, title="behaviour cloning", scratch=out / "training")
    trained.save(out)
    (out / "training" / "training.safetensors").unlink(missing_ok=True)
    if (out / "training").is_dir():
        (out / "training").rmdir()
    (out / "about.json").write_text(json.dumps(trained.notes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return out


def _start_from(folder: Path, wanted: CompactConfig) -> CompactVLA:
    policy = load_policy(folder)
    if not isinstance(policy, CompactVLA):
        raise CheckpointError(f"{folder} holds a {policy.spec.kind!r} policy; behaviour cloning trains compact ones")
    for name in ("cameras", "state_dim", "action_dim"):
        if (theirs := getattr(policy.config, name)) != (ours := getattr(wanted, name)):
            raise CheckpointError(f"{folder} takes {name} {theirs}, the episodes hold {ours}; train without --start")
    return policy.with_heads(policy.config.heads[:1])


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
