"""What steering costs: chunks from images to normalised actions, side by side on one policy.

    python benchmarks/guidance.py            # about a minute on one core

Every figure is a ratio of medians over interleaved repeats in one process, one torch thread: encoding two
96x96 cameras, the instruction and the proprioception, then sampling. The policy is a randomly initialised
compact VLA with two heads, whose costs do not depend on its weights.

    guided_over_unguided_b1, _b8    AFIL as ``failwise improve`` builds it, with the failure head at every other
                                    denoising step, over no steering, 1 and 8 observations; budget 1.25
    exact_over_unguided_b1, _b8     the same with the failure head at every denoising step
    shared_over_unguided_b1, _b8    that, with two of three expert layers shared by the heads (``shared_layers=2``)
    best_of_8_over_1_b1             8 samples and a critic over one sample, 1 observation; budget 2

    .venv-lerobot/bin/python benchmarks/guidance.py --smolvla --repeats 5     # minutes on two cores; or on a GPU

    smolvla_guided_over_unguided    SmolVLA at its published size, random weights, one observation of two cameras,
                                    failure expert at every other step; budget 1.3. smolvla_exact_...: at every step
    smolvla_8_samples_over_1        eight chunks from one encoding over one; smolvla_unguided_over_lerobot: over its own
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from failwise.improve.candidates import EVERY
from failwise.policies.compact import CompactConfig, CompactVLA, Normaliser
from failwise.protocols import Context, Steering
from failwise.steer import AFIL, BestOfN, Unsteered, sample
from failwise.types import Observation
from figures import announce


def random_policy(shared_layers: int = 0) -> CompactVLA:
    config = CompactConfig(heads=("success", "failure"), shared_layers=shared_layers)
    S, A = config.state_dim, config.action_dim
    rng = np.random.default_rng(0)
    normaliser = Normaliser.fit(rng.normal(size=(64, S)), rng.normal(size=(64, A)), -np.ones(A), np.ones(A))
    policy = CompactVLA(config, normaliser)
    with torch.no_grad():  # heads start equal and at zero; they must differ for guidance to have something to do
        for parameter in policy.network.experts.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


def random_observations(policy: CompactVLA, n: int) -> list[Observation]:
    rng = np.random.default_rng(n)
    return [
        Observation(
            images={
                camera: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for camera, size in policy.spec.cameras.items()
            },
            state=rng.normal(size=policy.spec.state_dim).astype(np.float32),
            instruction="put the peg into the hole",
        )
        for _ in range(n)
    ]


class ChunkCritic(torch.nn.Module):
    """Of the shape that best-of-N needs: a two-layer network on features and chunk, (B, N) scores."""

    def __init__(self, feature_dim: int, chunk_dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(feature_dim + chunk_dim, hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(hidden, hidden),
            torch.nn.SiLU(),
            torch.nn.Linear(hidden, 1),
        )

    def forward(self, actions_BNHA: torch.Tensor, context: Context) -> torch.Tensor:
        """Scores (B, N) of chunks (B, N, H, A)."""
        B, N = actions_BNHA.shape[:2]
        features_BND = context.features_BD[:, None].expand(B, N, -1)
        return self.net(torch.cat([features_BND, actions_BNHA.flatten(2)], dim=-1))[..., 0].sigmoid()


def chunk(policy: CompactVLA, observations: list[Observation], steering: Steering) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    return lambda: sample(policy, policy.encode(observations), steering, generator)


def medians(runs: dict[str, Callable[[], object]], repeats: int, warmup: int) -> dict[str, float]:
    """Median seconds of each run. One repeat does every run once, so that a slow minute slows all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(warmup + repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--smolvla", action="store_true", help="SmolVLA in place of the compact VLA")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.smolvla:
        import guidance_smolvla as real

        device = "cuda" if torch.cuda.is_available() else "cpu"
        seconds = medians(real.ways(real.smolvla(device), device), arguments.repeats, min(arguments.warmup, 1))
        for name, value in seconds.items():
            print(f"  {name:10s} {1e3 * value:8.1f} ms")
        announce("guidance", real.figures_of(seconds), policy="smolvla", device=device)
        return
    torch.set_num_threads(1)
    policy = random_policy()
    spec = policy.spec
    critic = ChunkCritic(spec.feature_dim, spec.horizon * spec.action_dim).eval()
    one, eight = random_observations(policy, 1), random_observations(policy, 8)
    shared = random_policy(shared_layers=2)
    guided, exact = AFIL(schedule="cosine", alpha=1.0, every=EVERY), AFIL(schedule="cosine", alpha=1.0)
    found = medians(
        {
            "unguided, 1 observation": chunk(policy, one, Unsteered()),
            "guided, 1 observation": chunk(policy, one, guided),
            "guided at every step, 1 observation": chunk(policy, one, exact),
            "guided, shared layers, 1 observation": chunk(shared, one, exact),
            "guided, shared layers, 8 observations": chunk(shared, eight, exact),
            "best of 8, 1 observation": chunk(policy, one, BestOfN(critic, samples=8)),
            "unguided, 8 observations": chunk(policy, eight, Unsteered()),
            "guided, 8 observations": chunk(policy, eight, guided),
            "guided at every step, 8 observations": chunk(policy, eight, exact),
        },
        arguments.repeats,
        arguments.warmup,
    )
    print(
        f"compact VLA, {spec.denoising_steps} denoising steps, chunks of {spec.horizon}; "
        f"median of {arguments.repeats} repeats:"
    )
    for name, seconds in found.items():
        print(f"  {name:38s} {1e3 * seconds:8.2f} ms")
    base_1, base_8 = found["unguided, 1 observation"], found["unguided, 8 observations"]
    figures = {
        "guided_over_unguided_b1": found["guided, 1 observation"] / base_1,
        "guided_over_unguided_b8": found["guided, 8 observations"] / base_8,
        "exact_over_unguided_b1": found["guided at every step, 1 observation"] / base_1,
        "exact_over_unguided_b8": found["guided at every step, 8 observations"] / base_8,
        "shared_over_unguided_b1": found["guided, shared layers, 1 observation"] / base_1,
        "shared_over_unguided_b8": found["guided, shared layers, 8 observations"] / base_8,
        "best_of_8_over_1_b1": found["best of 8, 1 observation"] / base_1,
    }
    announce("guidance", figures)


if __name__ == "__main__":
    main()
