"""What training costs: a second head beside one, and level-2 minibatches beside one noised chunk an observation.

    python benchmarks/train.py            # about three minutes on two idle cores
    python benchmarks/train.py --quick    # does it run at all; its figures mean nothing

The training loop is ``failwise.learn.fit`` itself. The benchmark only stands at its one door, the minibatch's loss:
the time from one call to the next is a whole step (samples, augmentation, forward and backward pass, clipping,
optimiser, moving average), and what is done at the door is taken off the clock. Data: episodes of the expert on
tiny/reach, made on the fly, with two 96x96 cameras as on Meta-World. The policy is the compact VLA of default shape.

    dual_over_single            median step of success and failure head (24 and 8 observations, the failure head's
    (budget 1.15)               gradient stopped at the backbone) over that of one head with all 32; 4 copies each
    level2_time_to_equal_loss   time of one noised chunk an observation over time of 8, to the same held-out
                                denoising loss; above 1, level 2 is faster. Time is the number of steps to that loss
                                times the median step, so that a disturbed minute does not decide
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from failwise.learn import fit as training
from failwise.learn.data import ChunkData, load_chunks
from failwise.learn.fit import Source, fit
from failwise.learn.options import FitOptions
from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.seeds import DEMOS
from figures import announce

HEADS = ("success", "failure")


class EnoughSeen(Exception):  # noqa: N818 (no error: the way out of the loop)
    """Raised at the door to leave a training run early."""


@dataclass
class Door:
    """Stands in for the loss of ``failwise.learn.fit`` and watches the steps go by.

    Attributes:
        look: called before each step with the network and the number of steps done; off the clock.
        seconds: of each whole step so far.
    """

    look: Callable[[Any, int], None] = lambda network, step: None
    seconds: list[float] = field(default_factory=list)
    _loss: Callable[..., Tensor] = training._loss
    _since: float | None = None

    def __call__(self, policy: Any, network: Any, samplers: Any, options: FitOptions, step: int) -> Tensor:
        """The loss of one minibatch, as ``fit`` asks for it."""
        if self._since is not None:
            self.seconds.append(time.perf_counter() - self._since)
        self.look(network, step)
        self._since = time.perf_counter()
        return self._loss(policy, network, samplers, options, step)

    def watch(self, policy: CompactVLA, sources: Sequence[Source], options: FitOptions) -> None:
        """Train until the steps are done or ``look`` has seen enough; the trained weights are dropped."""
        training._loss = self
        try:
            fit(policy, sources, options, quiet=True)
        except EnoughSeen:
            pass
        finally:
            training._loss = self._loss


def demonstrations(folder: Path, horizon: int, episodes: int) -> tuple[ChunkData, ChunkData]:
    """Successful expert episodes of tiny/reach, and as many samples of others held out."""
    seeds = DEMOS.claim(episodes)
    items = [RolloutItem("tiny/reach", s, s, "expert", "expert:mixed") for s in seeds]
    options = RolloutOptions(look_every=1, env_options={"image_size": 96})
    collect(items, folder, workers=1, options=options, title="episodes")
    data = load_chunks(folder, horizon)
    data = data.take(data.success)
    seed = np.array([m.env_seed for m in data.episodes])[data.episode]
    held_out = seed - seeds.start >= 3 * episodes // 4
    return data.take(~held_out), data.take(held_out)


def fresh_policy(data: ChunkData, seed: int) -> CompactVLA:
    """A randomly initialised compact VLA for this data."""
    torch.manual_seed(seed)
    A = data.actions.shape[2]
    config = CompactConfig(
        cameras={c: (x.shape[1], x.shape[2]) for c, x in data.images.items()},
        state_dim=data.states.shape[1],
        action_dim=A,
    )
    return CompactVLA(config, Normaliser.fit(data.states, data.actions[:, 0], -np.ones(A), np.ones(A)))


def step_seconds(
    runs: dict[str, tuple[CompactVLA, list[Source], FitOptions]], repeats: int, steps: int
) -> dict[str, float]:
    """Median seconds of a step of each run. One repeat does a few steps of every run; the first of them is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (policy, sources, options) in runs.items():
            door = Door()
            # One step more: a step is over when the next one knocks.
            door.watch(policy, sources, FitOptions(**{**vars(options), "steps": steps + 2, "save_every": 0}))
            seconds[name] += door.seconds[1:]
    return {name: statistics.median(values) for name, values in seconds.items()}


def curve(
    policy: CompactVLA, data: ChunkData, held_out: ChunkData, options: FitOptions, every: int, target: float | None
) -> list[tuple[int, float]]:
    """(step, held-out denoising loss) every few steps, until the target is reached or the steps are done.

    The held-out loss is ``fit``'s own on one fixed draw: 128 observations, 8 times and noises each, no image shift.
    """
    fixed = FitOptions(batch=128, copies=8, shift=0, seed=1)
    samplers = training._prepare(policy, [Source(held_out)], fixed, training.training_device(fixed.device))
    found: list[tuple[int, float]] = []
    door = Door()
    loss = door._loss

    def look(network: Any, step: int) -> None:
        if step == 0 or step % every:
            return
        with torch.no_grad():
            found.append((step, float(loss(policy, network, samplers, fixed, 0))))
        if step >= options.steps or (target is not None and found[-1][1] <= target):
            raise EnoughSeen

    door.look = look
    # A schedule far longer than the run: neither side may gain by the rate's decay near its own end.
    door.watch(policy, [Source(data)], FitOptions(**{**vars(options), "steps": 10 * options.steps}))
    return found


def first_below(found: Sequence[tuple[int, float]], target: float) -> int | None:
    """The first step at which the held-out loss was at most the target."""
    return next((step for step, loss in found if loss <= target), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=48, help="of which a quarter is held out")
    parser.add_argument("--repeats", type=int, default=10, help="of the interleaved step times")
    parser.add_argument("--steps", type=int, default=250, help="of the run with one chunk an observation")
    parser.add_argument("--every", type=int, default=10, help="steps between held-out losses")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each kind")
    parser.add_argument("--quick", action="store_true", help="reduced sizes, to see whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.episodes, arguments.repeats, arguments.steps, arguments.every, arguments.seeds = 8, 2, 30, 10, 1
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        data, held_out = demonstrations(Path(folder), CompactConfig().horizon, arguments.episodes)
    print(f"{len(data)} samples, {len(held_out)} held out, {arguments.threads} threads")

    single = fresh_policy(data, 0)
    dual = single.with_heads(HEADS)
    negative = Source(data, head="failure", share=8, stop_gradient=True)
    guided, plain = FitOptions(copies=4), FitOptions(copies=1)
    found = step_seconds(
        {
            "one head, 32 observations": (single, [Source(data, share=32)], guided),
            "two heads, 24 + 8": (dual, [Source(data, share=24), negative], guided),
            "one head, 1 copy": (single, [Source(data)], plain),
            "one head, 8 copies": (single, [Source(data)], FitOptions(copies=8)),
        },
        arguments.repeats,
        2 if arguments.quick else 4,
    )
    for name, seconds in found.items():
        print(f"  step, {name:28s} {1e3 * seconds:8.1f} ms")

    schedule: dict[str, Any] = {"steps": arguments.steps, "warmup": min(50, arguments.steps // 4), "save_every": 0}
    ratios, targets, times = [], [], {1: [], 8: []}
    for seed in range(arguments.seeds):
        policy = fresh_policy(data, seed)
        one = curve(policy, data, held_out, FitOptions(copies=1, seed=seed, **schedule), arguments.every, None)
        # The loss that the one-to-one run holds at its end, not a lucky dip of it.
        target = statistics.median(loss for _, loss in one[-5:])
        eight = curve(policy, data, held_out, FitOptions(copies=8, seed=seed, **schedule), arguments.every, target)
        steps = {1: first_below(one, target), 8: first_below(eight, target)}
        if steps[1] is None or steps[8] is None:
            print(f"  seed {seed}: 8 copies did not reach {target:.4f} in {arguments.steps} steps")
            continue
        seconds = {1: steps[1] * found["one head, 1 copy"], 8: steps[8] * found["one head, 8 copies"]}
        print(
            f"  seed {seed}: held-out loss {target:.4f} after {steps[1]} steps, {seconds[1]:.1f} s with 1 copy, "
            f"after {steps[8]} steps, {seconds[8]:.1f} s with 8"
        )
        targets.append(target)
        ratios.append(seconds[1] / seconds[8])
        for copies in times:
            times[copies].append(seconds[copies])
    level2 = {
        "level2_time_to_equal_loss": round(statistics.fmean(ratios), 3) if ratios else None,
        "level2_target_loss": [round(x, 4) for x in targets],
        "level2_seconds_1_copy": [round(x, 1) for x in times[1]],
        "level2_seconds_8_copies": [round(x, 1) for x in times[8]],
    }
    ratio = found["two heads, 24 + 8"] / found["one head, 32 observations"]
    announce("train", {"dual_over_single": ratio, **level2})


if __name__ == "__main__":
    main()
