"""When somebody else acts than the policy, for how long, and when the policy has the robot back.

FailSafe (arXiv 2510.01642) asks its recovery model every ten steps; on a yes it executes one corrective action and
hands back to the unchanged policy. So here, with limits that a robot needs: on attempts and steps, and no move out of
the workspace.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from failwise.envs.leading import arm_of, closing_commands, inside, towards, with_gripper
from failwise.errors import CheckpointError, EpisodeError, SetupError
from failwise.protocols import Arm
from failwise.recover import local
from failwise.recover.acting import FOLDER, ActingPolicy, has_acting
from failwise.types import FailureEvent, Intervention

if TYPE_CHECKING:
    from failwise.protocols import Environment
    from failwise.recover.advice import Advice, Advisor
    from failwise.types import Observation

Remedy = Literal["correct", "policy", "expert", "rewind"]


class TakeoverOptions(BaseModel):
    """When and how somebody takes over.

    Attributes:
        remedy: "correct" executes the advised move; "policy" lets a recovery policy act; "expert" lets the
            environment's expert act, an upper bound; "rewind" leads the hand back to where it was some steps before.
            None takes "policy" where a recovery actor has one, and "correct" otherwise.
        threshold: on the advised probability of failure.
        release: a recovery policy that acts hands back where the advisor, asked again, says at most that; 0 lets it act
            for all its steps.
        every: steps between two questions to the advisor.
        attempts: takeovers an episode, at most.
        move_steps: steps of one corrective move, at most. acting_steps: steps that the expert or a recovery policy
            acts. back_steps: how far a rewind goes back.
        pause: steps for which the policy is left alone after a takeover.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    remedy: Remedy | None = None
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    release: float = Field(default=0.0, ge=0.0, le=1.0)
    every: int = Field(default=10, ge=1)
    attempts: int = Field(default=3, ge=1)
    move_steps: int = Field(default=25, ge=1)
    acting_steps: int = Field(default=60, ge=1)
    back_steps: int = Field(default=30, ge=1)
    pause: int = Field(default=20, ge=0)


@dataclass
class _Move:
    """A takeover under way."""

    began: int
    until: int
    target_6: NDArray[np.float64] | None = None
    closing: float = 0.0


def load_takeover(spec: str, options: TakeoverOptions) -> Takeover:
    """What a string stands for.

    Args:
        spec: "expert", "rewind", "vlm:URL#MODEL", "vlm:transformers#FOLDER", or the folder of a recovery actor.
        options: when and how it takes over.

    Raises:
        CheckpointError: no such folder, not a recovery actor's, or one whose recovery policy is half trained.
        SetupError: not an address and a model, or a recovery policy is asked for where there is none.
        MissingDependencyError: what a model needs is not installed.
    """
    if spec in ("expert", "rewind"):
        return Takeover(None, options.model_copy(update={"remedy": spec}), spec)
    if spec.startswith(local.PREFIX):
        return Takeover(local.LocalVLM.parse(spec), options, spec)
    if (Path(spec) / local.FILE).is_file():
        return Takeover(local.LocalVLM(spec), options, spec)
    if spec.startswith("vlm:"):
        from failwise.recover.vlm import VLMAdvisor

        return Takeover(VLMAdvisor.parse(spec), options, spec)
    from failwise.recover.compact import CompactAdvisor

    folder = Path(spec)
    advisor, acting = CompactAdvisor.load(folder), None
    if options.remedy in (None, "policy") and (folder / FOLDER).is_dir():
        if not has_acting(folder):
            raise CheckpointError(
                f"the training of {folder / FOLDER} is not done; finish it with the same 'failwise train recovery', "
                "or do without it: --recover-with correct"
            )
        acting = ActingPolicy.load(folder / FOLDER)
    return Takeover(advisor, options, spec, acting)


class Takeover:
    """Asks an advisor, takes over, hands back.

    Args:
        advisor: says whether the episode is failing, and what to do; None where a monitor's alarm says when.
        options: when and how.
        name: for the record.
        acting: the recovery policy, for the remedy "policy".

    Raises:
        SetupError: a corrective move without an advisor that says where to, or no recovery policy to act.
    """

    def __init__(
        self, advisor: Advisor | None, options: TakeoverOptions | None = None, name: str = "",
        acting: ActingPolicy | None = None,
    ) -> None:  # fmt: skip
        options = options or TakeoverOptions()
        remedy: Remedy = options.remedy or ("correct" if acting is None else "policy")
        self.advisor, self.name, self.acting = advisor, name, acting
        self.options, self.remedy = options.model_copy(update={"remedy": remedy}), remedy
        if advisor is None and remedy == "correct":
            raise SetupError("a corrective move needs an advisor that says where to; use the remedy expert or rewind")
        if acting is None and remedy == "policy":
            raise SetupError(f"{name or 'this recovery actor'} has no policy that acts; train it with --acting.steps")
        self.events: list[FailureEvent] = []
        self.interventions: list[Intervention] = []
        self.refused = 0

    def begin(self, env: Environment, seed: int = 0) -> None:
        """Start an episode; ``seed`` is for what a recovery policy draws.

        Raises:
            SetupError: the environment cannot do what the remedy needs.
        """
        if self.remedy == "expert" and not env.spec.has_expert:
            raise SetupError(f"{env.spec.env_id} has no expert to recover with; use the remedy correct or rewind")
        self._env: Any = env if self.remedy in ("expert", "policy") else arm_of(env, "a recovery move")
        self._bounded = isinstance(env, Arm)
        if self.acting is not None:
            self.acting.begin(seed)
        if self.advisor is not None:
            self.advisor.begin()
        self.events, self.interventions, self.refused = [], [], 0
        self._move: _Move | None = None
        self._free_from = 0
        self._hands: list[NDArray[np.float64]] = []
        self._closing: list[float] = []

    def act(self, step: int, observation: Observation, stage: str, alarm: bool = False) -> NDArray[Any] | None:
        """The action of a step, or None where the policy acts.

        Args:
            step: of the episode; each is asked once, in order.
            observation: before the step.
            stage: the success condition that is due, for the record.
            alarm: a monitor's, at the step before.
        """
        if self.remedy in ("correct", "rewind"):
            self._hands.append(np.array(self._env.hand(), np.float64))
        if self.advisor is not None and step % self.advisor.stride == 0 and self._asks_again():
            self.advisor.see(observation)
        if self._move is None and self._may_begin(step):
            self._begin(step, stage, alarm)
        if self._move is None:
            return None
        action = self._next(step, self._move, observation)
        if action is None:
            self._free_from = step + self.options.pause
            self._move = None
            self.interventions[-1] = self.interventions[-1].model_copy(update={"end": step})
        return action

    def did(self, action: NDArray[Any]) -> None:
        """Tell the action of the step just asked about, whoever gave it."""
        if self.remedy == "rewind":
            self._closing.append(float(closing_commands(self._env, [action])[0]))

    def about(self) -> dict[str, Any]:
        """What took over and how often, for the episode's metadata."""
        steps = [event.onset_step for event in self.events]
        return {"recovery": self.name, "remedy": self.remedy, "takeovers": steps, "refused": self.refused}

    def _asks_again(self) -> bool:
        """Whether the advisor has a say in what is still to come; where not, it need not see any more."""
        return len(self.events) < self.options.attempts or (self._move is not None and bool(self.options.release))

    def _may_begin(self, step: int) -> bool:
        return len(self.events) < self.options.attempts and step >= self._free_from

    def _begin(self, step: int, stage: str, alarm: bool) -> None:
        advice: Advice | None = None
        if self.advisor is not None and step and (alarm or step % self.options.every == 0):
            advice = self.advisor.advise()
        if not alarm and (advice is None or advice.failing <= self.options.threshold):
            return
        move = self._planned(step, advice)
        if move is None:  # asked again as often as without an alarm, which holds to the episode's end
            self._free_from = step + self.options.every
            return
        self._move = move
        said = (
            "a monitor's alarm"
            if advice is None
            else f"{advice.mode} {advice.axis}".strip() + f", {advice.failing:.2f}"
        )
        self.interventions.append(
            Intervention(
                trigger="alarm" if alarm else "recovery_model", actor=self.remedy, start=step, stage=stage,
                mode="" if advice is None else advice.mode, axis="" if advice is None else advice.axis,
                failing=None if advice is None else advice.failing,
            )
        )  # fmt: skip
        mode = "takeover" if advice is None else advice.mode or "takeover"
        self.events.append(
            FailureEvent(
                mode=mode, stage=stage, onset_step=step, source="detected", evidence=f"{said}; then: {self._how(move)}"
            )
        )

    def _planned(self, step: int, advice: Advice | None) -> _Move | None:
        """What to do, or None where nothing is advised or it would lead out of the workspace."""
        options = self.options
        if self.acting is not None and self.remedy == "policy":
            if self._outside():
                return None
            self.acting.take_over()
        if self.remedy in ("expert", "policy"):
            return _Move(step, step + options.acting_steps)
        if self.remedy == "rewind":
            back = max(0, step - options.back_steps)
            closing = self._closing[back] if back < len(self._closing) else -1.0
            return _Move(step, step + options.move_steps, self._hands[back], closing)
        if advice is None or not any(advice.delta):
            return None
        target = self._hands[-1] + np.asarray(advice.delta[:6])
        if not inside(self._env, target):
            self.refused += 1
            return None
        return _Move(step, step + options.move_steps, target, float(np.sign(advice.delta[6])))

    def _next(self, step: int, move: _Move, observation: Observation) -> NDArray[Any] | None:
        if step >= move.until:
            return None
        if self.acting is not None and self.remedy == "policy":
            return None if self._outside() or self._released(step, move) else self.acting.act(observation)
        if move.target_6 is None:
            action = self._env.expert()
            if action is None:
                raise EpisodeError(f"the expert of {self._env.spec.env_id} gives no action at step {step}")
            return np.asarray(action)
        action = towards(self._env, move.target_6, move.closing)
        if action is None and step == move.began:
            return with_gripper(self._env, self._env.nudge(np.zeros(6)), move.closing)
        return action

    def _outside(self) -> bool:
        """Whether a hand that can be led has left the workspace, where a recovery policy is refused and counted."""
        if not self._bounded or inside(self._env, self._env.hand()):
            return False
        self.refused += 1
        return True

    def _released(self, step: int, move: _Move) -> bool:
        """Whether the advisor, asked again, says that nothing is failing any more."""
        if self.advisor is None or not self.options.release or step == move.began or step % self.options.every:
            return False
        return self.advisor.advise().failing <= self.options.release

    def _how(self, move: _Move) -> str:
        if move.target_6 is None:
            who = "a recovery policy" if self.remedy == "policy" else "the expert"
            return f"{who} for {self.options.acting_steps} steps"
        way = (move.target_6 - self._hands[-1])[:3]
        return f"{self.remedy} by ({', '.join(f'{x:+.3f}' for x in way)}) m, gripper {move.closing:+.0f}"
