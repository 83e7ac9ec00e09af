"""The same checkpoint, seeds and environment: our rollouts and LeRobot's own evaluation give the same actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from failwise.policies import load_policy
from failwise.rollout import RolloutItem, RolloutOptions, collect
from failwise.store import EpisodeStore

pytestmark = pytest.mark.lerobot


def theirs(checkpoint: Path, seed: int) -> tuple[np.ndarray, bool]:
    """Actions (T, A) of one episode as ``lerobot-eval`` runs it, and whether it succeeded."""
    from lerobot.envs.factory import make_env, make_env_pre_post_processors
    from lerobot.scripts.lerobot_eval import rollout
    from lerobot.utils.random_utils import set_seed

    from lerobot_policy_failwise import FailwiseEnvConfig

    opened = load_policy(checkpoint)
    about = FailwiseEnvConfig(task="tiny/reach")
    env = make_env(about, n_envs=1)["failwise"][0]
    before, after = make_env_pre_post_processors(env_cfg=about, policy_cfg=opened.policy.config)
    set_seed(seed)
    done = rollout(env, opened.policy, before, after, opened.inputs.before, opened.inputs.after, seeds=[seed])
    env.close()
    steps = int(done["done"][0].to(int).argmax()) + 1
    return done["action"][0, :steps].numpy(), bool(done["success"][0, :steps].any())


@pytest.mark.parametrize("fixture", ["smolvla", "diffusion", "act"])
def test_the_same_actions_step_for_step(fixture: str, request, tmp_path: Path) -> None:
    checkpoint = request.getfixturevalue(fixture)
    seeds = (3, 8)
    items = [RolloutItem("tiny/reach", s, s, "ours", str(checkpoint)) for s in seeds]
    collect(items, tmp_path / "run", workers=1, options=RolloutOptions(), title="ours")
    store = EpisodeStore(tmp_path / "run", create=False)
    for meta, seed in zip(sorted(store.metas(), key=lambda m: m.env_seed), seeds, strict=True):
        actions, success = theirs(checkpoint, seed)
        mine = store.read(meta.episode_id).actions()
        assert len(mine) == len(actions) > 20
        np.testing.assert_array_equal(mine, actions)
        assert success == meta.success_once


def test_another_seed_is_another_episode(smolvla: Path) -> None:
    first, again, other = theirs(smolvla, 3)[0], theirs(smolvla, 3)[0], theirs(smolvla, 4)[0]
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
