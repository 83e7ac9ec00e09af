"""What a round learns from its episodes: heads and critic, and, where there is an expert, recoveries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from failwise.errors import CheckpointError, DataError
from failwise.improve.options import ImproveOptions
from failwise.tracking import within
from failwise.types import EpisodeMeta, Outcome

if TYPE_CHECKING:
    from failwise.learn.critic import Judged
    from failwise.learn.data import ChunkData
    from failwise.policies.compact import CompactVLA
    from failwise.protocols import GenerativePolicy


@dataclass
class RoundData:
    """A round's material, loaded when first asked for and kept: pictures are large.

    Attributes:
        before: folder of the policy that training starts from.
        stores: the own episodes of all rounds so far; the last one is this round's.
        folder: the round's folder.
        options: of the job.
    """

    before: Path
    stores: Sequence[Path]
    folder: Path
    options: ImproveOptions

    @cached_property
    def policy(self) -> CompactVLA:
        """The policy that training starts from."""
        return load_compact(self.before)

    @cached_property
    def own(self) -> ChunkData:
        """Samples of all own episodes."""
        from failwise.learn.data import load_chunks

        keep = self.policy.spec.cameras
        return load_chunks(list(self.stores), self.policy.spec.horizon, lambda m: m.has_verdict, cameras=keep)

    @cached_property
    def demos(self) -> ChunkData | None:
        """Samples of the demonstrations, if there are any."""
        return load_demos(self.options, self.policy)

    @cached_property
    def judged(self) -> Judged:
        """The cross-fitted value model's word on the own samples: of the latest network that one was fitted on."""
        from failwise.learn.critic import fit_critic

        with within("before"):
            _, judged = fit_critic(self.policy, self.own, self.options.critic, value_only=True)
        return judged


def fit_heads(data: RoundData) -> float:
    """``network`` and ``critic`` of the round, without recoveries; returns the heads' mean divergence."""
    with within("network"):
        return _fit(data, data.folder / "network", data.folder / "critic", recoveries=None)


def fit_with_recoveries(data: RoundData) -> int:
    """``recoveries``, ``recovery_network`` and ``recovery_critic`` of the round; returns how many were verified.

    Raises:
        DataError: no recovery succeeded.
    """
    from failwise.learn.data import load_chunks

    folder, options = data.folder, data.options
    takeovers_file = folder / "takeovers.json"
    if not takeovers_file.is_file():
        takeovers_file.write_text(json.dumps(_takeovers(data), indent=1) + "\n", encoding="utf-8")
    takeovers: list[dict[str, Any]] = json.loads(takeovers_file.read_text(encoding="utf-8"))
    metas = _recover(takeovers, data, "recoveries")
    for number in range(1, options.recovery_backoff + 1):
        takeovers = takeovers + earlier_takeovers(takeovers, metas)
        metas = _recover(takeovers, data, f"recoveries, {number} earlier")
    verified = sum(m.outcome == Outcome.SUCCESS for m in metas)
    if not verified:
        raise DataError(f"the expert recovered from none of {len(takeovers)} takeovers; use --recoveries none")
    stores = [p for s in data.stores if (p := s.parent / "recoveries").is_dir()]
    network, critic = folder / "recovery_network", folder / "recovery_critic"
    if not ((network / "config.json").is_file() and (critic / "critic.json").is_file()):
        keep = data.policy.spec.cameras
        recoveries = load_chunks(stores, data.policy.spec.horizon, lambda m: m.outcome == Outcome.SUCCESS, cameras=keep)
        with within(network.name):
            _fit(data, network, critic, recoveries)
    return verified


def _fit(data: RoundData, network: Path, critic: Path, recoveries: ChunkData | None) -> float:
    from failwise.learn.afil import train_heads
    from failwise.learn.critic import fit_critic
    from failwise.policies.critic import Critic

    if (network / "config.json").is_file() and (critic / "critic.json").is_file():
        return float(Critic.load(critic).notes["divergence"])
    options = data.options
    if (network / "config.json").is_file():
        trained = load_compact(network)
    else:
        judged = data.judged if options.heads.failure_set == "low_advantage" else None
        scratch = network.with_name(network.name + "_training")
        trained = train_heads(
            data.policy, data.own, data.demos, judged, options.heads, recoveries=recoveries, scratch=scratch
        )
        trained.save(network)
        shutil.rmtree(scratch, ignore_errors=True)
    # Nothing selects among chunks where there is no best of N, and nothing does so yet on a network with recoveries.
    value_only = recoveries is not None or not options.samples
    model, data.judged = fit_critic(trained, data.own, options.critic, value_only=value_only)
    divergence = _measure(trained, data.own)
    model.notes["divergence"] = divergence
    model.save(critic)
    return divergence


def _takeovers(data: RoundData) -> list[dict[str, Any]]:
    """Where the expert takes over in each failed episode of this round, as the fields of a ``RecoveryItem``.

    The first takeover is where the value fell most. The others are at random steps: earlier ones show the way on a
    layout that the policy fails on, later ones the way out of states in which it is stuck for long.
    """
    import numpy as np

    from failwise.learn.afil import failure_onsets
    from failwise.store import EpisodeStore

    onsets = failure_onsets(data.own, data.judged)
    random = np.random.default_rng(data.options.heads.fit.seed)
    out: list[dict[str, Any]] = []
    for meta in sorted(EpisodeStore(data.stores[-1], create=False).metas(), key=lambda m: m.episode_id):
        if meta.episode_id in onsets:
            others = random.choice(meta.n_steps, min(meta.n_steps, data.options.recoveries_per_failure - 1), False)
            for attempt, step in enumerate([onsets[meta.episode_id], *map(int, others)], start=1):
                one = {"failed": meta.episode_id, "env_id": meta.env_id, "env_seed": meta.env_seed}
                out.append({**one, "takeover": step, "attempt": attempt})
    return out


def _recover(takeovers: Sequence[dict[str, Any]], data: RoundData, title: str) -> list[EpisodeMeta]:
    """Run the takeovers that the round's store does not hold yet; the metas of all."""
    from failwise.generate import RecoveryItem, recover

    source, limit = str(data.stores[-1]), data.options.recovery_steps
    items = [RecoveryItem(source=source, limit=limit, **one) for one in takeovers]
    return recover(items, data.folder / "recoveries", workers=data.options.workers, title=title)


def earlier_takeovers(takeovers: Sequence[dict[str, Any]], metas: Sequence[EpisodeMeta]) -> list[dict[str, Any]]:
    """One more takeover for each failure that no recovery mended, at half the earliest step tried: before it was lost.

    Some states cannot be left, a ball out of reach for example. The latest step from which a failure can still be
    turned is searched backwards; the environment's repeatability makes that exact.

    Args:
        takeovers: those tried so far, as the fields of a ``RecoveryItem``.
        metas: of the recoveries tried so far.
    """
    mended = {m.extra["recovers"] for m in metas if m.outcome == Outcome.SUCCESS}
    tried: dict[str, list[dict[str, Any]]] = {}
    for one in takeovers:
        if one["failed"] not in mended:
            tried.setdefault(one["failed"], []).append(one)
    out = []
    for attempts in tried.values():
        earliest = min(one["takeover"] for one in attempts)
        if earliest > 0:
            last = max(one["attempt"] for one in attempts)
            out.append({**attempts[0], "takeover": earliest // 2, "attempt": last + 1})
    return out


def _measure(policy: CompactVLA, own: ChunkData) -> float:
    """Mean 1 - cos between success and failure head on 64 own observations, without guidance."""
    import numpy as np
    import torch

    from failwise.steer import measure_divergence
    from failwise.types import Observation

    rows = np.random.default_rng(0).choice(len(own), min(64, len(own)), replace=False)
    observations = [
        Observation({c: x[i] for c, x in own.images.items()}, own.states[i], own.sentences[own.sentence[i]])
        for i in rows
    ]
    generator = torch.Generator().manual_seed(0)
    generative = cast("GenerativePolicy", policy)  # its context is its own kind
    return float(measure_divergence(generative, generative.encode(observations), generator).mean)


def load_demos(options: ImproveOptions, policy: CompactVLA) -> ChunkData | None:
    """Samples of the demonstrations, or None where there are none.

    All tasks are taken, not only those to improve: what is not rehearsed is forgotten.
    """
    if options.demos is None:
        return None
    from failwise.learn.bc import choose_demonstrations
    from failwise.learn.data import load_chunks

    chosen = choose_demonstrations(options.demos, options.demos_per_task)
    return load_chunks(
        options.demos, policy.spec.horizon, lambda m: m.episode_id in chosen, cameras=policy.spec.cameras
    )


def train_extra(base: Path, out: Path, options: ImproveOptions) -> Path:
    """Control: the base, trained on its demonstrations for as many further steps as ``options.extra_rounds`` took."""
    from dataclasses import replace

    from failwise.learn.fit import Source, fit

    folder = out / f"extra-{options.extra_rounds}"
    if (folder / "config.json").is_file():
        return folder
    policy = load_compact(base)
    demos = load_demos(options, policy)
    assert demos is not None, "the caller has checked that there are demonstrations"
    schedule = replace(options.heads.fit, steps=options.heads.fit.steps * options.extra_rounds)
    trained = fit(policy, [Source(demos)], schedule, title="control: extra training", scratch=folder / "training")
    shutil.rmtree(folder / "training", ignore_errors=True)
    trained.save(folder)
    return folder


def load_compact(folder: Path) -> CompactVLA:
    """The compact policy in a folder; CheckpointError for any other."""
    from failwise.policies import load_policy
    from failwise.policies.compact import CompactVLA

    policy = load_policy(folder)
    if not isinstance(policy, CompactVLA):
        raise CheckpointError(
            f"{folder} holds a {policy.spec.kind!r} policy; improve trains compact ones. Those of LeRobot learn from "
            "failures by lerobot-train --policy.type=failwise_smolvla (or _pi0, _pi05, _diffusion)"
        )
    return policy
