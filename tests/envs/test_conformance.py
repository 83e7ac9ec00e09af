"""The conformance check passes what conforms, and catches each deliberate break by its name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from failwise.envs import LazyImages
from failwise.envs.conformance import NonconformingError, assert_conforms, check_env
from failwise.envs.tiny import TASKS, TinyEnv, make
from failwise.types import Observation

Answer = tuple[Observation, dict[str, Any]]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


@pytest.mark.parametrize("task", TASKS)
def test_tiny_conforms(task: str) -> None:
    assert_conforms(make(task))


def test_an_expert_is_optional() -> None:
    env = WithoutExpert("push")
    env.spec = replace(env.spec, has_expert=False)
    assert check_env(env) == []


class WithoutExpert(TinyEnv):
    def expert(self) -> Any:
        return None


def with_spec(**changes: Any) -> Callable[[], TinyEnv]:
    def build() -> TinyEnv:
        env = make("reach")
        env.spec = replace(env.spec, **changes)
        return env

    return build


class Watched(TinyEnv):
    """Breaks whatever ``see`` does to each observation that leaves the environment."""

    def see(self, observation: Observation) -> Observation:
        return observation

    def reset(self, **options: Any) -> Answer:
        observation, info = super().reset(**options)
        return self.see(observation), info

    def step(self, action: Any) -> Step:
        observation, *rest = super().step(action)
        return self.see(observation), *rest  # type: ignore[return-value]

    def restore(self, snapshot: Mapping[str, Any]) -> Observation:
        return self.see(super().restore(snapshot))


class Told(TinyEnv):
    """Breaks whatever ``tell`` does to the infos of reset and step."""

    def tell(self, info: dict[str, Any]) -> None: ...

    def reset(self, **options: Any) -> Answer:
        observation, info = super().reset(**options)
        self.tell(info)
        return observation, info

    def step(self, action: Any) -> Step:
        answer = super().step(action)
        self.tell(answer[4])
        return answer


class DoubleState(Watched):
    def see(self, observation: Observation) -> Observation:
        return replace(observation, state=observation.state.astype(np.float64))


class ShortState(Watched):
    def see(self, observation: Observation) -> Observation:
        return replace(observation, state=observation.state[:4])


class NanState(Watched):
    def see(self, observation: Observation) -> Observation:
        return replace(observation, state=observation.state * np.float32(np.nan))


@dataclass(frozen=True)
class TellingObservation(Observation):
    puck_position: tuple[float, float] = (0.0, 0.0)


class Telling(Watched):
    def see(self, observation: Observation) -> Observation:
        return TellingObservation(observation.images, observation.state, observation.instruction, (0.1, 0.2))


class DictObservation(Watched):
    def see(self, observation: Observation) -> Any:
        return vars(observation)


class RenderingOtherwise(Watched):
    """Replaces every picture by ``picture`` of it, on access, as the environment is then."""

    def picture(self, image: Any) -> Any:
        return image

    def see(self, observation: Observation) -> Observation:
        def render(camera: str) -> Any:
            return self.picture(observation.images[camera])

        version = self._version
        return replace(observation, images=LazyImages(("top", "robot"), render, lambda: self._version == version))


class FloatPictures(RenderingOtherwise):
    def picture(self, image: Any) -> Any:
        return image / 255.0


class AlphaPictures(RenderingOtherwise):
    def picture(self, image: Any) -> Any:
        return np.concatenate([image, image[..., :1]], -1)


class BlackPictures(RenderingOtherwise):
    def picture(self, image: Any) -> Any:
        return np.zeros_like(image)


class SharedBuffer(RenderingOtherwise):
    buffer = np.zeros((32, 32, 3), np.uint8)

    def picture(self, image: Any) -> Any:
        self.buffer[:] = image
        return self.buffer


class OneCamera(Watched):
    def see(self, observation: Observation) -> Observation:
        return replace(observation, images={"top": observation.images["top"]})


class NeverStale(Watched):
    def see(self, observation: Observation) -> Observation:
        def render(camera: str) -> Any:
            return TinyEnv._observation(self).images[camera]

        return replace(observation, images=LazyImages(("top", "robot"), render, lambda: True))


class SharedState(Watched):
    shared = np.zeros(5, np.float32)

    def see(self, observation: Observation) -> Observation:
        self.shared[:] = observation.state
        return replace(observation, state=self.shared)


class ConditionMissing(Told):
    def tell(self, info: dict[str, Any]) -> None:
        info["conditions"].pop("gripped")


class NumpyCondition(Told):
    def tell(self, info: dict[str, Any]) -> None:
        info["conditions"]["gripped"] = np.bool_(True)


class OtherSuccess(Told):
    def tell(self, info: dict[str, Any]) -> None:
        info["success"] = not info["success"]


class NoSuccess(Told):
    def tell(self, info: dict[str, Any]) -> None:
        del info["success"]


class Unseeded(TinyEnv):
    def reset(self, **options: Any) -> Answer:
        return super().reset(**{**options, "seed": None})


class FiftyLayouts(TinyEnv):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Answer:
        return super().reset(seed=(seed or 0) % 50, options=options)


class Remembering(TinyEnv):
    """The wind of one episode blows on in the next."""

    wind = 0.0

    def step(self, action: Any) -> Step:
        self.wind += 1e-4
        self._world.vx += self.wind
        return super().step(action)


class StandsStillAfterRestore(TinyEnv):
    def restore(self, snapshot: Mapping[str, Any]) -> Observation:
        return super().restore({**snapshot, "robot": snapshot["robot"] * [1, 1, 0, 0, 1]})


class ForgetsSteps(TinyEnv):
    def restore(self, snapshot: Mapping[str, Any]) -> Observation:
        return super().restore({**snapshot, "steps": np.array([self._world.steps])})


class SnapshotOfObjects(TinyEnv):
    def snapshot(self) -> dict[str, Any]:
        return {**super().snapshot(), "instruction": self._instruction}


class LiveSnapshot(TinyEnv):
    live = np.zeros(5)

    def snapshot(self) -> dict[str, Any]:
        arrays = super().snapshot()
        self.live = arrays["robot"]
        return arrays

    def step(self, action: Any) -> Step:
        answer = super().step(action)
        self.live[:2] = self._world.robot
        return answer


class RestoreWithoutAnswer(TinyEnv):
    def restore(self, snapshot: Mapping[str, Any]) -> Any:
        super().restore(snapshot)


class Endless(TinyEnv):
    def step(self, action: Any) -> Step:
        o, reward, terminated, _, info = super().step(action)
        return o, reward, terminated, False, info


class Hasty(TinyEnv):
    def step(self, action: Any) -> Step:
        o, reward, terminated, _, info = super().step(action)
        return o, reward, terminated, self._world.steps >= 30, info


class FourAnswers(TinyEnv):
    def step(self, action: Any) -> Any:
        o, reward, terminated, truncated, info = super().step(action)
        return o, reward, terminated or truncated, info


class NumpyReward(TinyEnv):
    def step(self, action: Any) -> Step:
        o, reward, *rest = super().step(action)
        return o, np.float32(reward), *rest  # type: ignore[return-value]


class NumpyEnd(TinyEnv):
    def step(self, action: Any) -> Step:
        o, reward, terminated, truncated, info = super().step(action)
        return o, reward, np.bool_(terminated), truncated, info  # type: ignore[return-value]


class ClipsInPlace(TinyEnv):
    def step(self, action: Any) -> Step:
        np.clip(action, -0.5, 0.5, out=action)
        return super().step(action)


class TrustsActions(TinyEnv):
    def step(self, action: Any) -> Step:
        return super().step(np.nan_to_num(action))


class WildExpert(TinyEnv):
    def expert(self) -> Any:
        return super().expert() * 3


class OneWording(TinyEnv):
    def reset(self, **options: Any) -> Answer:
        return super().reset(seed=options.get("seed"))


class StickyWording(TinyEnv):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Answer:
        self.told = (options or {}).get("instruction", getattr(self, "told", self.spec.instruction))
        return super().reset(seed=seed, options={"instruction": self.told})


class RandomWithoutSeed(TinyEnv):
    """What every environment here did before: a reset without a seed forgets the seed before it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Answer:
        drawn = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        return super().reset(seed=drawn, options=options)


class OneLayoutWithoutSeed(TinyEnv):
    last = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Answer:
        self.last = self.last if seed is None else seed
        return super().reset(seed=self.last, options=options)


class OneSequenceForAllSeeds(TinyEnv):
    count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Answer:
        self.count = self.count + 1 if seed is None else 0
        return super().reset(seed=1000 + self.count if seed is None else seed, options=options)


class NoSeedInInfo(TinyEnv):
    def reset(self, **options: Any) -> Answer:
        observation, info = super().reset(**options)
        del info["seed"]
        return observation, info


class OtherSeedInInfo(TinyEnv):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Answer:
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "seed": info["seed"] + (seed is None)}


class TakesAnyOption(TinyEnv):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Answer:
        words = {key: value for key, value in (options or {}).items() if key == "instruction"}
        return super().reset(seed=seed, options=words)


class TakesBlankText(TinyEnv):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Answer:
        text = (options or {}).get("instruction", "")
        blank = isinstance(text, str) and not text.strip()
        return super().reset(seed=seed, options=None if blank and "no_such_option" not in (options or {}) else options)


class ChecksTooLate(TinyEnv):
    """Takes over a wording before it refuses it."""

    wording = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Answer:
        text = (options or {}).get("instruction", self.wording)
        self.wording = text if isinstance(text, str) else "some other words"
        observation, info = super().reset(seed=seed, options=options)
        return replace(observation, instruction=self.wording or observation.instruction), info


class Crashing(TinyEnv):
    def snapshot(self) -> Any:
        raise KeyError("qpos")


class Backwards(TinyEnv):
    def nudge(self, error_6: Any) -> Any:
        return -super().nudge(error_6)


class Drifting(TinyEnv):
    def nudge(self, error_6: Any) -> Any:
        return super().nudge(np.asarray(error_6) + 0.01)


class Reckless(TinyEnv):
    def nudge(self, error_6: Any) -> Any:
        return 3.0 * super().nudge(error_6)


def with_arm(**changes: Any) -> Callable[[], TinyEnv]:
    def build() -> TinyEnv:
        env = make("reach")
        for name, value in changes.items():
            setattr(env, name, value)
        return env

    return build


REACH = "move to the red disc"


class LateLayout(Watched):
    """Draws what it drew before the last reset, until something moves: a simulator without a forward computation."""

    def reset(self, **options: Any) -> Answer:
        before = getattr(self, "_last", None)
        observation, info = super().reset(**options)
        self._last = {camera: observation.images[camera] for camera in observation.images}
        if before is None:
            return observation, info
        return replace(observation, images=before), info

    def step(self, action: Any) -> Step:
        answer = super().step(action)
        self._last = {camera: answer[0].images[camera] for camera in answer[0].images}
        return answer


class LateProprioception(TinyEnv):
    """Tells a state at reset that its own computation of the same moment does not confirm."""

    def reset(self, **options: Any) -> Answer:
        observation, info = super().reset(**options)
        return replace(observation, state=observation.state + np.float32(1e-3)), info

    def recompute(self) -> Observation:
        return super()._observation()


class SharedScene(Watched):
    """Two of them draw into one scene, so what is seen last may be the other's."""

    scene: Mapping[str, Any] = {}

    def see(self, observation: Observation) -> Observation:
        def render(camera: str) -> Any:
            if not SharedScene.scene:
                SharedScene.scene = {name: observation.images[name] for name in observation.images}
            return SharedScene.scene[camera]

        SharedScene.scene = {}
        version = self._version
        return replace(observation, images=LazyImages(("top", "robot"), render, lambda: self._version == version))


BREAKS: list[tuple[Callable[[], TinyEnv], str]] = [
    (with_spec(env_id="reach"), r"spec\.env_id is 'reach'; expected 'suite/task'"),
    (with_spec(action_high=np.ones(3)), r"spec\.action_high is not a float32 vector"),
    (with_spec(action_high=-np.ones(3, np.float32)), r"action_low .* is not below spec\.action_high"),
    (with_spec(action_low=np.full(3, -np.inf, np.float32)), r"spec\.action_low .* expected finite bounds"),
    (with_spec(state_names=("x_m", "y_m", "vx", "vy", "goal_x_m")), r"'goal_x_m': 'goal' .* privileged"),
    (with_spec(state_names=("x", "x", "vx", "vy", "o")), r"spec\.state_names .* each once"),
    (with_spec(conditions=()), r"spec\.conditions is \(\); expected at least one"),
    (with_spec(instruction="pick_place_v3"), r"'pick_place_v3'; expected an English sentence"),
    (with_spec(instruction="go to the {color} disc"), r"without placeholders"),
    (with_spec(paraphrases=(REACH,)), r"spec\.paraphrases repeats"),
    (with_spec(held_out=("Move to the red disc!",)), r"spec\.held_out .* also a wording for training"),
    (with_spec(cameras={}), r"spec\.cameras is empty"),
    (with_spec(cameras={"top": (64, 32), "robot": (32, 32)}), r"'top' is uint8 \(32, 32, 3\); expected uint8 \(64,"),
    (with_spec(step_limit=0), r"spec\.step_limit is 0"),
    (with_spec(control_hz=0.0), r"spec\.control_hz is 0\.0"),
    (with_spec(has_expert=False), r"expert\(\) returned float32 \(3,\) but spec\.has_expert is False"),
    (lambda: WithoutExpert("reach"), r"expert\(\) returned NoneType; expected finite numbers \(3,\)"),
    (lambda: WildExpert("reach"), r"expert\(\) returned .* outside spec\.action_low"),
    (lambda: DoubleState("reach"), r"observation\.state is float64 \(5,\); expected float32 \(5,\)"),
    (lambda: ShortState("reach"), r"observation\.state is float32 \(4,\); expected float32 \(5,\)"),
    (lambda: NanState("reach"), r"observation\.state is not finite"),
    (lambda: Telling("reach"), r"also carries \['puck_position'\].*privileged"),
    (lambda: DictObservation("reach"), r"the observation is dict; expected failwise\.types\.Observation"),
    (lambda: FloatPictures("reach"), r"camera 'top' is float64 .* expected uint8"),
    (lambda: AlphaPictures("reach"), r"uint8 \(32, 32, 4\).*no alpha channel"),
    (lambda: BlackPictures("reach"), r"one flat colour"),
    (lambda: SharedBuffer("reach"), r"a picture that was looked at changed.*image\.copy\(\)"),
    (lambda: OneCamera("reach"), r"cameras \['top'\]; expected those of spec\.cameras"),
    (lambda: NeverStale("reach"), r"after step\(\), camera 'top' .* expected StaleObservationError"),
    (lambda: SharedState("reach"), r"observation\.state changes with later steps"),
    (lambda: ConditionMissing("reach"), r"expected a value for each of spec\.conditions"),
    (lambda: NumpyCondition("reach"), r"\['gripped'\] is numpy\.bool; expected bool"),
    (lambda: OtherSuccess("reach"), r"info\['success'\] is True but info\['conditions'\]\['success'\] is False"),
    (lambda: NoSuccess("reach"), r"without 'conditions' and 'success'"),
    (lambda: Unseeded("reach"), r"the same seed and actions gave another episode: .* after 0 steps"),
    (lambda: FiftyLayouts("reach"), r"seeds 0 and 50 start in the same layout"),
    (lambda: Remembering("push"), r"the same seed and actions gave another episode: state differ after 1 steps"),
    (lambda: StandsStillAfterRestore("push"), r"restore\(\), then the same actions: state differ after 0 steps"),
    (lambda: ForgetsSteps("push"), r"truncated at step 117, 57 after a restored snapshot"),
    (lambda: SnapshotOfObjects("push"), r"snapshot\(\) holds 'instruction' as str; expected arrays"),
    (lambda: LiveSnapshot("push"), r"a snapshot changed while the environment went on"),
    (lambda: RestoreWithoutAnswer("push"), r"restore\(\) returned NoneType"),
    (lambda: Endless("push"), r"did not report truncated at step 120"),
    (lambda: Hasty("push"), r"truncated at step 30; expected it at spec\.step_limit 120"),
    (lambda: FourAnswers("push"), r"step\(\) returned tuple of 4; expected \(observation, reward"),
    (lambda: NumpyReward("push"), r"step\(\): reward is .* expected a finite float"),
    (lambda: NumpyEnd("push"), r"step\(\): terminated is .* expected bool"),
    (lambda: ClipsInPlace("push"), r"step\(\) changed the action array"),
    (lambda: TrustsActions("push"), r"an action that is NaN took it without a word"),
    (lambda: OneWording("push"), r"reset\(options=.* tells 'push the puck into the goal circle'; expected that"),
    (lambda: StickyWording("push"), r"the instruction of an earlier episode stays"),
    (lambda: RandomWithoutSeed("push"), r"without a seed begins other layouts each time that reset\(seed=3\)"),
    (lambda: OneLayoutWithoutSeed("push"), r"reset\(\) without a seed repeats a layout after reset\(seed=3\)"),
    (lambda: OneSequenceForAllSeeds("push"), r"the same layout after reset\(seed=3\) and after reset\(seed=4\)"),
    (lambda: NoSeedInInfo("push"), r"info\['seed'\] is None after reset\(seed=3\); expected 3"),
    (lambda: OtherSeedInInfo("push"), r"info\['seed'\] of reset\(\) without a seed is \d+, but"),
    (lambda: TakesAnyOption("push"), r"reset\(options=\{'no_such_option': 1\}\) is accepted silently"),
    (lambda: TakesBlankText("push"), r"reset\(options=\{'instruction': ''\}\) is accepted silently"),
    (lambda: ChecksTooLate("push"), r"refused options change a later episode"),
    (lambda: Backwards("push"), r"after 25 steps of nudge\(\) along x, .* are left"),
    (lambda: Drifting("push"), r"nudge\(zeros\(6\)\) is .*; expected zeros"),
    (lambda: Reckless("push"), r"nudge\(\) along x gave .* outside the action bounds"),
    (with_arm(axes=("x", "up")), r"axes names 'up'"),
    (with_arm(gripper=(3, 1.0)), r"gripper is \(3, 1\.0\)"),
    (lambda: LateLayout("push"), r"right after reset\(seed=0\) differs in \d+ of 1024 pixels .* after restore"),
    (lambda: LateProprioception("push"), r"observation\.state right after reset\(seed=0\) is .* after restore"),
    (lambda: Crashing("push"), r"snapshots: raised KeyError: 'qpos'; expected no exception\. Fix .*test_conformance"),
]


@pytest.mark.parametrize(("build", "message"), BREAKS, ids=[message[:40] for _, message in BREAKS])
def test_a_break_is_caught(build: Callable[[], TinyEnv], message: str) -> None:
    problems = check_env(build())
    assert any(re.search(message, problem) for problem in problems), problems
    assert all("ix" in problem and "\n" not in problem for problem in problems), "each says where to fix it"


def test_all_problems_are_told_at_once() -> None:
    env = Endless("push")
    env.spec = replace(env.spec, has_expert=False)
    with pytest.raises(NonconformingError, match=r"(?s)tiny/push breaks .* in 2 ways:.*1\. .*2\. "):
        assert_conforms(env)


def test_two_environments_that_share_a_scene_are_caught() -> None:
    assert check_env(make("push"), other=make("reach")) == []
    problems = check_env(SharedScene("push"), other=SharedScene("reach"))
    assert any("an image of tiny/push changes when tiny/reach renders" in problem for problem in problems), problems
