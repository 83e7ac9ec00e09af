"""A monitor inside the loop: scores every step before its action, and what happens at an alarm."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from failwise.agent import PolicyAgent
from failwise.detect import Moment, Monitor, load_monitor
from failwise.errors import SetupError
from failwise.types import Alarm, FailureEvent, Intervention, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from failwise.agent import Agent
    from failwise.protocols import Environment
    from failwise.types import ActionChunk

OnAlarm = Literal["note", "stop", "recover", "ask", "learned"]
Reaction = Literal["note", "stop", "recover", "ask"]
Decision = Literal["go on", "stop", "recover"]
CHOICES: tuple[str, ...] = get_args(OnAlarm)


class Watch:
    """A monitor and what to do at its first alarm in an episode.

    Args:
        monitor: a detector with its bands.
        on_alarm: "note" goes on and only records it; "stop" ends the episode before the action; "recover" hands over
            to the environment's expert; "ask" leaves it to a person; "learned" stops or asks as the band learned from
            costs, and an unanswered call for help stops.
        name: of the detector's folder, for the record.
        ask: how a person is asked: takes a line on the alarm, returns a decision. Default: at the terminal.
    """

    def __init__(
        self, monitor: Monitor, on_alarm: OnAlarm, name: str = "", ask: Callable[[str], Decision] | None = None
    ) -> None:
        if on_alarm not in CHOICES:
            raise SetupError(f"unknown reaction to an alarm {on_alarm!r}; choose {', '.join(CHOICES)}")
        self.monitor, self.on_alarm, self.name = monitor, on_alarm, name
        if on_alarm == "learned" and not monitor.bands[""].reactions:
            raise SetupError("this detector learned no reactions; fit it with --costs, or choose another --on-alarm")
        self.ask = ask or (ask_at_terminal if on_alarm == "ask" or sys.stdin.isatty() else call_for_help)
        self.event: FailureEvent | None = None
        self.alarm: Alarm | None = None
        self.stopped: Verdict | None = None

    def begin(self, agent: Agent, env: Environment) -> None:
        """Start an episode: the agent gives what the detector reads.

        Raises:
            SetupError: the agent cannot be watched, or there is nobody to recover.
        """
        policy = _watchable(agent)
        if self.on_alarm in ("recover", "ask") and not env.spec.has_expert:
            raise SetupError(f"{env.spec.env_id} has no expert to recover with; use --on-alarm stop")
        self.monitor.reset(env.spec.env_id)
        self.event = self.alarm = self.stopped = None
        policy.watch(self.monitor.detector.pooling or "prefix-mean", self.monitor.detector.samples)

    def see(self, step: int, action: NDArray[np.float32], chunk: ActionChunk | None) -> Verdict:
        """The monitor's word on a step; ``chunk`` is None where the policy was not asked."""
        if chunk is None:
            return self.monitor.update(Moment(step, action))
        return self.monitor.update(Moment(step, action, chunk.features, chunk.samples, chunk.info))

    def decide(self, verdict: Verdict, stage: str) -> Decision:
        """What to do at a step; everything but the first alarm goes on."""
        if not verdict.alarm or self.event is not None:
            return "go on"
        said = f"score {verdict.score:.4g} above {verdict.band:.4g}"
        reaction: Reaction = self.monitor.band.reaction(verdict.step) if self.on_alarm == "learned" else self.on_alarm
        decision: Decision = "stop" if reaction == "stop" else "recover"
        if reaction == "note":
            decision = "go on"
        elif reaction == "ask":
            decision = self.ask(f"alarm at step {verdict.step}: {said}; next condition: {stage or 'none'}")
        self.stopped = verdict if decision == "stop" else None
        self.alarm = Alarm(
            step=verdict.step, score=verdict.score, band=verdict.band, reaction=reaction, decision=decision
        )
        asked = "asked, " if reaction == "ask" else ""
        evidence = f"{self.monitor.detector.name}: {said}; then: {asked}{decision}"
        self.event = FailureEvent(
            mode="alarm", stage=stage, onset_step=verdict.step, source="detected", evidence=evidence
        )
        return decision

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """What the alarm led to: none, or the expert acts from its step on and hands nothing back."""
        if self.alarm is None or self.event is None or self.alarm.decision != "recover":
            return ()
        trigger: Literal["person", "alarm"] = "person" if self.alarm.reaction == "ask" else "alarm"
        return (Intervention(trigger=trigger, actor="expert", start=self.alarm.step, stage=self.event.stage),)

    def about(self) -> dict[str, Any]:
        """What watched, for the episode's metadata."""
        band, stopped = self.monitor.band, self.stopped
        return {
            "monitor": self.name,
            "detector": self.monitor.detector.name,
            "alpha": band.alpha,
            "calibration_successes": band.n,
            "on_alarm": self.on_alarm,
            # An episode that is stopped has no record of that step: nothing was done.
            **({} if stopped is None else {"stopped_at": {"score": stopped.score, "band": stopped.band}}),
        }


def load_watch(folder: str, on_alarm: OnAlarm, agent: Agent) -> Watch:
    """The monitor in a folder, for this agent.

    Raises:
        CheckpointError: there is none, or it was fitted on another policy. SetupError: the agent cannot be watched.
    """
    _watchable(agent)
    monitor = load_monitor(Path(folder), agent.provenance().checkpoint_sha256)
    return Watch(monitor, on_alarm, folder)


def _watchable(agent: Agent) -> PolicyAgent:
    if not isinstance(agent, PolicyAgent) or not agent.policy.spec.feature_dim:
        raise SetupError(f"a monitor reads a policy's features; {agent.provenance().agent or 'this agent'} gives none")
    return agent


def band_scalar(verdict: Verdict) -> dict[str, float]:
    """The bound as a chunk's scalar, where it is finite."""
    return {"band": verdict.band} if math.isfinite(verdict.band) else {}


def call_for_help(line: str) -> Decision:
    """Nobody is there to answer: the robot waits, so the episode ends."""
    return "stop"


def ask_at_terminal(line: str) -> Decision:
    """Ask the person at the terminal; the end of input stops."""
    answers: dict[str, Decision] = {"g": "go on", "s": "stop", "r": "recover"}
    while True:
        print(f"{line}\n[g]o on, [s]top or [r]ecover? ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:
            return "stop"
        if (key := answer.strip().lower()[:1]) in answers:
            return answers[key]
