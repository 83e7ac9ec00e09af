"""From noise to action: the two Gaussian paths of generative policies, and their deterministic steps.

Time in this package runs from ``t = 0`` (noise) to ``t = 1`` (action), for both. A path is ``x_t = alpha(t)
a + sigma(t) z``:

* ``FlowProcess``: ``alpha = t``, ``sigma = 1 - t``; the policy predicts the velocity ``v = a - z``; an Euler
  step.
* ``DiffusionProcess``: ``alpha = sin phi``, ``sigma = cos phi`` with ``phi = phi0 + t (pi/2 - phi0)``; the
  policy predicts the noise ``epsilon = z``; a DDIM step (arXiv 2010.02502, eta = 0).

pi0 and SmolVLA count time the other way, ``tau = 1 - t``, and predict ``u = z - a``. ``ReversedTime`` is the
one place where that is converted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from failwise.errors import SetupError

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from failwise.protocols import Context, GenerativePolicy
    from failwise.types import Observation


class Process(Protocol):
    """A Gaussian path ``x_t = alpha(t) a + sigma(t) z`` and what a prediction means there; t in [0, 1]."""

    def begin(self, generators: list[torch.Generator] | None) -> None:
        """Called before a sampling, with one generator for each row: for processes that draw noise at their steps."""
        ...

    def alpha(self, t: float) -> float:
        """Share of the action in ``x_t``."""
        ...

    def sigma(self, t: float) -> float:
        """Standard deviation of the noise in ``x_t``."""
        ...

    def clean(self, prediction: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
        """The action that the prediction points at, same shape."""
        ...

    def from_clean(self, clean: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
        """The prediction that points at an action: the inverse of ``clean``. ``t < 1``."""
        ...

    def step(self, prediction: torch.Tensor, noisy: torch.Tensor, t: float, t_next: float) -> torch.Tensor:
        """``x`` at ``t_next``, deterministically."""
        ...


@dataclass(frozen=True)
class FlowProcess:
    """The straight path of flow matching (arXiv 2210.02747); the prediction is the velocity ``v = a - z``."""

    def begin(self, generators: list[torch.Generator] | None) -> None:
        """Its steps draw nothing."""

    def alpha(self, t: float) -> float:
        """``t``."""
        return t

    def sigma(self, t: float) -> float:
        """``1 - t``."""
        return 1.0 - t

    def clean(self, prediction: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
        """``a = x + (1 - t) v``."""
        return velocity_to_clean(prediction, noisy, t)

    def from_clean(self, clean: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
        """``v = (a - x) / (1 - t)``."""
        return clean_to_velocity(clean, noisy, t)

    def step(self, prediction: torch.Tensor, noisy: torch.Tensor, t: float, t_next: float) -> torch.Tensor:
        """Euler: ``x + (t_next - t) v``."""
        return noisy + (t_next - t) * prediction


@dataclass(frozen=True)
class DiffusionProcess:
    """The variance-preserving cosine path; the prediction is the noise ``epsilon``.

    Attributes:
        start_angle: ``phi0`` in radians, ``0 < phi0 < pi/2``. ``alpha(0) = sin phi0`` is kept above zero
            because an epsilon-prediction says nothing about the action at a signal of zero; 0.02 leaves 2%
            of the action at t = 0.
        clip: bound on the predicted clean action (normalised units), as diffusion policies use; None for
            none.
    """

    start_angle: float = 0.02
    clip: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.start_angle < math.pi / 2:
            raise SetupError(f"start_angle must lie in (0, pi/2), got {self.start_angle}")
        if self.clip is not None and self.clip <= 0:
            raise SetupError(f"clip must be positive or None, got {self.clip}")

    def begin(self, generators: list[torch.Generator] | None) -> None:
        """Its steps draw nothing."""

    def _angle(self, t: float) -> float:
        return self.start_angle + t * (math.pi / 2 - self.start_angle)

    def alpha(self, t: float) -> float:
        """``sin phi(t)``."""
        return math.sin(self._angle(t))

    def sigma(self, t: float) -> float:
        """``cos phi(t)``; exactly 0 at ``t = 1``."""
        return 0.0 if t == 1.0 else math.cos(self._angle(t))

    def clean(self, prediction: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
        """``a = (x - sigma epsilon) / alpha``, clipped when ``clip`` is set."""
        clean = (noisy - self.sigma(t) * prediction) / self.alpha(t)
        return clean if self.clip is None else clean.clamp(-self.clip, self.clip)

    def from_clean(self, clean: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
        """``epsilon = (x - alpha a) / sigma``."""
        return (noisy - self.alpha(t) * clean) / self.sigma(t)

    def step(self, prediction: torch.Tensor, noisy: torch.Tensor, t: float, t_next: float) -> torch.Tensor:
        """DDIM: ``alpha' a + sigma' epsilon``, with epsilon made consistent with a clipped ``a``."""
        clean = self.clean(prediction, noisy, t)
        epsilon = prediction if self.clip is None else self.from_clean(clean, noisy, t)
        return self.alpha(t_next) * clean + self.sigma(t_next) * epsilon


def velocity_to_clean(velocity: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
    """Straight path: ``a = x + (1 - t) v``."""
    return noisy + (1.0 - t) * velocity


def clean_to_velocity(clean: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
    """Straight path, ``t < 1``: ``v = (a - x) / (1 - t)``."""
    return (clean - noisy) / (1.0 - t)


def velocity_to_epsilon(velocity: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
    """Straight path: ``z = x - t v``."""
    return noisy - t * velocity


def epsilon_to_velocity(epsilon: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
    """Straight path, ``t > 0``: ``v = (x - z) / t``. At ``t = 0`` the noise says nothing about the action."""
    if t == 0.0:
        raise ValueError("epsilon does not determine the velocity at t = 0")
    return (noisy - epsilon) / t


def clean_to_epsilon(clean: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
    """Straight path, ``t < 1``: ``z = (x - t a) / (1 - t)``."""
    return (noisy - t * clean) / (1.0 - t)


def epsilon_to_clean(epsilon: torch.Tensor, noisy: torch.Tensor, t: float) -> torch.Tensor:
    """Straight path, ``t > 0``: ``a = (x - (1 - t) z) / t``."""
    if t == 0.0:
        raise ValueError("epsilon does not determine the action at t = 0")
    return (noisy - (1.0 - t) * epsilon) / t


class ReversedTime:
    """A policy with its time turned round: ``tau = 1 - t``, ``u = -v`` for velocities, epsilon as it is.

    Wraps a policy that counts from action (0) to noise (1), as pi0 and SmolVLA do, into this package's
    convention, or the other
    way: the conversion is its own inverse.
    """

    def __init__(self, policy: GenerativePolicy) -> None:
        self.policy = policy
        self.spec = policy.spec
        self._sign = -1.0 if policy.spec.prediction == "flow" else 1.0

    def encode(self, observations: Sequence[Observation]) -> Context:
        """The wrapped policy's context."""
        return self.policy.encode(observations)

    def predict(
        self, noisy_BNHA: torch.Tensor, t: torch.Tensor, context: Context, heads: tuple[str, ...]
    ) -> torch.Tensor:
        """Predictions (E, B, N, H, A) at this convention's ``t``."""
        return self._sign * self.policy.predict(noisy_BNHA, 1.0 - t, context, heads)

    def decode(self, actions_BHA: torch.Tensor) -> NDArray[Any]:
        """The wrapped policy's units."""
        return self.policy.decode(actions_BHA)


def process_for(policy: GenerativePolicy) -> Process:
    """The process of a policy: its own ``process`` attribute if it has one, else by its prediction type.

    Raises:
        SetupError: the policy has no score field (a regression or token decoder), so sampling cannot be
            steered.
    """
    own: Process | None = getattr(policy, "process", None)
    if own is not None:
        return own
    if policy.spec.prediction == "flow":
        return FlowProcess()
    if policy.spec.prediction == "epsilon":
        return DiffusionProcess()
    raise SetupError(
        f"policy of kind {policy.spec.kind!r} predicts neither a velocity nor a noise, so its sampling "
        "cannot be steered; use it unsteered, or choose a flow or diffusion policy"
    )
