"""Small checkpoints of LeRobot, made once; the whole folder is skipped where LeRobot is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore_glob = [] if find_spec("lerobot") else ["*.py"]


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory):
    """No hub, and LeRobot's folders apart from the user's."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def vlm(tmp_path_factory) -> str:
    from .small import tiny_smolvlm

    return tiny_smolvlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="session")
def smolvla(tmp_path_factory, vlm) -> Path:
    from .small import SMOLVLA, save

    return save("smolvla", tmp_path_factory.mktemp("smolvla") / "checkpoint", vlm_model_name=vlm, **SMOLVLA)


@pytest.fixture(scope="session")
def dual(tmp_path_factory, vlm) -> Path:
    """A SmolVLA with a failure expert that differs from the acting one."""
    from .small import SMOLVLA, save, stir

    folder = save("failwise_smolvla", tmp_path_factory.mktemp("dual") / "checkpoint", vlm_model_name=vlm, **SMOLVLA)
    return stir(folder)


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory) -> Path:
    from .small import DIFFUSION, save

    return save("diffusion", tmp_path_factory.mktemp("diffusion") / "checkpoint", **DIFFUSION)


@pytest.fixture(scope="session")
def dual_diffusion(tmp_path_factory) -> Path:
    from .small import DIFFUSION, save, stir

    return stir(save("failwise_diffusion", tmp_path_factory.mktemp("dual") / "diffusion", **DIFFUSION))


@pytest.fixture(scope="session")
def act(tmp_path_factory) -> Path:
    from .small import ACT, save

    return save("act", tmp_path_factory.mktemp("act") / "checkpoint", **ACT)
