"""In which precision the small trainings of the tests compute: ``pytest --fit-precision bfloat16`` forces it."""

from __future__ import annotations

import os
from typing import cast, get_args

from failwise.learn.options import Precision

VARIABLE = "FAILWISE_TESTS_FIT_PRECISION"


def use_precision(name: str) -> None:
    """For this process and those that it starts; before a test module is imported."""
    os.environ[VARIABLE] = name


def fit_precision() -> Precision:
    """What was asked for; float32 unless another was."""
    name = os.environ.get(VARIABLE, "float32")
    assert name in get_args(Precision), f"{VARIABLE}={name} is no precision"
    return cast(Precision, name)
