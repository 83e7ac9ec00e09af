"""LeRobot's own evaluation beside ours: ``python benchmarks/rollout.py --peer lerobot``, in LeRobot's environment."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from failwise.agent import load_agent
from failwise.envs import make_env
from failwise.rollout import RolloutItem, RolloutOptions
from failwise.rollout.loop import run_episode
from failwise.store import EpisodeStore

SIDE = 480  # what LeRobot's Meta-World renders; it offers no other size
TASK, LEROBOT_TASK = "metaworld/pick-place", "pick-place-v3"
POLICIES = {  # U-Net widths, denoising steps
    "small": {"down_dims": (64, 128, 256), "num_inference_steps": 10},
    "tiny": {"down_dims": (16, 32), "num_inference_steps": 2},
}


def over_lerobot_eval(steps: int, repeats: int) -> dict[str, float]:
    """Closed-loop steps a second of both, one environment each, in turns, with the same checkpoint.

    The policies are Diffusion Policies with random weights: they look at two steps, at 96x96 of their 480x480 pixels,
    and act 8 steps on them. The tiny one costs next to nothing, so that the loops are compared; with the small one both
    loops wait for the same network. LeRobot renders at every step, as ``lerobot-eval`` does, ours where the policy
    looks; ours also records the episode. Each has a process of its own: in one, the renderers would share settings.
    Both use as many threads as torch takes by itself, as ``lerobot-eval`` and ``failwise collect --workers 1`` do.
    """
    context = multiprocessing.get_context("spawn")
    both = ("lerobot", "failwise")
    found: dict[tuple[str, str], list[float]] = {(size, who): [] for size in POLICIES for who in both}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = {size: _policy(Path(folder) / size, size) for size in POLICIES}
        workers = {who: ProcessPoolExecutor(1, mp_context=context) for who in both}
        for repeat in range(1 + repeats):
            for size, who in found:
                run = _lerobot if who == "lerobot" else _failwise
                rate = workers[who].submit(run, str(checkpoints[size]), steps, repeat).result()
                if repeat:
                    found[size, who].append(rate)
        for worker in workers.values():
            worker.shutdown()
    median = {key: statistics.median(rates) for key, rates in found.items()}
    return {
        "peer_steps_per_s": median["tiny", "lerobot"],
        "same_size_steps_per_s": median["tiny", "failwise"],
        "over_lerobot_eval": median["tiny", "failwise"] / median["tiny", "lerobot"],
        "over_lerobot_eval_small_policy": median["small", "failwise"] / median["small", "lerobot"],
    }


def _lerobot(checkpoint: str, steps: int, seed: int) -> float:
    """Steps a second of one episode as ``lerobot-eval`` runs it."""
    from lerobot.scripts.lerobot_eval import rollout

    env, before, after, policy = _peer(checkpoint)
    for one in env.envs:
        one.unwrapped._max_episode_steps = steps
    start = time.perf_counter()
    done = rollout(env, policy.policy, before, after, policy.inputs.before, policy.inputs.after, seeds=[seed])
    return float(done["action"].shape[1] / (time.perf_counter() - start))


def _failwise(checkpoint: str, steps: int, seed: int) -> float:
    """Steps a second of one episode as ``failwise collect`` runs it."""
    agent, env = _agent(checkpoint), _env(steps)
    item = RolloutItem(TASK, seed, seed, Path(checkpoint).name, checkpoint)
    start = time.perf_counter()
    with EpisodeStore(Path(checkpoint).parent / "store").begin(item.episode_id) as writer:
        meta = run_episode(env, agent, item, writer, RolloutOptions())
        writer.commit(meta)
    return meta.n_steps / (time.perf_counter() - start)


@lru_cache
def _peer(checkpoint: str) -> tuple[Any, Any, Any, Any]:
    from lerobot.envs.configs import MetaworldEnv
    from lerobot.envs.factory import make_env as lerobot_env
    from lerobot.envs.factory import make_env_pre_post_processors

    policy: Any = _agent(checkpoint).policy
    about = MetaworldEnv(task=LEROBOT_TASK)
    env = next(iter(next(iter(lerobot_env(about, n_envs=1).values())).values()))
    env.reset(seed=[0])
    return env, *make_env_pre_post_processors(env_cfg=about, policy_cfg=policy.policy.config), policy


@lru_cache
def _agent(checkpoint: str) -> Any:
    return load_agent(checkpoint)


@lru_cache
def _env(steps: int) -> Any:
    return make_env(TASK, image_size=SIDE, cameras=("corner",), step_limit=steps)


def _policy(folder: Path, size: str) -> Path:
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    torch.manual_seed(0)
    config = make_policy_config(
        "diffusion", device="cpu", n_obs_steps=2, horizon=16, n_action_steps=8, resize_shape=(96, 96),
        pretrained_backbone_weights=None, use_group_norm=True, noise_scheduler_type="DDIM", **POLICIES[size],
        normalization_mapping=dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY),
        input_features={
            "observation.image": PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)),
            "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
    )  # fmt: skip
    for part in (get_policy_class("diffusion")(config), *make_pre_post_processors(config)):
        part.save_pretrained(folder)
    return folder
