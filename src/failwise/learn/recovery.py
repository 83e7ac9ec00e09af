"""A recovery actor from failures on purpose: what is due, is it failing, how, and the move that mends it.

Frames become features of a frozen policy once; what is trained is small (``failwise.recover.compact``), in minutes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from failwise.detect.base import Scaler
from failwise.errors import DataError
from failwise.generate.mending import EPISODES, RECOVERIES
from failwise.learn.bc import BCOptions, train_bc
from failwise.learn.figures import figures, intervals
from failwise.learn.frames import FrameFeatures
from failwise.learn.options import FitOptions, RecoveryTraining
from failwise.learn.progress import TrainingProgress
from failwise.learn.recovery_data import UNKNOWN, Labelled, Lesson, load_lesson
from failwise.learn.resume import resume_training, save_training
from failwise.recover.acting import FOLDER, training_of
from failwise.recover.compact import Answers, CompactAdvisor, Ensemble, Recurrent
from failwise.store import EpisodeStore

if TYPE_CHECKING:
    from failwise.policies.compact import CompactVLA

WAYS_OUT = 0.6  # of every batch of a recovery policy
SAVE_EVERY = 250
SMALLEST = 1e-4  # metres or radians: axes that move less in all corrections do not move


@dataclass(frozen=True)
class Batch:
    """B episodes of at most T frames; what lies beyond an episode's end is not judged."""

    frames_BTD: Tensor
    judged: Tensor
    failing: Tensor
    stage: Tensor
    kind: Tensor
    delta: Tensor


def train_recovery(
    policy: CompactVLA, folder: Path, options: RecoveryTraining, kept: Path | None = None
) -> CompactAdvisor:
    """Fit a recovery actor to what ``failwise generate`` made; its ``notes`` hold figures on held-out layouts.

    Those of "figures" are on failures made on purpose, as FailSafe reports them, those of "own" on the policy's own
    episodes, those of "mended" on failures that somebody led out of; each where there are any.

    Args:
        policy: whose frozen backbone sees the pictures.
        folder: what ``failwise generate`` made.
        options: how.
        kept: folder that keeps the features of each episode and how far the training is, so that one that was stopped
            goes on. Whoever has the actor may remove it.

    Raises:
        DataError: no pictures, no failures, no verified corrections, or no layout left to hold out.
        CheckpointError: a file in ``kept`` is damaged.
    """
    lesson = load_lesson(FrameFeatures(policy, kept), folder, options.plans, options.mended, options.grace)
    aside = held_out([e.seed for e in lesson.episodes], options)
    learned = [e for e in (*lesson.episodes, *lesson.mended) if e.seed not in aside]
    moves_K7 = np.concatenate([e.delta[np.isfinite(e.delta[:, 0])] for e in learned])
    if not any((e.failing & e.judged).any() for e in learned) or not len(moves_K7):
        raise DataError(f"{folder} has no failure with a verified correction to learn from; generate more")
    scaler = Scaler().fit(np.concatenate([e.frames_TD for e in learned]))
    scale = np.sqrt((moves_K7**2).mean(0)).astype(np.float32)
    scale[scale < SMALLEST] = 0.0
    network = _fit(learned, lesson, scaler, scale, options, kept)
    advisor = CompactAdvisor(policy, lesson.stages, lesson.kinds, lesson.stride, scaler, scale, network)
    judged = [e for e in lesson.episodes if e.seed in aside]
    made = [e for e in judged if not e.own]
    kinds = {
        "figures": made if any(e.failing.any() for e in made) else [],  # plans alone would say nothing of failures
        "own": [e for e in judged if e.own],
        "mended": [e for e in lesson.mended if e.seed in aside],
    }
    advisor.notes = {
        "episodes": len(lesson.episodes), "ways_out": len(lesson.mended), "held_out_layouts": len(aside),
        **{name: judge(advisor, episodes) for name, episodes in kinds.items() if episodes},
    }  # fmt: skip
    return advisor


def save_actor(advisor: CompactAdvisor, out: Path, acting: bool) -> None:
    """Write a recovery actor. ``acting``: a recovery policy follows, so an earlier one there does not act meanwhile."""
    if acting:
        training_of(out).mkdir(parents=True, exist_ok=True)
    advisor.save(out)


def train_acting(start: Path, folder: Path, out: Path, fit: FitOptions) -> Path:
    """A policy that acts during takeovers: trained on from ``start`` with the verified ways out of failures.

    They are more than half of every batch; the rest are the undisturbed plans and the policy's own successes, as a way
    out ends on the way of the task. A training that was interrupted goes on when called again.

    Args:
        start: folder of a compact policy.
        folder: what ``failwise generate`` made.
        out: the recovery actor's folder, inside which the policy is written.
        fit: length and rate.

    Raises:
        DataError: there are no ways out with pictures. CheckpointError: ``start`` is no such policy.
    """
    ways_out = folder / RECOVERIES
    if not ways_out.is_dir() or not any(m.n_frames for m in EpisodeStore(ways_out, create=False).metas()):
        raise DataError(
            f"{folder} has no ways out of failures with pictures for a recovery policy; "
            "generate more with --look-every 2, or train none with --acting.steps 0"
        )
    options = BCOptions(fit=fit, start=start, also=ways_out, also_share=WAYS_OUT)
    return train_bc(folder / EPISODES, out / FOLDER, options)


def judge(advisor: CompactAdvisor, episodes: Sequence[Labelled]) -> dict[str, Any]:
    """The figures of ``failwise.learn.figures`` on the judged frames of some episodes, with their ``intervals``.

    ``auc`` is that of failing or not.
    """
    from sklearn.metrics import roc_auc_score

    places = {place: i for i, place in enumerate(sorted({(e.env_id, e.seed) for e in episodes}))}
    rows = []
    for episode in episodes:
        told, at = advisor.answers(episode.frames_TD), episode.judged
        kind = told.kind.clone()
        kind[:, 0] = -torch.inf  # how it fails, if it does: whether is another question
        answers = (told.failing.numpy(), kind.argmax(1).numpy(), told.stage.argmax(1).numpy(), told.delta.numpy())
        truths = (episode.failing, episode.kind, episode.stage, episode.delta)
        layout = np.full(len(episode), places[episode.env_id, episode.seed])
        rows.append([x[at] for x in (*answers, *truths, layout)])
    logits, named, said, advised, bad, kinds, stages, verified, layouts = map(np.concatenate, zip(*rows, strict=True))
    moves, due = np.isfinite(verified[:, 0]), stages != UNKNOWN
    names = ([advisor.kinds[k] for k in kinds], [advisor.kinds[k] for k in named])
    pairs = (advised[moves] * advisor.delta_scale, verified[moves])
    return {
        **figures(bad, logits > 0, *names, (said == stages)[due], *pairs),
        "auc": float(roc_auc_score(bad, logits)) if 0 < bad.sum() < len(bad) else float("nan"),
        "layouts": len(places),
        "intervals": intervals(layouts, layouts[moves], bad, logits > 0, *names, *pairs),
    }


def held_out(seeds: Sequence[int], options: RecoveryTraining) -> set[int]:
    """Layouts that are not learned from.

    Raises:
        DataError: there is only one layout.
    """
    layouts = np.unique(seeds)
    random = np.random.default_rng(options.seed)
    chosen = random.choice(layouts, max(1, round(options.held_out * len(layouts))), replace=False)
    if len(chosen) == len(layouts):
        raise DataError("all failures are of one layout, so none can be held out; generate more")
    return set(chosen.tolist())


def _fit(
    learned: Sequence[Labelled], lesson: Lesson, scaler: Scaler, scale: NDArray[np.float32],
    options: RecoveryTraining, kept: Path | None,
) -> Ensemble:  # fmt: skip
    """Train the members side by side, each on batches of its own."""
    frames = [torch.from_numpy(scaler(e.frames_TD).astype(np.float32)) for e in learned]
    torch.manual_seed(options.seed)
    sizes = frames[0].shape[1], len(lesson.stages), len(lesson.kinds)
    network = Ensemble([Recurrent(*sizes) for _ in range(options.members)]).train()
    optimiser = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=options.weight_decay)
    chances = _chances(learned, options.own_share)
    about = _about(learned, lesson, frames, options)
    folder = kept / f"training-{_digest(about)}" if kept else None
    start = resume_training(folder, network.state_dict(), optimiser, about)[0] if folder else 0
    with TrainingProgress(options.steps, start, "recovery", quiet=False) as progress:
        for step in range(start + 1, options.steps + 1):
            rate = options.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / options.steps))
            for group in optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(options.seed * options.steps + step)  # a resumed training ends where it would have
            random = np.random.default_rng([options.seed, step])
            losses = []
            optimiser.zero_grad()
            for member in network.members:
                rows = random.choice(len(learned), options.batch, p=chances)
                batch = _batch([frames[i] for i in rows], [learned[i] for i in rows], scale)
                loss = _loss(member(batch.frames_BTD)[0], batch)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(member.parameters(), 1.0)
                losses.append(loss.item())
            optimiser.step()
            progress.update(step, float(np.mean(losses)), learning_rate=rate)
            if folder and (step % SAVE_EVERY == 0 or step == options.steps):
                save_training(folder, network.state_dict(), optimiser, about, step, losses[0])
    return network.eval()


def _about(
    learned: Sequence[Labelled], lesson: Lesson, frames: Sequence[Tensor], options: RecoveryTraining
) -> dict[str, Any]:
    """What decides where a training ends: how, and on what."""
    how = {k: v for k, v in asdict(options).items() if k != "acting"}
    sums = [round(float(part.double().abs().sum()), 3) for part in frames]
    what = []
    for e in learned:
        labels = (e.judged, e.failing, e.stage, e.kind, np.abs(np.nan_to_num(e.delta)))
        what.append([e.env_id, e.seed, e.own, *(round(float(label.sum()), 3) for label in labels)])
    return {**how, "stages": lesson.stages, "kinds": lesson.kinds, "learned": what, "features": sums}


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _chances(learned: Sequence[Labelled], own_share: float) -> NDArray[np.float64]:
    """How likely each episode is drawn: the policy's own together ``own_share``, where there are any."""
    own = np.array([e.own for e in learned])
    share = own_share if own.any() and not own.all() else own.mean()
    weights: NDArray[np.float64] = np.where(own, share / max(own.sum(), 1), (1 - share) / max((~own).sum(), 1))
    return weights


def _batch(frames: Sequence[Tensor], episodes: Sequence[Labelled], scale: NDArray[np.float32]) -> Batch:
    def padded(parts: Sequence[Any], fill: float) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(p) for p in parts], True, fill)

    divisor = np.where(scale > 0, scale, np.float32(1))
    return Batch(
        padded(frames, 0.0),
        padded([e.judged for e in episodes], False),
        padded([e.failing for e in episodes], False),
        padded([e.stage for e in episodes], UNKNOWN),
        padded([e.kind for e in episodes], 0),
        padded([e.delta / divisor for e in episodes], torch.nan),
    )


def _loss(told: Answers, batch: Batch) -> Tensor:
    """Cross-entropies, and for known moves their distance and direction; failing or not weigh alike."""
    wrong = F.binary_cross_entropy_with_logits(told.failing, batch.failing.float(), reduction="none")
    bad, good = batch.judged & batch.failing, batch.judged & ~batch.failing
    total = wrong[good].sum() / max(int(good.sum()), 1)
    if bad.any():
        total = total + wrong[bad].mean() + 2 * F.cross_entropy(told.kind[bad], batch.kind[bad])
    total = total / 2
    if (due := batch.judged & (batch.stage != UNKNOWN)).any():
        total = total + F.cross_entropy(told.stage[due], batch.stage[due])
    if (known := torch.isfinite(batch.delta[..., 0])).any():
        advised, verified = told.delta[known], batch.delta[known]
        total = total + F.smooth_l1_loss(advised, verified)
        total = total + 0.5 * (1 - F.cosine_similarity(advised[:, :6], verified[:, :6])).mean()
    return total
