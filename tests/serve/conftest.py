from pathlib import Path

import pytest
import torch

from .loopback import save_small_policy


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("FAILWISE_TOKEN", raising=False)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    return save_small_policy(tmp_path_factory.mktemp("models") / "small")
