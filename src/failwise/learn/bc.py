"""Behaviour cloning: the base policy from successful demonstrations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from failwise.errors import CheckpointError, DataError, SetupError
from failwise.learn.data import load_chunks
from failwise.learn.fit import Source, fit
from failwise.learn.options import FitOptions
from failwise.policies import load_policy, policy_folder
from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser
from failwise.policies.compact.policy import weights_sha256
from failwise.store import EpisodeStore
from failwise.types import EnvSpec, EpisodeMeta, Outcome


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
    also: Path | None = None
    """A second store whose successes are imitated, for instance the recoveries that 'failwise generate' verified."""
    also_share: float = 0.35
    """Its share of every batch."""
    also_frames: int = 0
    """Use at most so many pictures of it, the same number of every task, in whole episodes drawn by the seed;
    0 uses all."""

    def __post_init__(self) -> None:
        if not 0 < self.also_share < 1:
            raise SetupError(f"also_share must lie between 0 and 1, not {self.also_share}")
        if self.also_frames < 0:
            raise SetupError(f"also_frames must be at least 0, not {self.also_frames}")


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
    further = set() if options.also is None else _choose_further(options.also, options)
    horizon = options.config.horizon if options.start is None else load_policy(options.start).spec.horizon
    data = load_chunks(episodes, horizon, lambda m: m.episode_id in chosen)
    sources = [Source(data)]
    if options.also is not None:
        more = load_chunks(options.also, horizon, lambda m: m.episode_id in further, cameras=data.images)
        sources = [Source(data, share=1 - options.also_share), Source(more, share=options.also_share)]
    told = [m for source in sources for m in source.data.episodes]
    specs = environment_specs({m.env_id for m in told})
    config = replace(
        options.config,
        cameras={c: (x.shape[1], x.shape[2]) for c, x in data.images.items()},
        state_dim=data.states.shape[1],
        action_dim=data.actions.shape[2],
    )
    if options.start is None:
        low, high = _joint_bounds([specs[m.env_id] for m in data.episodes])
        normaliser = Normaliser.fit(data.states, data.actions[:, 0], low, high)
        torch.manual_seed(options.fit.seed)
        policy = CompactVLA(config, normaliser)
    else:
        policy = _start_from(options.start, config)
    sentences = tuple(dict.fromkeys(s for source in sources for s in source.data.sentences))
    policy.text.add(all_wordings(specs.values(), sentences))
    tasks = Counter(m.env_id for m in data.episodes)
    policy.notes = {"trained_on": dict(sorted(tasks.items())), "fit": asdict(options.fit)}
    if options.also is not None:
        counts = Counter(m.env_id for m in sources[1].data.episodes)
        policy.notes["also_trained_on"] = {"frames": len(sources[1].data), "episodes": dict(sorted(counts.items()))}
    if options.start is not None:
        policy.notes["started_from"] = weights_sha256(policy_folder(options.start))
    trained = fit(policy, sources, options.fit, title="behaviour cloning", scratch=out / "training")
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


def _choose_further(store: Path, options: BCOptions) -> set[str]:
    """Ids of the successful episodes of the second store that are imitated."""
    ids = choose_demonstrations(store, 0)
    if not options.also_frames:
        return ids
    metas = [m for m in EpisodeStore(store, create=False).metas() if m.episode_id in ids]
    by_task: dict[str, list[EpisodeMeta]] = {}
    for index in np.random.default_rng(options.fit.seed).permutation(len(metas)):
        by_task.setdefault(metas[index].env_id, []).append(metas[index])
    share, chosen = options.also_frames / len(by_task), set()
    for mine in by_task.values():
        total = np.cumsum([m.n_frames for m in mine])
        chosen |= {m.episode_id for m, until in zip(mine, total, strict=True) if until <= share}
    if not chosen:
        raise DataError(f"also_frames {options.also_frames} is less than one episode a task of {store}")
    return chosen


def environment_specs(env_ids: set[str]) -> dict[str, EnvSpec]:
    """What each environment says of itself, by its id.

    Raises:
        UnknownNameError: no such environment.
    """
    from failwise.envs import make_env

    specs = {}
    for env_id in sorted(env_ids):
        env = make_env(env_id)
        specs[env_id] = env.spec
        env.close()
    return specs


def all_wordings(specs: Iterable[EnvSpec], sentences: tuple[str, ...]) -> list[str]:
    """Every sentence that these tasks may be told, so that the checkpoint needs no text encoder to run them."""
    of_tasks = [wording for s in specs for wording in (s.instruction, *s.paraphrases, *s.held_out)]
    return list(dict.fromkeys([*sentences, *of_tasks]))


def _joint_bounds(specs: Sequence[EnvSpec]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The smallest box (A,), (A,) that holds the action bounds of all tasks; each task clips to its own."""
    low = np.min([s.action_low for s in specs], axis=0)
    high = np.max([s.action_high for s in specs], axis=0)
    return low.astype(np.float32), high.astype(np.float32)
