"""Real episodes of the environment without a simulator, questions about them, and a tiny model, each made once."""

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


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    """Questions about six failures of tiny/push on purpose, and as many correct moments, with their pictures."""
    from failwise.envs.tiny import make
    from failwise.generate import GenerateOptions, Request, cells_of, generate
    from failwise.generate.questions import export_questions

    data, out = tmp_path_factory.mktemp("on_purpose"), tmp_path_factory.mktemp("questions")
    requests = [Request(mode="translation", episodes=4)]
    generate(cells_of(make("push"), requests), data, GenerateOptions(workers=1, look_every=2))
    export_questions(data, out)
    return out


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory) -> str:
    """Folder of a vision-language model with random weights."""
    pytest.importorskip("peft")
    from tiny_vlm import build

    return build(tmp_path_factory.mktemp("tiny_vlm"))
