"""Real episodes of the environment without a simulator, made once."""

from pathlib import Path

import pytest
import torch

from failwise.rollout import RolloutItem, RolloutOptions, collect


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demos(tmp_path_factory) -> Path:
    """Forty demonstrations of tiny/reach with the faults of a human, all of them successful."""
    out = tmp_path_factory.mktemp("demos")
    items = [RolloutItem("tiny/reach", s, s, "demos", "expert:mixed") for s in range(40)]
    collect(items, out, workers=1, options=RolloutOptions(look_every=2), quiet=True)
    return out


@pytest.fixture(scope="session")
def failures(tmp_path_factory) -> Path:
    """Six episodes of random actions in tiny/push, none of them successful."""
    out = tmp_path_factory.mktemp("failures")
    items = [RolloutItem("tiny/push", s, s, "random", "random:3") for s in range(6)]
    collect(items, out, workers=1, options=RolloutOptions(env_options={"step_limit": 18}), quiet=True)
    return out
