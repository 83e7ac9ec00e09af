"""What watching costs: each detector's ``update``, and the sampled chunks that some of them read.

    python benchmarks/monitor.py             # about two minutes on one core

Detectors are fitted briefly on made-up episodes, since their cost does not depend on their weights, with one torch
thread, and timed at the steps at which the policy is asked (at the others a held score is returned). Detectors take
turns, so that a slow moment of the machine hits all of them.

    NAME_p50_ms, NAME_p99_ms             features of width 256; budget for SAFE and the cheap ones: 1 ms at p99; the
                                         neighbours' cost is that of as many samples as they keep, 20,000
    NAME_d1024_p50_ms, NAME_d1024_p99_ms  features of width 1024
    NAME_share_of_chunk                  p50 at width 256 over the median time of one chunk of the compact VLA
    shared_over_separate_8               8 further chunks from one encoding, over 8 inferences of one chunk each
    samples_over_none_8                  one inference with 8 further chunks, over one without
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from failwise import registry
from failwise.detect import Detector, Moment, Trace, make_detector
from failwise.steer import Several, Unsteered, sample
from failwise.types import EpisodeMeta, Outcome
from figures import announce
from guidance import medians, random_observations, random_policy

WIDTHS = (256, 1024)
SAMPLES, HORIZON, ACTION_DIM, ASKED, DEMONSTRATIONS, SUCCESSES = 8, 8, 4, 30, 280, 670
NEIGHBOURS = ("knn-cosine", "knn-euclidean")  # keep features of successes, as many as 20,000
BRIEF = {
    "safe-mlp": {"epochs": 1},
    "safe-lstm": {"epochs": 1},
    "rnd": {"steps": 2},
    "logpzo": {"steps": 2},
    "fiper": {"rnd": {"steps": 2}},
    "changes": {"options": {"epochs": 1}},
    "ensemble": {"members": {"safe-mlp": {"epochs": 1}, "safe-lstm": {"epochs": 1}, "mahalanobis": {}}},
}


def made_up(index: int, width: int, random: np.random.Generator) -> Trace:
    """An episode of random numbers with everything that a detector may read."""
    failed, T = index % 2 == 0, 4 * ASKED
    meta = EpisodeMeta(
        episode_id=f"e{index}", env_id="tiny/reach", task="reach", instruction="go", env_seed=index, policy_seed=index,
        outcome=Outcome.TIMEOUT if failed else Outcome.SUCCESS, success_once=not failed,
        first_success_step=None if failed else T - 1, n_steps=T, step_limit=T, control_hz=20.0,
    )  # fmt: skip
    asked = np.arange(0, T, 4)
    scalars = {name: random.random(ASKED).astype(np.float32) for name in ("risk", "head_divergence")}
    return Trace(
        meta,
        random.normal(size=(T, ACTION_DIM)).astype(np.float32),
        asked,
        random.normal(size=(ASKED, width)).astype(np.float32),
        random.normal(size=(ASKED, SAMPLES, HORIZON, ACTION_DIM)).astype(np.float32),
        scalars,
    )


def time_updates(detectors: dict[str, Detector], moments: list[Moment], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each update; every round is one episode for each detector in turn."""
    spent: dict[str, list[float]] = {name: [] for name in detectors}
    for number in range(rounds + 1):
        for name, detector in detectors.items():
            detector.reset()
            for moment in moments:
                start = time.perf_counter()
                detector.update(moment)
                if number:  # the first round warms up
                    spent[name].append(1e3 * (time.perf_counter() - start))
    return spent


def chunk_figures(repeats: int) -> tuple[float, dict[str, float]]:
    """Median milliseconds of one chunk, and what further chunks cost."""
    policy = random_policy()
    one = random_observations(policy, 1)
    generator = torch.Generator().manual_seed(0)

    def plain() -> object:
        return sample(policy, policy.encode(one), Unsteered(), generator)

    def further() -> object:
        context = policy.encode(one)
        sample(policy, context, Unsteered(), generator)
        return sample(policy, context, Several(SAMPLES), generator)

    def separate() -> object:
        return [plain() for _ in range(SAMPLES)]

    def shared() -> object:
        return sample(policy, policy.encode(one), Several(SAMPLES), generator)

    found = medians({"plain": plain, "further": further, "separate": separate, "shared": shared}, repeats, 3)
    ratios = {
        f"shared_over_separate_{SAMPLES}": found["shared"] / found["separate"],
        f"samples_over_none_{SAMPLES}": found["further"] / found["plain"],
    }
    return 1e3 * found["plain"], ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chunk_ms, figures = chunk_figures(arguments.repeats)
    print(f"one chunk of the compact VLA: {chunk_ms:.1f} ms")
    for width in WIDTHS:
        random = np.random.default_rng(width)
        traces = [made_up(i, width, random) for i in range(40)]
        # As many as a detector keeps: what it costs depends on them.
        demonstrations = [made_up(2 * i + 1, width, random) for i in range(DEMONSTRATIONS)]
        many = [replace(made_up(2 * i + 1, width, random), samples=None) for i in range(SUCCESSES)]
        detectors = {
            name: made.fit(
                many if name in NEIGHBOURS else traces,
                demonstrations=demonstrations if made.uses_demonstrations else (),
            )
            for name in registry.names("detector")
            for made in [make_detector(name, **BRIEF.get(name, {}))]
        }
        moments = [m for m in made_up(1, width, random).moments() if m.features is not None]
        label = "" if width == WIDTHS[0] else f"_d{width}"
        for name, spent in time_updates(detectors, moments, arguments.rounds).items():
            p50, p99 = statistics.median(spent), float(np.quantile(spent, 0.99))
            figures |= {f"{name}{label}_p50_ms": p50, f"{name}{label}_p99_ms": p99}
            share = ""
            if not label:
                figures[f"{name}_share_of_chunk"] = p50 / chunk_ms
                share = f", {100 * p50 / chunk_ms:5.2f}% of a chunk"
            print(f"  {name:16s} D = {width:4d}: p50 {p50:7.3f} ms, p99 {p99:7.3f} ms{share}")
    announce("monitor", figures)


if __name__ == "__main__":
    main()
