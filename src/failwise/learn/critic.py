"""The value model and the chunk critic, from the policy's own successes and failures.

1. V(o) = P(success | o): cross-entropy against the episode's outcome.
2. Q(o, chunk): cross-entropy against ``(1 - b) y + b V(o_{t+H})``, with V from the members that never saw the episode.
   An outcome alone blames every chunk of a failed episode; the value of where the chunk led says which one to blame.

Ensemble members are cross-fitted: episodes are dealt to E folds, member e never sees fold e, and every figure about a
member (held-out AUC, stopping point, advantages) comes from its own fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from failwise.errors import DataError, SetupError
from failwise.learn.clip import clip_members
from failwise.learn.data import ChunkData, balanced_weights, load_chunks
from failwise.learn.options import CriticOptions, Precision
from failwise.learn.precision import DTYPES, computing_in
from failwise.learn.progress import TrainingProgress
from failwise.policies.compact import CompactVLA
from failwise.policies.compact.policy import pixels_to_float
from failwise.policies.critic import Critic, CriticNetwork, in_critics_units, pooled_prefix
from failwise.policies.critic_config import CriticConfig
from failwise.store import EpisodeStore


@dataclass(frozen=True)
class Judged:
    """What the cross-fitted value model says of each sample.

    Attributes:
        value: (M,) P(success | o) by the members that did not see the sample's episode.
        next_value: (M,) the same one chunk later; the outcome where the episode ended before.
        auc_value, auc_critic: held-out ROC-AUC against the outcome, over all samples.
    """

    value: NDArray[np.float32]
    next_value: NDArray[np.float32]
    auc_value: float
    auc_critic: float

    @property
    def advantage(self) -> NDArray[np.float32]:
        """(M,) how much likelier success became over the chunk."""
        return self.next_value - self.value


@dataclass(frozen=True)
class Encoded:
    """Every sample's prefix, computed once: the backbone is frozen here."""

    prefix: Tensor  # (M, L, D) in the precision of the training
    mask: Tensor  # (M, 1, 1, L)
    actions: Tensor  # (M, H, A) normalised


@torch.inference_mode()
def encode_samples(
    policy: CompactVLA, data: ChunkData, *, batch: int = 64, precision: Precision = "float32", quiet: bool = False
) -> Encoded:
    """Run the policy's backbone over all samples, in ``precision``, in which the prefixes are kept as well."""
    states = policy.normaliser.state(torch.from_numpy(data.states))
    text, text_mask = policy.text.batch(data.sentences)
    prefixes, masks = [], []
    n = -(-len(data) // batch)
    with TrainingProgress(n, 0, "encode", quiet) as progress, computing_in(precision, "cpu"):
        for i in range(n):
            rows = slice(i * batch, (i + 1) * batch)
            sentence = torch.from_numpy(data.sentence[rows])
            images = {c: pixels_to_float(torch.from_numpy(x[rows])) for c, x in data.images.items()}
            prefix, mask = policy.network.backbone(images, states[rows], text[sentence], text_mask[sentence])
            prefixes.append(prefix.to(DTYPES[precision]))
            masks.append(mask)
            progress.update(i + 1)
    actions = policy.normaliser.action(torch.from_numpy(data.actions))
    return Encoded(torch.cat(prefixes), torch.cat(masks), actions)


def fit_critic(
    policy: CompactVLA, data: ChunkData, options: CriticOptions | None = None, *, value_only: bool = False,
    quiet: bool = False,
) -> tuple[Critic, Judged]:  # fmt: skip
    """Train value model and critic on the policy's own episodes.

    Args:
        policy: whose prefix they read.
        data: samples of both outcomes.
        options: shapes and length of training.
        quiet: show no progress.
        value_only: leave the critic untrained, where only advantages are wanted.

    Raises:
        DataError: only successes, or only failures.
        SetupError: fewer than two members.
    """
    options = options or CriticOptions()
    _check(data, options)
    config = replace(
        options.config,
        prefix_dim=policy.config.width,
        horizon=policy.config.horizon,
        action_dim=policy.config.action_dim,
    )
    return _fit(
        config, encode_samples(policy, data, precision=options.precision, quiet=quiet), data, options, value_only, quiet
    )


def fit_pooled_critic(
    stores: Sequence[Path], horizon: int, options: CriticOptions | None = None, *, quiet: bool = False
) -> tuple[Critic, Judged]:
    """Train value model and critic of a policy that is not trained here, on what it recorded while it acted.

    They read the features that were recorded with each inference, and the actions that were executed after it, in the
    environment's units: nothing is encoded again, and no picture is opened.

    Args:
        stores: own episodes, with features.
        horizon: how many actions of a chunk the policy executes.
        options: shapes and length of training.
        quiet: show no progress.

    Raises:
        DataError: only successes, only failures, or episodes without features, or with features of several widths.
        SetupError: fewer than two members.
    """
    options = options or CriticOptions()
    data = load_chunks(stores, horizon, lambda m: m.has_verdict, cameras=())
    data = data.take(data.inferred)
    _check(data, options)
    features_MD = _recorded_features(stores, data)
    flat = data.actions[data.valid]
    config = replace(
        options.config,
        prefix_dim=features_MD.shape[1],
        horizon=horizon,
        action_dim=data.actions.shape[2],
        action_mean=tuple(flat.mean(0).tolist()),
        action_std=tuple(np.maximum(flat.std(0), 1e-3).tolist()),
    )
    prefix, mask = pooled_prefix(torch.from_numpy(features_MD))
    encoded = Encoded(prefix, mask, in_critics_units(torch.from_numpy(data.actions), config))
    return _fit(config, encoded, data, options, False, quiet)


def _recorded_features(stores: Sequence[Path], data: ChunkData) -> NDArray[np.float32]:
    """Features (M, D) of the inferences that are the samples."""
    found: dict[str, dict[int, NDArray[np.float32]]] = {}
    for path in stores:
        store = EpisodeStore(path, create=False)
        for meta in data.episodes:
            if meta.episode_id in store:
                steps_C, features_CD = store.read(meta.episode_id).features()
                found[meta.episode_id] = dict(zip(steps_C.tolist(), features_CD, strict=True))
    names = [data.episodes[e].episode_id for e in data.episode.tolist()]
    asked = list(zip(names, data.step.tolist(), strict=True))
    if missing := [name for name, step in asked if step not in found.get(name, {})]:
        raise DataError(f"{missing[0]} has no features: a critic cannot learn from a policy that gives none")
    rows = [found[name][step] for name, step in asked]
    if len(widths := {len(row) for row in rows}) > 1:
        raise DataError(f"features of widths {sorted(widths)} in one set of episodes: they are of several policies")
    return np.stack(rows).astype(np.float32)


def _check(data: ChunkData, options: CriticOptions) -> None:
    if options.config.members < 2:
        raise SetupError(f"cross-fitting needs at least 2 members, not {options.config.members}")
    y = data.success
    if y.min() == y.max():
        kind = "successes" if y.max() else "failures"
        raise DataError(
            f"the critic needs successes and failures, but all {len(data.episodes)} episodes are {kind}; "
            "collect more episodes or choose tasks that the policy sometimes masters"
        )


def _fit(
    config: CriticConfig, encoded: Encoded, data: ChunkData, options: CriticOptions, value_only: bool, quiet: bool
) -> tuple[Critic, Judged]:
    y = data.success.astype(np.float32)
    torch.manual_seed(options.seed)
    network = CriticNetwork(config)
    fold = np.random.default_rng(options.seed).permutation(len(data.episodes)) % config.members
    fold_M = torch.from_numpy(fold[data.episode])
    unseen_EM = fold_M[None] == torch.arange(config.members)[:, None]

    _train(network, "value", encoded, torch.from_numpy(y), unseen_EM, data, options, quiet)
    value = _held_out(network, "value", encoded, unseen_EM, options.precision)
    after = next_values(data, value, config.horizon)
    if value_only:
        judged = Judged(value, after, ranking_auc(y, value), float("nan"))
        value_notes = {"held_out_auc_value": round(judged.auc_value, 4), "precision": options.precision}
        return Critic(config, network, value_notes), judged
    target = (1 - options.bootstrap) * y + options.bootstrap * after
    _train(network, "critic", encoded, torch.from_numpy(target), unseen_EM, data, options, quiet)
    critic = _held_out(network, "critic", encoded, unseen_EM, options.precision)
    judged = Judged(value, after, ranking_auc(y, value), ranking_auc(y, critic))
    notes = {
        "episodes": len(data.episodes),
        "samples": len(data),
        "precision": options.precision,
        "held_out_auc_value": round(judged.auc_value, 4),
        "held_out_auc_critic": round(judged.auc_critic, 4),
    }
    return Critic(config, network, notes), judged


def _train(
    network: CriticNetwork, stage: str, encoded: Encoded, target_M: Tensor, unseen_EM: Tensor, data: ChunkData,
    options: CriticOptions, quiet: bool,
) -> None:  # fmt: skip
    """Cross-entropy of one stage; member e's loss leaves out the samples of fold e."""
    mine = [p for n, p in network.named_parameters() if n.startswith("value") == (stage == "value")]
    optimiser = torch.optim.AdamW(mine, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    weights = balanced_weights(data)
    cumulative = np.cumsum(weights / weights.sum())
    cumulative[-1] = 1.0
    network.train()
    with TrainingProgress(options.steps, 0, stage, quiet) as progress:
        for step in range(options.steps):
            for group in optimiser.param_groups:
                group["lr"] = (
                    options.learning_rate
                    * min(1.0, (step + 1) / 50)
                    * (0.5 + 0.5 * np.cos(np.pi * step / options.steps))
                )
            random = np.random.default_rng((options.seed, step, len(stage)))
            rows = torch.from_numpy(np.searchsorted(cumulative, random.random(options.batch)))
            with computing_in(options.precision, "cpu"):
                logits = _forward(network, stage, encoded, rows)
            loss_EB = F.binary_cross_entropy_with_logits(
                logits.float(), target_M[rows].expand(logits.shape), reduction="none"
            )
            counted = (~unseen_EM[:, rows]).float()
            loss = (loss_EB * counted).sum() / counted.sum() * network.config.members
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            clip_members(mine)
            optimiser.step()
            mean = float(loss.detach()) / network.config.members
            progress.update(step + 1, mean, learning_rate=optimiser.param_groups[0]["lr"])
    network.eval()


def _forward(network: CriticNetwork, stage: str, encoded: Encoded, rows: Tensor) -> Tensor:
    """Logits (E, B) of one stage."""
    prefix, mask = encoded.prefix[rows].float(), encoded.mask[rows]
    if stage == "value":
        return network.value(prefix, mask)
    return network.critic(encoded.actions[rows][:, None], prefix, mask)[..., 0]


@torch.inference_mode()
def _held_out(
    network: CriticNetwork, stage: str, encoded: Encoded, unseen_EM: Tensor, precision: Precision
) -> NDArray[np.float32]:
    """P(success) (M,) by the member that did not see each sample's episode."""
    out = []
    for rows in torch.split(torch.arange(unseen_EM.shape[1]), 256):
        with computing_in(precision, "cpu"):
            logits = _forward(network, stage, encoded, rows)
        pick = unseen_EM[:, rows].float()
        out.append((torch.sigmoid(logits.float()) * pick).sum(0) / pick.sum(0))
    return np.asarray(torch.cat(out).numpy(), np.float32)


def next_values(data: ChunkData, value_M: NDArray[np.float32], horizon: int) -> NDArray[np.float32]:
    """V at the first look at least ``horizon`` steps later in the same episode; the outcome (0 or 1) beyond its end."""
    after = data.success.astype(np.float32)
    for e in np.unique(data.episode):
        rows = np.flatnonzero(data.episode == e)
        rows = rows[np.argsort(data.step[rows])]
        later = np.searchsorted(data.step[rows], data.step[rows] + horizon)
        inside = later < len(rows)
        after[rows[inside]] = value_M[rows[later[inside]]]
    return after


def ranking_auc(y_M: NDArray[np.float32], score_M: NDArray[np.float32]) -> float:
    """ROC-AUC: the chance that a sample of a success scores above one of a failure (Mann-Whitney)."""
    from scipy.stats import rankdata

    positive = y_M > 0.5
    n, m = int(positive.sum()), int((~positive).sum())
    return float((rankdata(score_M)[positive].sum() - n * (n + 1) / 2) / (n * m))
