"""AFIL's training: one backbone, a success head, a failure head, and the head of the control experiment.

Source of the method: Adaptive Failure-Informed Learning (arXiv 2605.08434). ``L = L_s + eta L_f``, with the gradient of
``L_f`` stopped at the backbone. Because of that stop, and because every head's gradient is clipped on its own, backbone
and success head here are what self-imitation on the same data gives (control C2). What guidance adds can be seen
against them with nothing else changed. The third head, trained on the policy's own successes, is
control C1: negative guidance without any failure information.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from failwise.errors import DataError
from failwise.learn.critic import Judged
from failwise.learn.data import ChunkData
from failwise.learn.fit import Source, fit
from failwise.learn.options import AFILTraining
from failwise.policies.compact import CompactVLA
from failwise.types import Outcome

HEADS = ("success", "failure", "own_success")


def failure_onsets(data: ChunkData, judged: Judged) -> dict[str, int]:
    """Failed episode -> the step at which its worst chunk had been executed: where success became unlikeliest.

    The chunk of the lowest advantage began at a recorded look; the onset is one chunk later, when the harm is done.
    """
    onsets: dict[str, int] = {}
    horizon = data.actions.shape[1]
    for e in np.unique(data.episode[~data.success]):
        rows = np.flatnonzero(data.episode == e)
        meta = data.episodes[e]
        worst = rows[np.argmin(judged.advantage[rows])]
        onsets[meta.episode_id] = int(min(data.step[worst] + horizon, meta.n_steps - 1))
    return onsets


def failure_samples(data: ChunkData, judged: Judged | None, options: AFILTraining) -> NDArray[np.bool_]:
    """The samples (M,) that the failure head learns.

    Raises:
        DataError: there are no failures, or low advantages are asked for without a value model.
    """
    failed = ~data.success
    if not failed.any():
        raise DataError(
            f"no failures among {len(data.episodes)} episodes: there is nothing to steer away from; "
            "collect more episodes, or choose tasks that the policy does not master yet"
        )
    task = np.array([m.env_id for m in data.episodes])[data.episode]
    chosen = np.zeros(len(data), bool)
    for name in np.unique(task[failed]):
        here = failed & (task == name)
        lengths = [m.n_steps for m in data.episodes if m.env_id == name and m.outcome == Outcome.SUCCESS]
        limit = options.truncate * np.median(lengths) if lengths else np.inf
        here &= data.step <= limit
        if options.failure_set == "low_advantage":
            if judged is None:
                raise DataError("low_advantage failure sets need a value model")
            here &= judged.advantage <= np.quantile(judged.advantage[here], options.quantile)
        chosen |= here
    return chosen


def train_heads(
    policy: CompactVLA, own: ChunkData, demos: ChunkData | None, judged: Judged | None, options: AFILTraining, *,
    recoveries: ChunkData | None = None, scratch: Path | None = None, quiet: bool = False,
) -> CompactVLA:  # fmt: skip
    """Fit success and failure head, and without recoveries the control head, from a policy's own episodes.

    Args:
        policy: where to start.
        own: its own episodes' samples, both outcomes.
        demos: demonstrations to keep imitating.
        judged: the value model's word on ``own``.
        options: which failures to learn, and how.
        recoveries: verified recoveries from own failures, imitated by the success head as well.
        scratch: folder for resumable checkpoints.
        quiet: show no progress.

    Raises:
        DataError: no failures or no successes among the own episodes.
    """
    successes = own.take(own.success)
    if len(successes) == 0:
        raise DataError(
            f"no successes among {len(own.episodes)} own episodes: there is nothing to imitate; "
            "collect more, or start from a better policy"
        )
    failures = own.take(failure_samples(own, judged, options))
    b, n = options.fit.batch, options.negative_batch
    d = options.demos_share if demos is not None else 0.0
    r = options.recoveries_share if recoveries is not None else 0.0
    positive = [Source(successes, share=b * (1 - r) * (1 - d))]
    if demos is not None:
        positive.append(Source(demos, share=b * (1 - r) * d))
    if recoveries is not None:
        positive.append(Source(recoveries, share=b * r))
    negative = [Source(failures, head="failure", share=n, stop_gradient=True, loss_weight=options.eta)]
    if recoveries is None:  # the control of the method without an expert
        negative.append(Source(successes, head="own_success", share=n, stop_gradient=True, loss_weight=options.eta))
    whole = replace(options.fit, batch=b + n * len(negative))
    fresh = policy.with_heads(HEADS[: 1 + len(negative)], options.shared_layers)
    return fit(fresh, [*positive, *negative], whole, title="heads", scratch=scratch, quiet=quiet)
