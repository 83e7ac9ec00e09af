"""One inference before the first client: text encoders and kernels are loaded at their first use, which takes seconds.

A client should not wait for that, nor a health check say that all is well before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from failwise.policies.remote import RemotePolicy
from failwise.types import Observation, PolicySpec

if TYPE_CHECKING:
    from failwise.serve.served import Served

UNSEEN = "failwise serve: a made-up instruction, which no checkpoint has stored"
"""Encoded instructions are stored with a checkpoint; only one that is not there needs the text encoder."""


@dataclass(frozen=True)
class WarmUp:
    """What came of it.

    Attributes:
        seconds: that it took.
        obstacle: why it was not done, "" if it was.
    """

    seconds: float
    obstacle: str = ""


def warm_up(served: Served) -> WarmUp:
    """Make one inference of a made-up observation, in a session that is thrown away. It changes no later reply.

    Args:
        served: what is served. Call this in the thread of its inferences.

    Returns:
        How long it took, or why it could not be done: the server may still answer what clients ask.
    """
    if isinstance(served.policy, RemotePolicy):  # an inference there would count as one of ours
        return WarmUp(0.0, "the policy runs in another server, which has its own warm-up")
    start = time.perf_counter()
    obstacle = ""
    try:
        with _random_state_kept():
            session = served.session(0)
            try:
                session.rehearse(made_up_observation(served.policy.spec))
            finally:
                served.over(session)
    except Exception as error:  # whatever a policy raises here, it may answer real observations
        obstacle = " ".join(f"{type(error).__name__}: {error}".split())[:400]
    return WarmUp(time.perf_counter() - start, obstacle)


def made_up_observation(spec: PolicySpec) -> Observation:
    """Black images, a state of zeros, and an instruction that the policy has not seen.

    Args:
        spec: of the policy, which gives the sizes.

    Returns:
        An observation that the policy takes.
    """
    images = {camera: np.zeros((height, width, 3), np.uint8) for camera, (height, width) in spec.cameras.items()}
    return Observation(images, np.zeros(spec.state_dim, np.float32), UNSEEN)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave torch's global generator as it was: policies of LeRobot seed it, and loading a model draws from it."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.random.fork_rng():
        yield
