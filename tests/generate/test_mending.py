"""Ways out: searched as long as there are any, and every record repeats from its beginning where physics is real."""

from pathlib import Path

import numpy as np
import pytest

from failwise.envs import make_env
from failwise.envs.tiny import make
from failwise.generate import GenerateOptions, Request, cells_of, generate, mending
from failwise.generate.failures import EPISODES, RECOVERIES
from failwise.generate.plan import Run, Script, execute, make_plan
from failwise.store import EpisodeStore
from failwise.types import Outcome


def test_a_failure_that_begins_midway_repeats_from_the_beginning_bit_for_bit(tmp_path: Path) -> None:
    env = make_env("metaworld/pick-place", cameras={})
    requests = [Request(mode="early_release", episodes=1), Request(mode="noop", episodes=1, stages=("grasped",))]
    generate(cells_of(env, requests), tmp_path, GenerateOptions(corrections=1, look_every=0, workers=1))
    for name, succeeds in ((EPISODES, False), (RECOVERIES, True)):
        store = EpisodeStore(tmp_path / name, create=False)
        metas = [m for m in store.metas() if m.arm != "plan"]
        assert metas, f"no {name}"
        for meta in metas:
            episode = store.read(meta.episode_id)
            observation, _ = env.reset(seed=meta.env_seed, options={"instruction": meta.instruction})
            success = False
            for step, action in enumerate(episode.actions()):
                np.testing.assert_array_equal(np.float32(observation.state), episode.states()[step], err_msg=f"{step}")
                observation, *_, info = env.step(action)
                success |= info["success"]
            assert success == succeeds == (meta.outcome == Outcome.SUCCESS)
        assert max(m.failure_events[0].onset_step for m in metas) > 0, "one of them begins midway"
    env.close()


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Step and limit of every search; none of them finds anything."""
    calls: list[tuple[int, int]] = []

    def nothing(env, run, correct, at, random, *, tries, limit):
        calls.append((at, limit))

    monkeypatch.setattr(mending, "search", nothing)
    return calls


@pytest.mark.parametrize("known", [True, False])
def test_the_search_gives_up_at_the_first_step_without_a_way_out(searched, known: bool) -> None:
    env = make("push")
    plan = next(p for seed in range(400000, 400020) if (p := make_plan(env, seed, env.spec.instruction)))
    run: Run = execute(env, plan, Script.of(plan))
    options = GenerateOptions(corrections=3, spacing=2, limit=500)
    random = np.random.default_rng(0)
    assert mending.ways_out(env, run, plan if known else None, 3, random, options) == []
    ((at, limit),) = searched
    assert 5 <= at < len(run) and limit == (max(60, 2 * len(plan.run)) if known else 500)
