"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

from small_trainings import VARIABLE, use_precision

# A busy machine is no failure: examples are bounded in number, not in wall-clock time.
settings.register_profile("failwise", deadline=None)
settings.load_profile("failwise")

# The suites of plugins/ are there as those of any other distribution: by their entry points.
sys.path.append(str(Path(__file__).parent / "plugins"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fit-precision", choices=("float32", "bfloat16"), default="float32",
        help=f"precision of the small trainings in the tests, which pass in both; also {VARIABLE}",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    use_precision(config.getoption("--fit-precision"))
