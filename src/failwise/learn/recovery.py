"""A recovery actor from failures on purpose: what is due, is it failing, how, and the move that mends it.

Frames become features of a frozen policy once; what is trained is small (``failwise.recover.compact``), in a minute.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from failwise.detect.base import Scaler
from failwise.errors import DataError
from failwise.generate.plan import PLAN, stage_at
from failwise.learn.figures import figures
from failwise.learn.frames import FrameFeatures
from failwise.learn.options import RecoveryTraining
from failwise.learn.progress import TrainingProgress
from failwise.recover.compact import NONE, CompactAdvisor, Recurrent
from failwise.rollout.progress import track
from failwise.store import EpisodeStore
from failwise.types import EpisodeMeta

if TYPE_CHECKING:
    from failwise.policies.compact import CompactVLA

EPISODES = "episodes"
BATCH_MOMENTS = 4096
SMALLEST = 1e-4  # metres or radians: axes that move less in all corrections do not move


@dataclass(frozen=True)
class Windows:
    """M moments of episodes, each with the frames before it.

    Attributes:
        frames_ND: float32, features of all frames, each once.
        rows_MW: int64, which of them a moment sees, the latest last; an episode's first is repeated where it has just
            begun.
        failing: bool (M,). stage, kind: int64 (M,), indices. delta: float32 (M, 7), NaN where no move is known.
        seed: int64 (M,), the layout. own: bool (M,), of a policy's own episode instead of one made on purpose.
    """

    frames_ND: NDArray[np.float32]
    rows_MW: NDArray[np.int64]
    failing: NDArray[np.bool_]
    stage: NDArray[np.int64]
    kind: NDArray[np.int64]
    delta: NDArray[np.float32]
    seed: NDArray[np.int64]
    own: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.failing)

    def take(self, index: NDArray[Any]) -> Windows:
        """Some of them."""
        return Windows(
            self.frames_ND, self.rows_MW[index], self.failing[index], self.stage[index], self.kind[index],
            self.delta[index], self.seed[index], self.own[index],
        )  # fmt: skip


def train_recovery(
    policy: CompactVLA, folder: Path, options: RecoveryTraining, kept: Path | None = None
) -> CompactAdvisor:
    """Fit a recovery actor to what ``failwise generate`` made; its ``notes`` hold figures on held-out layouts.

    Those of "figures" are on failures made on purpose, as FailSafe reports them; those of "own" on the policy's own
    episodes, where there are any.

    Args:
        policy: whose frozen backbone sees the pictures.
        folder: what ``failwise generate`` made.
        options: how.
        kept: folder that keeps the features of each episode, so that a training that was stopped goes on.

    Raises:
        DataError: no pictures, no failures, no verified corrections, or no layout left to hold out.
        CheckpointError: a file in ``kept`` is damaged.
    """
    metas = fewer_plans(_usable(EpisodeStore(folder / EPISODES, create=False)), options.plans)
    stages = sorted({name for meta in metas for name in meta.extra["stages"]})
    kinds = [NONE, *sorted({_kind(meta) for meta in metas} - {NONE})]
    windows, stride = load_windows(FrameFeatures(policy, kept), folder, metas, stages, kinds, options)
    aside = held_out(windows.seed, options)
    learned, judged = windows.take(~aside), windows.take(aside)
    if not learned.failing.any() or not np.isfinite(learned.delta).any():
        raise DataError(f"{folder} has no failure with a verified correction to learn from; generate more")
    scaler = Scaler().fit(learned.frames_ND[np.unique(learned.rows_MW)])
    known = np.isfinite(learned.delta[:, 0])
    scale = np.sqrt((learned.delta[known] ** 2).mean(0)).astype(np.float32)
    scale[scale < SMALLEST] = 0.0
    network = _fit(learned, scaler, scale, len(stages), len(kinds), options)
    notes = {
        "episodes": len(metas), "windows": len(learned), "held_out_layouts": len(set(judged.seed.tolist())),
        "figures": judge(network, scaler, scale, judged.take(~judged.own)),
    }  # fmt: skip
    if judged.own.any():
        notes["own"] = judge(network, scaler, scale, judged.take(judged.own))
    return CompactAdvisor(policy, stages, kinds, options.window, stride, scaler, scale, network, notes)


def load_windows(
    frames_of: FrameFeatures, folder: Path, metas: Sequence[EpisodeMeta], stages: Sequence[str],
    kinds: Sequence[tuple[str, str]], options: RecoveryTraining,
) -> tuple[Windows, int]:  # fmt: skip
    """Every recorded picture of some episodes as a moment to be judged, and the steps between pictures.

    Moments in the first ``options.grace`` steps after an onset are left out: nothing can be seen yet.

    Raises:
        DataError: pictures were taken at different distances in different episodes.
    """
    store = EpisodeStore(folder / EPISODES, create=False)
    rows: list[tuple[NDArray[np.int64], bool, int, int, NDArray[np.float32], int, bool]] = []
    every: list[NDArray[np.float32]] = []
    first = 0
    stride = _stride(store, metas)
    encoded = ((meta, *frames_of(store.read(meta.episode_id))) for meta in metas)
    for meta, looks, frames in track(encoded, total=len(metas), title="frames", outcomes=False):
        for index, step in enumerate(looks):
            about = _about(meta, step, stride, options.grace)
            if about is not None:
                failing, stage, kind, delta = about
                window = first + np.maximum(np.arange(index - options.window + 1, index + 1), 0)
                own = "own" in meta.extra
                rows.append((window, failing, stages.index(stage), kinds.index(kind), delta, meta.env_seed, own))
        every.append(frames)
        first += len(frames)
    columns = list(zip(*rows, strict=True))
    return (
        Windows(
            np.concatenate(every), np.stack(columns[0]), np.array(columns[1]), np.array(columns[2]),
            np.array(columns[3]), np.stack(columns[4]), np.array(columns[5]), np.array(columns[6]),
        ),
        stride,
    )  # fmt: skip


def judge(network: Recurrent, scaler: Scaler, scale: NDArray[np.float32], windows: Windows) -> dict[str, float]:
    """The figures of ``failwise.learn.figures`` on some moments, and ``auc``, of failing or not."""
    from sklearn.metrics import roc_auc_score

    failing, stage, kind, delta = answers_at(windows, network, scaler)
    kind[:, 0] = -np.inf
    bad, known = windows.failing, np.isfinite(windows.delta[:, 0])
    found = figures(
        bad, failing > 0, kind.argmax(1) == windows.kind, stage.argmax(1) == windows.stage, delta[known] * scale,
        windows.delta[known],
    )  # fmt: skip
    return {**found, "auc": float(roc_auc_score(bad, failing)) if 0 < bad.sum() < len(bad) else float("nan")}


@torch.inference_mode()
def answers_at(windows: Windows, network: Recurrent, scaler: Scaler) -> tuple[NDArray[np.float32], ...]:
    """A network's logits of failing (M,), of stages (M, S) and kinds (M, K), and the scaled move (M, 7)."""
    network.eval()
    frames_ND = _tensor(scaler, windows.frames_ND)
    parts = [network(frames_ND[rows]) for rows in torch.split(torch.from_numpy(windows.rows_MW), BATCH_MOMENTS)]
    return tuple(torch.cat(column).numpy() for column in zip(*parts, strict=True))


def _fit(
    windows: Windows, scaler: Scaler, scale: NDArray[np.float32], stages: int, kinds: int, options: RecoveryTraining
) -> Recurrent:
    torch.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    network = Recurrent(windows.frames_ND.shape[1], stages, kinds).train()
    optimiser = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    frames_ND, rows_MW = _tensor(scaler, windows.frames_ND), torch.from_numpy(windows.rows_MW)
    failing, stage, kind = (
        torch.from_numpy(x) for x in (windows.failing.astype(np.float32), windows.stage, windows.kind)
    )
    delta = torch.from_numpy(windows.delta / np.where(scale > 0, scale, 1.0))
    # A third of each batch has a move to learn, the rest is half failing and half not.
    pools = [np.flatnonzero(p) for p in (np.isfinite(windows.delta[:, 0]), windows.failing, ~windows.failing)]
    with TrainingProgress(options.steps, 0, "recovery", quiet=False) as progress:
        for step in range(1, options.steps + 1):
            rows = torch.from_numpy(np.concatenate([random.choice(p, options.batch // 3) for p in pools if len(p)]))
            answers = network(frames_ND[rows_MW[rows]])
            loss = _loss(answers, failing[rows], stage[rows], kind[rows], delta[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            progress.update(step, loss.item(), learning_rate=optimiser.param_groups[0]["lr"])
            schedule.step()
    return network.eval()


def _loss(
    told: tuple[Tensor, Tensor, Tensor, Tensor], failing: Tensor, stage: Tensor, kind: Tensor, delta: Tensor
) -> Tensor:
    """Cross-entropies, and for known moves their distance and direction."""
    known = torch.isfinite(delta[:, 0])
    total = F.binary_cross_entropy_with_logits(told[0], failing) + F.cross_entropy(told[1], stage)
    if (bad := failing > 0.5).any():
        total = total + F.cross_entropy(told[2][bad], kind[bad])
    if known.any():
        advised, verified = told[3][known], delta[known]
        total = total + F.smooth_l1_loss(advised, verified)
        total = total + 0.5 * (1 - F.cosine_similarity(advised[:, :6], verified[:, :6])).mean()
    return total


def _usable(store: EpisodeStore) -> list[EpisodeMeta]:
    metas = [m for m in store.metas() if "stages" in m.extra and m.n_frames]
    if not any("kind" in m.extra for m in metas):
        raise DataError(f"{store.path} has no failures with pictures; make them with: failwise generate --look-every 2")
    return sorted(metas, key=lambda m: (m.env_id, m.env_seed, m.arm))


def fewer_plans(metas: Sequence[EpisodeMeta], share: float) -> list[EpisodeMeta]:
    """Everything but plans, and of each task at most ``share`` times as many plans as failures on purpose.

    A plan was recorded for every layout that was tried, also where no failure came of it. Those of layouts with a
    failure come first: the same scene, once as it should go and once as it should not.
    """
    failed = {(m.env_id, m.env_seed) for m in metas if "kind" in m.extra and "own" not in m.extra}
    tally = Counter(m.env_id for m in metas if "kind" in m.extra and "own" not in m.extra)
    plans = sorted(
        (m for m in metas if m.arm == PLAN), key=lambda m: ((m.env_id, m.env_seed) not in failed, m.env_seed)
    )
    left = {task: math.ceil(share * n) for task, n in tally.items()}
    chosen = set()
    for meta in plans:
        if left.get(meta.env_id, 0) > 0:
            left[meta.env_id] -= 1
            chosen.add(meta.episode_id)
    return [m for m in metas if m.arm != PLAN or m.episode_id in chosen]


def _stride(store: EpisodeStore, metas: Sequence[EpisodeMeta]) -> int:
    """The steps between pictures, the same in all episodes."""
    gaps = {int(gap) for m in metas for gap in np.diff(store.read(m.episode_id).look_steps())}
    if len(gaps) > 1:
        raise DataError(f"pictures lie {sorted(gaps)} steps apart in {store.path}; generate with one --look-every")
    return gaps.pop() if gaps else 1


def _kind(meta: EpisodeMeta) -> tuple[str, str]:
    kind: Mapping[str, str] = meta.extra.get("kind", {})
    return (kind["mode"], kind["axis"]) if kind else NONE


def _about(
    meta: EpisodeMeta, step: int, stride: int, grace: int
) -> tuple[bool, str, tuple[str, str], NDArray[np.float32]] | None:
    """Failing, stage, kind and move of a moment, or None where nobody could say."""
    stage = stage_at(meta.extra["stages"], step)
    unknown = np.full(7, np.nan, np.float32)
    kind = _kind(meta)
    if kind == NONE:
        return False, stage, NONE, unknown
    onset = meta.failure_events[0].onset_step
    if step < onset:
        return False, stage, NONE, unknown
    if step < onset + grace:
        return None
    moves = [c["delta"] for c in meta.extra["corrections"] if step <= c["at"] < step + stride]
    return True, stage, kind, np.array(moves[0], np.float32) if moves else unknown


def held_out(seeds: NDArray[np.int64], options: RecoveryTraining) -> NDArray[np.bool_]:
    """Which moments are of layouts that are not learned from, bool (M,).

    Raises:
        DataError: there is only one layout.
    """
    layouts = np.unique(seeds)
    random = np.random.default_rng(options.seed)
    chosen = random.choice(layouts, max(1, round(options.held_out * len(layouts))), replace=False)
    if len(chosen) == len(layouts):
        raise DataError("all failures are of one layout, so none can be held out; generate more")
    return np.isin(seeds, chosen)


def _tensor(scaler: Scaler, frames_ND: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(scaler(frames_ND).astype(np.float32))
