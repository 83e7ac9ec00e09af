"""The closed loop: one agent, one environment, one episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from failwise.agent import PolicyAgent
from failwise.envs.dropping import Dropping
from failwise.errors import EpisodeError, SetupError
from failwise.policies.pooling import DEFAULT as DEFAULT_FEATURES
from failwise.recover.takeover import Takeover, TakeoverOptions
from failwise.rollout.watching import OnAlarm, Watch, band_scalar
from failwise.store import episode_id
from failwise.types import Actor, EpisodeMeta, FailureEvent, Intervention, Outcome, StepRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.agent import Agent
    from failwise.protocols import Environment
    from failwise.store.writer import EpisodeWriter
    from failwise.types import ActionChunk, Verdict

RECOVERY_LOOKS = 4  # steps between pictures while somebody else recovers: what was done there has to be visible


@dataclass(frozen=True)
class RolloutItem:
    """One episode to run. The same item gives the same record, byte for byte, on the same machine.

    Attributes:
        env_id: "suite/task".
        env_seed: seed of the layout. policy_seed: seed of the agent's own randomness.
        arm: name of what is being compared.
        agent: what ``failwise.agent.load_agent`` takes.
        monitor: folder of a detector that watches, or "". on_alarm: what happens at its first alarm.
        recover: who takes over from a failing policy and hands back: folder of a recovery actor, "expert", "rewind",
            or "". takeover: when and how.
    """

    env_id: str
    env_seed: int
    policy_seed: int
    arm: str
    agent: str
    monitor: str = ""
    on_alarm: OnAlarm = "stop"
    recover: str = ""
    takeover: TakeoverOptions = field(default_factory=TakeoverOptions)

    @property
    def episode_id(self) -> str:
        """The episode's name in a store."""
        return episode_id(self.env_id, self.arm, self.env_seed)


@dataclass(frozen=True)
class RolloutOptions:
    """How episodes are run and what is recorded.

    Attributes:
        look_every: also record a picture every so many steps; 0 records only where the policy looks.
        stop_on_success: end at the first step whose success condition holds.
        wording: "default" takes each task's own sentence, "training" a paraphrase by seed, "held_out" one never
            trained on.
        snapshot_every: record the simulation's state every so many steps; 0 records none.
        env_options: passed to the environment.
        features: which of the policy's features are recorded, see ``failwise.policies.pooling``.
        samples: further chunks that are drawn and recorded at every inference, for detectors; 0 draws none.
    """

    look_every: int = 0
    stop_on_success: bool = True
    wording: Literal["default", "training", "held_out"] = "default"
    snapshot_every: int = 0
    env_options: Mapping[str, Any] = field(default_factory=dict)
    features: str = "prefix-mean"
    samples: int = 0


def instruction_for(env: Environment, wording: str, seed: int) -> str:
    """The sentence that an episode is told, chosen by its seed."""
    spec = env.spec
    choices = {
        "default": (spec.instruction,),
        "training": (spec.instruction, *spec.paraphrases),
        "held_out": spec.held_out,
    }[wording]
    if not choices:
        raise SetupError(f"{spec.env_id} has no {wording} wordings")
    return choices[seed % len(choices)]


def run_episode(
    env: Environment, agent: Agent, item: RolloutItem, writer: EpisodeWriter, options: RolloutOptions,
    watch: Watch | None = None, takeover: Takeover | None = None,
) -> EpisodeMeta:  # fmt: skip
    """Run and record one episode; whatever happens inside, it ends in exactly one outcome."""
    spec = env.spec
    instruction = instruction_for(env, options.wording, item.env_seed)
    step, looks, first_success, success = 0, 0, None, False
    conditions: dict[str, bool] = dict.fromkeys(spec.conditions, False)
    outcome, error = Outcome.TIMEOUT, ""
    layout: dict[str, Any] = {}
    try:
        if watch is not None:
            watch.begin(agent, env)
        elif isinstance(agent, PolicyAgent):
            agent.watch(options.features, options.samples)
        agent.begin(env, item.policy_seed)
        if takeover is not None:
            takeover.begin(env, item.policy_seed)
        observation, _ = env.reset(seed=item.env_seed, options={"instruction": instruction})
        layout = _layout(env)
        pending: list[Any] = []
        fresh, chunk, verdict, helping = 0, None, None, False
        actor, decision = agent.actor, "go on"
        while step < spec.step_limit:
            helped, stage = None, _next_condition(spec.conditions, conditions)
            if takeover is not None and actor == agent.actor:
                alarm = verdict is not None and verdict.alarm
                helped = takeover.act(step, observation, stage, alarm)
                fresh = step if helped is not None and not helping else fresh
                pending, helping = pending if helped is None else [], helped is not None
            infer = not pending and helped is None and actor != Actor.RECOVERY
            if infer:
                chunk = agent.act(observation)
                pending, fresh = list(chunk.actions), step
            elif (
                helped is None
                and isinstance(agent, PolicyAgent)
                and agent.looks_back(len(pending), spec.step_limit - step)
            ):
                agent.notice(observation)
            if watch is not None and helped is None and actor != Actor.RECOVERY:
                verdict = watch.see(step, pending[0], chunk if infer else None)
                decision = watch.decide(verdict, stage)
            acting = actor if helped is None else Actor.RECOVERY
            verdict = verdict if helped is None else None
            every = options.look_every or (RECOVERY_LOOKS if acting == Actor.RECOVERY else 0)
            looked = (infer and actor != "expert") or decision != "go on" or bool(every and step % every == 0)
            if looked:
                writer.look(step, observation.images)
                looks += 1
            if options.snapshot_every and step % options.snapshot_every == 0:
                writer.snapshot(step, env.snapshot())
            if infer and chunk is not None and chunk.features is not None:
                writer.features(step, chunk.features, chunk.samples)
            if decision == "stop":
                outcome = Outcome.ABORTED
                break
            if decision == "recover":
                actor, decision, pending, fresh = Actor.RECOVERY, "go on", [], step
                acting = actor
            action = helped if helped is not None else pending.pop(0) if pending else expert_action(env, step)
            if takeover is not None:
                takeover.did(action)
            state = observation.state
            observation, reward, terminated, truncated, info = env.step(action)
            conditions = dict(info["conditions"])
            writer.step(
                StepRecord(
                    step=step,
                    state=state,
                    action=action,
                    reward=reward,
                    conditions=conditions,
                    actor=acting,
                    chunk_step=step - fresh,
                    info=_scalars(chunk, verdict) if infer else {},
                    score=None if verdict is None else verdict.score,
                )
            )
            verdict = None if acting == Actor.RECOVERY else verdict  # the alarm's own score is kept
            step += 1
            success = bool(info["success"])
            if success and first_success is None:
                first_success = step - 1
            if (success and options.stop_on_success) or terminated or truncated:
                outcome = Outcome.FAILURE if terminated else Outcome.TIMEOUT
                break
        if first_success is not None:
            outcome = Outcome.SUCCESS
    except EpisodeError as fault:
        outcome, error = Outcome.ERROR, str(fault)
    return EpisodeMeta(
        episode_id=item.episode_id,
        env_id=item.env_id,
        task=spec.task,
        instruction=instruction,
        arm=item.arm,
        env_seed=item.env_seed,
        policy_seed=item.policy_seed,
        outcome=outcome,
        success_once=first_success is not None,
        success_at_end=success and outcome != Outcome.ERROR,
        first_success_step=first_success,
        n_steps=step,
        step_limit=spec.step_limit,
        control_hz=spec.control_hz,
        cameras=tuple(spec.cameras) if looks else (),
        n_frames=looks,
        failure_events=(
            *_alarm(watch),
            *(takeover.events if takeover else ()),
            *_dropped(env),
            *_events(outcome, conditions, spec.conditions, step),
        ),
        alarms=() if watch is None or watch.alarm is None else (watch.alarm,),
        interventions=_interventions(watch, takeover),
        error=error,
        provenance=agent.provenance(),
        extra=layout
        | ({"drop": env.drop_record()} if isinstance(env, Dropping) else {})
        | _kind_of_features(agent)
        | ({} if watch is None else {"watch": watch.about()})
        | ({} if takeover is None else {"takeover": takeover.about()}),
    )


def _layout(env: Environment) -> dict[str, Any]:
    """Where things are at the start, for people who ask where a policy fails; no policy reads meta data."""
    places = getattr(env, "layout", None) or getattr(env, "poses", None)
    if places is None:
        return {}
    return {"layout": {name: [round(float(x), 4) for x in place] for name, place in places().items()}}


def _dropped(env: Environment) -> tuple[FailureEvent, ...]:
    """What was dropped on purpose, if it was."""
    if not isinstance(env, Dropping) or (step := int(env.drop_record()["dropped"])) < 0:
        return ()
    evidence = "the fingers were held open while they carried"
    return (FailureEvent(mode="drop", stage="grasped", onset_step=step, source="injected", evidence=evidence),)


def expert_action(env: Environment, step: int) -> NDArray[Any]:
    """The expert's action.

    Raises:
        EpisodeError: it has none in this state.
    """
    action = env.expert()
    if action is None:
        raise EpisodeError(f"the expert of {env.spec.env_id} gives no action at step {step}")
    return action


def _scalars(chunk: ActionChunk | None, verdict: Verdict | None) -> dict[str, float]:
    """What is recorded with an inference: the steering's scalars, and the bound of a monitor."""
    scalars = {} if chunk is None else dict(chunk.info)
    return scalars if verdict is None else scalars | band_scalar(verdict)


def _interventions(watch: Watch | None, takeover: Takeover | None) -> tuple[Intervention, ...]:
    """Those that the alarm led to and those of the controller, in the order of their starts."""
    both = [*(watch.interventions if watch else ()), *(takeover.interventions if takeover else ())]
    return tuple(sorted(both, key=lambda intervention: intervention.start))


def _alarm(watch: Watch | None) -> tuple[FailureEvent, ...]:
    return () if watch is None or watch.event is None else (watch.event,)


def _next_condition(order: tuple[str, ...], conditions: Mapping[str, bool]) -> str:
    """The first condition in the task's order that does not hold."""
    return next((name for name in order if not conditions.get(name, False)), "success")


def _kind_of_features(agent: Agent) -> dict[str, Any]:
    """Which features were recorded, where they are not the policy's default ones."""
    if not isinstance(agent, PolicyAgent) or agent.pooling.text == DEFAULT_FEATURES:
        return {}
    return {"features": agent.pooling.text, "feature_widths": agent.feature_widths}


def _events(
    outcome: Outcome, conditions: Mapping[str, bool], order: tuple[str, ...], n_steps: int
) -> tuple[FailureEvent, ...]:
    """For an episode without success: the first condition in the task's order that did not hold at its end."""
    if outcome not in (Outcome.FAILURE, Outcome.TIMEOUT):
        return ()
    missing = _next_condition(order, conditions)
    reached = ", ".join(name for name in order if conditions.get(name, False)) or "none"
    return (
        FailureEvent(
            mode=outcome.value, stage=missing, onset_step=max(n_steps - 1, 0), source="rule",
            evidence=f"conditions that held at the end: {reached}",
        ),
    )  # fmt: skip
