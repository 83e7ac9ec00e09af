"""The contract: every record that crosses a folder of this package.

Axis letters used in names throughout the package
    B batch, T environment steps, H horizon of a chunk, A action dims, S proprioception dims, D features,
    K denoising steps, N samples of one observation, E heads (experts).
Conventions
    flow time: t = 0 is noise, t = 1 is the action, ``x_t = (1 - t) z + t a`` and ``v = a - z``.
    images: uint8, (height, width, 3), RGB, 0..255, row 0 at the top.
    actions: float32 in the environment's own units and range. Lengths in metres, angles in radians, times in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    ImageHW3 = NDArray[np.uint8]
    VectorF32 = NDArray[np.float32]


class Outcome(StrEnum):
    """How an episode ended. Every started episode ends in exactly one of these."""

    SUCCESS = "success"  # the task's success condition held within the step limit
    FAILURE = "failure"  # the task ended, or became impossible, without success
    TIMEOUT = "timeout"  # the step limit passed without success; nothing says that it was impossible
    ERROR = "error"  # the episode could not go on (simulator, policy or worker fault)
    ABORTED = "aborted"  # stopped from outside (Ctrl-C, a monitor that was told to stop)


class Actor(StrEnum):
    """Who chose an action."""

    POLICY = "policy"
    EXPERT = "expert"
    RECOVERY = "recovery"
    HUMAN = "human"
    PERTURBATION = "perturbation"


@dataclass(frozen=True)
class Observation:
    """What a policy may see. No privileged simulator state is in here.

    Attributes:
        images: camera name -> uint8 (h, w, 3) RGB. May render on access (see ``failwise.envs.LazyImages``).
        state: proprioception, float32 (S,), in the environment's documented units.
        instruction: one English sentence.
    """

    images: Mapping[str, ImageHW3]
    state: VectorF32
    instruction: str


@dataclass(frozen=True)
class ActionChunk:
    """H actions to be executed one after another, float32 (H, A) in the environment's units and range.

    Attributes:
        actions: float32 (H, A).
        latency_s: wall-clock seconds from observation to chunk.
        features: features (D,) of this inference, for detectors, or None.
        samples: further chunks (N, H, A) drawn for the same observation, normalised, for detectors, or None.
        info: named scalars about this chunk (guidance strength, head divergence, critic score, risk, ...).
    """

    actions: VectorF32
    latency_s: float = 0.0
    features: VectorF32 | None = None
    info: Mapping[str, float] = field(default_factory=dict)
    samples: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class StepRecord:
    """One environment step, as recorded.

    Attributes:
        step: 0-based index in the episode.
        state: proprioception (S,) *before* the action.
        action: float32 (A,) as executed, environment's units.
        reward: the environment's own reward after the action.
        conditions: named success conditions *after* the action.
        actor: who chose the action.
        chunk_step: index of this action inside its chunk; 0 marks a fresh inference.
        info: scalars of the chunk (repeated for each of its steps would be waste: set where ``chunk_step == 0``).
        score: detector score, or None.
    """

    step: int
    state: VectorF32
    action: VectorF32
    reward: float
    conditions: Mapping[str, bool]
    actor: Actor = Actor.POLICY
    chunk_step: int = 0
    info: Mapping[str, float] = field(default_factory=dict)
    score: float | None = None


class FailureEvent(BaseModel):
    """Something that went wrong inside an episode, and how we know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mode: str
    stage: str = ""
    onset_step: int = Field(ge=0)
    source: Literal["injected", "detected", "labelled", "rule"]
    evidence: str = ""


class Alarm(BaseModel):
    """A monitor's alarm in an episode, and what was done about it.

    Attributes:
        step: before whose action it was raised. score, band: the detector's, at that step; ``score > band``.
        reaction: what was to be done: go on ("note"), "stop", hand over ("recover"), or leave it to a person ("ask").
        decision: what was done; a person may have decided otherwise than the reaction alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
    step: int = Field(ge=0)
    score: float
    band: float
    reaction: Literal["note", "stop", "recover", "ask"]
    decision: Literal["go on", "stop", "recover"]


class Intervention(BaseModel):
    """A stretch of steps in which something other than the policy acted.

    Attributes:
        trigger: a monitor's alarm, a person who was asked at one, or a recovery model that says that the episode is
            failing.
        actor: the expert, a recovery policy, a corrective action ("correct"), or a way back ("rewind").
        start: the first step of it. end: the first step at which the policy acted again, the hand-back; None where the
            episode ended before.
        mode, axis: how the episode fails, by the recovery model; "" where it was not asked.
        stage: the success condition that was due at the start.
        failing: the recovery model's probability of failing, None where it was not asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")
    trigger: Literal["alarm", "person", "recovery_model"]
    actor: Literal["expert", "policy", "correct", "rewind"]
    start: int = Field(ge=0)
    end: int | None = None
    mode: str = ""
    axis: str = ""
    stage: str = ""
    failing: float | None = None


class Diagnosis(BaseModel):
    """Why an episode fails, in one schema for rules, learned classifiers and VLM answers.

    ``correction`` is a 7-vector (dx, dy, dz in metres, droll, dpitch, dyaw in radians, gripper in [-1, 1]) in the
    robot's base frame, or (lateral, longitudinal) in metres for driving.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    mode: str
    axis: str = ""
    stage: str = ""
    active_entities: tuple[str, ...] = ()
    confidence: float = Field(default=1.0, ge=0.0, le=1.0)
    correction: tuple[float, ...] | None = None
    reward_mask: Mapping[str, bool] = Field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Verdict:
    """A monitor's word on one step: ``alarm`` is ``score > band``."""

    score: float
    band: float
    alarm: bool
    step: int


class Provenance(BaseModel):
    """Where a record comes from: enough to make it again."""

    model_config = ConfigDict(frozen=True, extra="allow")
    agent: str = ""  # what acted, in words or as a path
    checkpoint_sha256: str = ""  # of the policy's weights
    failwise: str = ""
    git_revision: str = ""
    python: str = ""
    torch: str = ""
    simulator: str = ""


class EpisodeMeta(BaseModel):
    """All of an episode but its arrays. Written as ``meta.json``.

    ``success_once`` says that the success condition held at some step; ``success_at_end`` that it held at the last
    one; ``first_success_step`` is the 0-based index of the step after which it first held. ``outcome`` is what counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal["failwise-episode-1"] = "failwise-episode-1"
    episode_id: str
    env_id: str  # e.g. "metaworld/pick-place"
    task: str  # e.g. "pick-place"
    instruction: str
    arm: str = "policy"  # the name of what is being compared
    env_seed: int
    policy_seed: int
    outcome: Outcome
    success_once: bool = False
    success_at_end: bool = False
    first_success_step: int | None = None
    n_steps: int = Field(ge=0)
    step_limit: int = Field(ge=1)
    control_hz: float = Field(gt=0)
    cameras: tuple[str, ...] = ()
    n_frames: int = 0  # recorded looks (each holds every camera)
    failure_events: tuple[FailureEvent, ...] = ()
    alarms: tuple[Alarm, ...] | None = None  # None: not recorded (imported, or rolled out before there were records)
    interventions: tuple[Intervention, ...] | None = None  # in the order of their starts; None as above
    error: str = ""  # one line, when outcome is "error"
    provenance: Provenance = Provenance()
    extra: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def has_verdict(self) -> bool:
        """Whether the episode tells of what acted; one that was aborted, or that a fault ended, does not."""
        return self.outcome not in (Outcome.ERROR, Outcome.ABORTED)


HAND_AXES = ("x", "y", "z", "roll", "pitch", "yaw")
"""Of a hand pose (6,): metres, then radians."""


@dataclass(frozen=True)
class EnvSpec:
    """What an environment is, without making one step in it.

    Attributes:
        env_id: "suite/task".
        instruction: the default instruction.
        paraphrases: further wordings for training; ``held_out``: wordings never trained on.
        action_low, action_high: float32 (A,) bounds.
        state_names: one name and unit per proprioception dim, length S.
        cameras: camera name -> (height, width).
        conditions: names of the success conditions, in the order in which the task passes them.
        step_limit: environment steps until timeout.
        control_hz: environment steps per second of simulated time.
    """

    env_id: str
    instruction: str
    paraphrases: tuple[str, ...]
    held_out: tuple[str, ...]
    action_low: VectorF32
    action_high: VectorF32
    state_names: tuple[str, ...]
    cameras: Mapping[str, tuple[int, int]]
    conditions: tuple[str, ...]
    step_limit: int
    control_hz: float
    has_expert: bool = False

    @property
    def task(self) -> str:
        """The part of ``env_id`` after the suite."""
        return self.env_id.split("/", 1)[1]


@dataclass(frozen=True)
class PolicySpec:
    """What a policy takes and gives.

    Attributes:
        kind: registry name of the policy class.
        horizon: H, actions in a chunk. ``execute``: how many of them to execute before the next inference.
        action_dim: A. ``state_dim``: S.
        cameras: camera name -> (height, width) it was trained on.
        prediction: "flow" or "epsilon" for generative policies, "" for the others.
        denoising_steps: K used at sampling. ``heads``: names of the action experts, first the acting one.
        feature_dim: D of ``ActionChunk.features``, 0 when it gives none.
        latent_dim: width of the sampler's space where it is wider than the actions (policies that pad), else 0.
        history: observations that the policy looks at, up to the present one.
        resizes_images: whether it takes images of any size and brings them to its own as in its training.
    """

    kind: str
    horizon: int
    execute: int
    action_dim: int
    state_dim: int
    cameras: Mapping[str, tuple[int, int]]
    prediction: Literal["flow", "epsilon", ""] = ""
    denoising_steps: int = 0
    heads: tuple[str, ...] = ("success",)
    feature_dim: int = 0
    latent_dim: int = 0
    history: int = 1
    resizes_images: bool = False
