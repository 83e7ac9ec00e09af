"""LeRobot's own evaluation beside ours: ``python benchmarks/rollout.py --peer lerobot``, in LeRobot's environment."""

from __future__ import annotations

import statistics
import tempfile
import time
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


def over_lerobot_eval(steps: int, repeats: int) -> dict[str, float]:
    """Closed-loop steps a second of both, one process and one environment each, in turns; the same checkpoint.

    The policy is a small ACT with random weights that sees one 480x480 picture and acts 8 steps on it: what is compared
    is the loop around it. Both take each layout once; LeRobot renders at every step as ``lerobot-eval`` does.
    """
    from lerobot.envs.configs import MetaworldEnv
    from lerobot.envs.factory import make_env as lerobot_env
    from lerobot.envs.factory import make_env_pre_post_processors
    from lerobot.scripts.lerobot_eval import rollout

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _small_act(Path(folder) / "act")
        agent = load_agent(str(checkpoint))
        policy: Any = agent.policy  # type: ignore[union-attr]
        about = MetaworldEnv(task=LEROBOT_TASK)
        suites = lerobot_env(about, n_envs=1)
        theirs = next(iter(next(iter(suites.values())).values()))
        before, after = make_env_pre_post_processors(env_cfg=about, policy_cfg=policy.policy.config)
        theirs.reset(seed=[0])
        for env in theirs.envs:
            env.unwrapped._max_episode_steps = steps
        ours = make_env(TASK, image_size=SIDE, cameras=("corner",), step_limit=steps)

        def lerobot(seed: int) -> int:
            inputs = policy.inputs
            done = rollout(theirs, policy.policy, before, after, inputs.before, inputs.after, seeds=[seed])
            return int(done["action"].shape[1])

        def failwise(seed: int) -> int:
            store = EpisodeStore(Path(folder) / "store")
            item = RolloutItem(TASK, seed, seed, "ours", str(checkpoint))
            with store.begin(item.episode_id) as writer:
                meta = run_episode(ours, agent, item, writer, RolloutOptions())
                writer.commit(meta)
            return meta.n_steps

        found: dict[str, list[float]] = {"lerobot": [], "failwise": []}
        for repeat in range(1 + repeats):
            for name, run in (("lerobot", lerobot), ("failwise", failwise)):
                start = time.perf_counter()
                n = run(repeat)
                if repeat:
                    found[name].append(n / (time.perf_counter() - start))
        theirs.close()
        ours.close()
    median = {name: statistics.median(rates) for name, rates in found.items()}
    return {
        "peer_steps_per_s": median["lerobot"],
        "same_size_steps_per_s": median["failwise"],
        "over_lerobot_eval": median["failwise"] / median["lerobot"],
    }


def _small_act(folder: Path) -> Path:
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    torch.manual_seed(0)
    config = make_policy_config(
        "act", device="cpu", chunk_size=8, n_action_steps=8, dim_model=64, n_heads=2, dim_feedforward=64,
        n_encoder_layers=1, n_decoder_layers=1, n_vae_encoder_layers=1, latent_dim=4, pretrained_backbone_weights=None,
        normalization_mapping=dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY),
        input_features={
            "observation.image": PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)),
            "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
    )  # fmt: skip
    for part in (get_policy_class("act")(config), *make_pre_post_processors(config)):
        part.save_pretrained(folder)
    return folder
