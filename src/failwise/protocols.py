"""The protocols that plugins implement: small, structural, and free of heavy imports at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from failwise.types import ActionChunk, EnvSpec, Observation, PolicySpec

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class Environment(Protocol):
    """Gymnasium's API, plus what learning from failures needs.

    ``reset`` and ``step`` return an ``Observation`` whose images render **on first access**, and only while the
    environment has not moved on: an unwatched step costs no rendering. ``info`` of both holds ``conditions``
    ({name: bool}) and ``success`` (bool), that of ``reset`` also the layout's ``seed`` (int). The same seed gives the
    same episode; distinct seeds, distinct layouts.
    """

    spec: EnvSpec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        ``failwise.envs.given`` has both rules ready: ``LayoutSeeds`` and ``checked_options``.

        Args:
            seed: of the layout. It also seeds the environment's generator, from which each later reset without a
                seed draws the next layout, as in Gymnasium: the sequence after ``reset(seed=3)`` is reproducible. An
                environment that was never given a seed draws at random.
            options: ``{"instruction": str}`` replaces the wording for this episode. Any other key, and an instruction
                that is blank or no text, is refused, unless the environment documents it.

        Returns:
            Observation and info; ``info["seed"]`` is the seed of the layout.

        Raises:
            SetupError: the seed is negative, or the options are not what the environment takes.
        """
        ...

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply one action (A,) inside the bounds. Returns observation, reward, terminated, truncated, info."""
        ...

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """The complete simulation state: arrays only, so that it can be stored as safetensors."""
        ...

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> Observation:
        """Continue from a snapshot of the same task, exactly."""
        ...

    def expert(self) -> NDArray[Any] | None:
        """The scripted expert's action (A,) for the current state, or None where there is no expert."""
        ...

    def close(self) -> None:
        """Free the simulator and its renderer."""
        ...


@runtime_checkable
class Recomputes(Protocol):
    """An environment that can compute its derived quantities anew, such as the poses that a renderer draws.

    Optional. It lets the conformance check tell whether ``reset`` left the images of an earlier layout behind.
    """

    def recompute(self) -> Observation:
        """The observation of this moment, from the state alone. No time passes, and the next step stays the same."""
        ...


@runtime_checkable
class Arm(Protocol):
    """An environment whose hand can be led: what failures on purpose and corrective moves need.

    A hand pose is float64 (6,): x, y, z in metres in the robot's base frame, then roll, pitch, yaw in radians
    (extrinsic xyz) away from the hand's usual orientation, so that it is about zero during a grasp from above.

    Attributes:
        axes: which of ``HAND_AXES`` its actions can move.
        gripper: (index into the action, sign that closes), or None without a gripper.
        workspace: low and high float64 (3,), metres: where the hand may be.

    Where other things could be taken than the one that the task is about, an environment may also name them in
    ``others`` and tell with ``beside(other)`` the way from the one to the other, (3,), metres: then it can be mistaken.
    """

    axes: tuple[str, ...]
    gripper: tuple[int, float] | None
    workspace: tuple[NDArray[Any], NDArray[Any]]

    def hand(self) -> NDArray[Any]:
        """Where the hand is, (6,)."""
        ...

    def nudge(self, error_6: NDArray[Any]) -> NDArray[Any]:
        """The action (A,) that moves the hand by an error, as far as one step can: zeros for none. The gripper is 0."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Anything that acts: observations in, one chunk each out."""

    spec: PolicySpec

    def reset(self, seed: int) -> None:
        """Begin an episode: forget the past, seed all randomness."""
        ...

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation."""
        ...


@runtime_checkable
class TakesBounds(Protocol):
    """A policy that acts inside bounds that it does not know itself; an agent gives it those of its environment."""

    def take_bounds(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        """Act between ``low`` and ``high``, float32 (A,), from now on."""
        ...


@runtime_checkable
class SharesWeights(Protocol):
    """A policy whose weights can act for several agents of one process, one episode at a time each."""

    def twin(self) -> SharesWeights:
        """Another policy with the same weights, in the same memory, and with a state of its own."""
        ...


class Context(Protocol):
    """What ``encode`` computed once per observation: the prefix cache that every later call reuses."""

    batch: int
    features_BD: torch.Tensor

    def select(self, indices: torch.Tensor) -> Context:
        """The contexts of some observations, in the given order."""
        ...


@runtime_checkable
class GenerativePolicy(Protocol):
    """A flow- or diffusion-based policy, opened up so that sampling can be steered from outside.

    Normalised actions are the sampler's space; ``decode`` brings them to the environment's units.
    """

    spec: PolicySpec

    def encode(self, observations: Sequence[Observation]) -> Context:
        """Run the backbone once per observation."""
        ...

    def predict(
        self, noisy_BNHA: torch.Tensor, t: torch.Tensor, context: Context, heads: tuple[str, ...]
    ) -> torch.Tensor:
        """Predictions (E, B, N, H, A) of the named heads, in one batched expert pass.

        ``t`` is the flow time in [0, 1] (0 noise, 1 action), shape () or (B, N). The prediction is the velocity
        ``v = a - z`` ("flow") or the noise ("epsilon"), as ``spec.prediction`` says.
        """
        ...

    def decode(self, actions_BHA: torch.Tensor) -> NDArray[Any]:
        """Normalised actions to float32 (B, H, A) in the environment's units, clipped to the bounds."""
        ...


class Steering(Protocol):
    """What bends sampling. Every hook has a neutral default in ``failwise.steer.Unsteered``."""

    heads: tuple[str, ...]  # which heads ``adjust`` wants, first the acting one
    samples: int  # N chunks to draw per observation

    def prepare(self, policy: GenerativePolicy, context: Context) -> None:
        """Called once per inference, before any denoising step (compute the risk, reset a posterior)."""
        ...

    def noise(self, noise_BNHA: torch.Tensor, context: Context) -> torch.Tensor:
        """Replace or reshape the initial noise."""
        ...

    def heads_at(self, k: int) -> tuple[str, ...]:
        """Which of ``heads`` are wanted at denoising step k, in their order, always with the acting one."""
        ...

    def adjust(
        self, predictions_EBNHA: torch.Tensor, noisy_BNHA: torch.Tensor, t: float, context: Context
    ) -> torch.Tensor:
        """One prediction (B, N, H, A) out of the heads' predictions, at one denoising step."""
        ...

    def select(self, actions_BNHA: torch.Tensor, context: Context) -> torch.Tensor:
        """The index (B,) of the sample to act on."""
        ...

    def info(self) -> list[dict[str, float]]:
        """Named scalars per observation (length B) about the last inference."""
        ...


class Executor(Protocol):
    """Maps a function over idempotent items; results come back as they finish."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield one result per item, in any order. A lost worker's item is done again."""
        ...
