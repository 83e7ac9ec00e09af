"""The way of the expert through one layout, stage by stage: what a perturbation changes, and how it is executed.

FailSafe (arXiv 2510.01642) perturbs one pose of a motion plan, which is then executed without looking again. Experts
here look at every step, and would mend what was done to them; so their successful way is recorded once and followed
like a plan: its actions as they were, plus what brings the hand back to where the plan wants it. Without a
perturbation that repeats the recorded way bit for bit, where a restored state is all that there is to a moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from failwise.envs.leading import ArmEnvironment, arm_of, closing_commands, with_gripper
from failwise.errors import SetupError
from failwise.protocols import Environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from failwise.types import Observation

PLAN = "plan"  # arm of the episodes that follow one as it is
Snapshot = dict[str, NDArray[Any]]
SETTLE = 10  # steps that a failure gets after the last planned action: delayed ones count, and so do late successes


def expert_arm(env: Environment) -> ArmEnvironment:
    """The environment itself, once it is clear that its hand can be led and that it has an expert.

    Raises:
        SetupError: one of the two is missing.
    """
    if not env.spec.has_expert:
        raise SetupError(
            f"{env.spec.env_id} has no expert, so failures on purpose and their recoveries cannot be made there"
        )
    return arm_of(env, "making failures on purpose")


@dataclass
class Run:
    """What happened step by step, with the simulation's state before each step and after the last.

    Attributes:
        states: T + 1 vectors (S,), proprioception. hands: T + 1 poses (6,). snapshots: T + 1, or none.
        actions: T vectors (A,). rewards: T. conditions: T, after each action.
        first_success: step after which the success condition first held, or None. ended: the task ended by itself.
        passive: states are looked at, not set anew, where an environment tells the two apart (``peek``): the run goes
            on as if nobody had looked, but not bit for bit as it does after a restore.
    """

    states: list[NDArray[np.float32]]
    hands: list[NDArray[np.float64]]
    snapshots: list[Snapshot]
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    conditions: list[Mapping[str, bool]] = field(default_factory=list)
    first_success: int | None = None
    ended: bool = False
    passive: bool = False

    @classmethod
    def begin(cls, env: ArmEnvironment, observation: Observation, *, keep: bool = True, passive: bool = False) -> Run:
        """Nothing done yet. ``keep``: keep the simulation's state at each step."""
        run = cls([observation.state], [np.array(env.hand(), np.float64)], [], passive=passive)
        if keep:
            run.snapshots.append(run._state_of(env))
        return run

    def _state_of(self, env: ArmEnvironment) -> Snapshot:
        take: Callable[[], Snapshot] = getattr(env, "peek", env.snapshot) if self.passive else env.snapshot
        return take()

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def over(self) -> bool:
        """Whether nothing can follow: it succeeded, or the task ended."""
        return self.first_success is not None or self.ended

    def until(self, step: int) -> Run:
        """Its first steps, up to the state before a step."""
        return Run(
            self.states[: step + 1], self.hands[: step + 1], self.snapshots[: step + 1], self.actions[:step],
            self.rewards[:step], self.conditions[:step],
        )  # fmt: skip

    def joined(self, rest: Run) -> Run:
        """This run, and what followed from its last state."""
        later = None if rest.first_success is None else len(self) + rest.first_success
        return Run(
            self.states + rest.states[1:], self.hands + rest.hands[1:], self.snapshots + rest.snapshots[1:],
            self.actions + rest.actions, self.rewards + rest.rewards, self.conditions + rest.conditions, later,
            rest.ended,
        )  # fmt: skip

    def proceed(self, env: ArmEnvironment, act: Callable[[], NDArray[Any] | None], limit: int) -> Run:
        """Go on for at most ``limit`` steps: until success, the task's end, or an ``act`` that returns None."""
        for _ in range(limit):
            if self.over or (action := act()) is None:
                break
            bounded = np.clip(np.asarray(action, np.float32), env.spec.action_low, env.spec.action_high)
            observation, reward, terminated, _, info = env.step(bounded)
            self.actions.append(bounded)
            self.rewards.append(reward)
            self.conditions.append(dict(info["conditions"]))
            self.states.append(observation.state)
            self.hands.append(np.array(env.hand(), np.float64))
            if self.snapshots:
                self.snapshots.append(self._state_of(env))
            if info["success"]:
                self.first_success = len(self) - 1
            self.ended = bool(terminated)
        return self


@dataclass(frozen=True)
class Plan:
    """A successful way of the expert, as a plan.

    Attributes:
        run: what it did. spans: stage -> (first step, step after its last), in order. A stage is named by the
            condition that ends it; those that never held, or held already, have none.
        closing: float32 (T,), the gripper's command, positive closes; zeros without a gripper.
        others: another thing that could be taken -> the way to it from the right one at the start, (3,), metres.
    """

    run: Run
    spans: Mapping[str, tuple[int, int]]
    closing: NDArray[np.float32]
    others: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def stage_at(spans: Mapping[str, Sequence[int]], step: int) -> str:
    """The stage of a plan that a step belongs to; after the end, the last.

    Read from an episode, stages come in no order of their own: JSON is written with sorted keys.
    """
    ordered = stages_in_order(spans)
    return next((name for name in ordered if step < spans[name][1]), ordered[-1])


def stages_in_order(spans: Mapping[str, Sequence[int]]) -> list[str]:
    """The names of some stages, in the order in which they are passed."""
    return sorted(spans, key=lambda name: (spans[name][0], spans[name][1]))


def make_plan(env: ArmEnvironment, seed: int, instruction: str) -> Plan | None:
    """The expert's way on a layout, or None where it does not succeed."""
    observation, _ = env.reset(seed=seed, options={"instruction": instruction})
    beside = {name: np.asarray(env.beside(name)) for name in others_of(env)}  # type: ignore[attr-defined]
    run = Run.begin(env, observation, passive=True).proceed(env, env.expert, env.spec.step_limit)
    if run.first_success is None:
        return None
    reached = [name for name in env.spec.conditions if any(held[name] for held in run.conditions)]
    spans = {name: (start, stop) for name, (start, stop) in stages_of(run, reached).items()}
    return Plan(run, spans, closing_commands(env, run.actions), beside)


def others_of(env: ArmEnvironment) -> tuple[str, ...]:
    """The things that could be taken instead of the right one; most environments have none."""
    return tuple(getattr(env, "others", ()))


@dataclass(frozen=True)
class Script:
    """A plan as it is to be executed.

    Attributes:
        actions: (T, A), what the plan commands. hands: (T, 6), where it wants the hand before each of them.
        closing: (T,), the gripper's command. frozen: bool (T,), steps at which no motion is commanded.
        onset: the first step that differs from the plan. end: the step after the last that was changed on purpose.
    """

    actions: NDArray[np.float32]
    hands: NDArray[np.float64]
    closing: NDArray[np.float32]
    frozen: NDArray[np.bool_]
    onset: int
    end: int

    @classmethod
    def of(cls, plan: Plan) -> Script:
        """The plan as it is."""
        n = len(plan.run)
        actions, hands = np.stack(plan.run.actions), np.stack(plan.run.hands[:n])
        return cls(actions, hands, plan.closing.copy(), np.zeros(n, np.bool_), n, n)

    def same_as(self, other: Script) -> bool:
        """Whether two scripts command the same."""
        fields = ("actions", "hands", "closing", "frozen")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in fields)


def execute(env: ArmEnvironment, plan: Plan, script: Script) -> Run:
    """Follow a script of a plan, then hold still for a while. What both share is taken over, not done again."""
    start = min(script.onset, len(plan.run) - 1)
    env.restore(plan.run.snapshots[start])
    run = plan.run.until(start)
    run.passive = True  # what is kept from here on is branched from and drawn, never followed again

    def act() -> NDArray[Any]:
        t = len(run)
        if t < script.onset and t < len(script.actions):
            return np.asarray(script.actions[t])
        last = len(script.actions) - 1
        at = min(t, last)
        action = np.zeros_like(script.actions[at])
        if t <= last and not script.frozen[at]:
            action = script.actions[at] + env.nudge(script.hands[at] - env.hand())
        return with_gripper(env, action, float(script.closing[at]))

    return run.proceed(env, act, len(script.actions) + SETTLE - start)


def stages_of(run: Run, conditions: Sequence[str]) -> dict[str, list[int]]:
    """The stages that a run went through: each ends where its condition first holds, the one that is due lasts."""
    spans, start = {}, 0
    for name in conditions:
        first = next((t for t, held in enumerate(run.conditions) if held[name]), None)
        if first is None:
            spans[name] = [start, len(run)]
            break
        if first >= start:
            spans[name] = [start, first + 1]
            start = first + 1
    return spans
