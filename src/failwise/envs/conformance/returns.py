"""Does what reset and step return have the right types, shapes and names, and nothing that a policy must not see?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.protocols import Environment
from failwise.types import Observation


def check_returns(env: Environment) -> Iterator[str]:
    """Yield one line for each wrong thing in what reset and the first few steps return."""
    spec = env.spec
    answer: Any = env.reset(seed=0)
    if not (isinstance(answer, tuple) and len(answer) == 2):
        yield f"reset() returned {kind(answer)}; expected (observation, info). Fix the return line of reset()"
        return
    observation, info = answer
    yield from _observation_problems(env, observation, "reset()")
    yield from _info_problems(env, info, "reset()")
    if isinstance(observation, Observation) and observation.instruction != spec.instruction:
        yield (
            f"reset() without options tells {observation.instruction!r}; expected spec.instruction "
            f"{spec.instruction!r}. Fix reset()"
        )
    for i, action in enumerate(sample_actions(env, 4)):
        given = action.copy()
        step: Any = env.step(action)
        if not np.array_equal(given, action):
            yield "step() changed the action array that it was given. Fix step(): work on a copy"
        if not (isinstance(step, tuple) and len(step) == 5):
            yield (
                f"step() returned {kind(step)}; expected (observation, reward, terminated, truncated, info). "
                "Fix the return line of step()"
            )
            return
        observation, reward, terminated, truncated, info = step
        found = list(_observation_problems(env, observation, "step()"))
        found += _info_problems(env, info, "step()")
        if not isinstance(reward, float | int) or isinstance(reward, bool) or not np.isfinite(reward):
            found.append(f"step(): reward is {reward!r}; expected a finite float. Fix step(): float(reward)")
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, bool):
                found.append(f"step(): {name} is {kind(value)}; expected bool. Fix step(): bool({name})")
        yield from found
        if found or terminated or truncated or i == 3:
            return


def _observation_problems(env: Environment, observation: Any, where: str) -> Iterator[str]:
    spec = env.spec
    if not isinstance(observation, Observation):
        yield f"{where}: the observation is {kind(observation)}; expected failwise.types.Observation. Fix {where}"
        return
    extra = set(vars(observation)) - {"images", "state", "instruction"}
    if extra:
        yield (
            f"{where}: the observation also carries {sorted(extra)}; a policy may see images, state and instruction "
            "only. Fix: leave privileged simulator state out, or put it into info"
        )
    state: Any = observation.state
    n = len(spec.state_names)
    if not isinstance(state, np.ndarray) or state.dtype != np.float32 or state.shape != (n,):
        yield (
            f"{where}: observation.state is {kind(state)}; expected float32 ({n},), one value for each of "
            f"spec.state_names. Fix {where}: np.asarray(state, np.float32)"
        )
    elif not np.isfinite(state).all():
        yield f"{where}: observation.state is not finite: {state.tolist()}. Fix {where}"
    if list(observation.images) != list(spec.cameras):
        yield (
            f"{where}: observation.images has cameras {list(observation.images)}; expected those of spec.cameras, "
            f"{list(spec.cameras)}. Fix spec or {where}"
        )
        return
    for camera, size in spec.cameras.items():
        image: Any = observation.images[camera]
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != (*size, 3):
            yield (
                f"{where}: the picture of camera {camera!r} is {kind(image)}; expected uint8 {(*size, 3)} as "
                "spec.cameras says. Fix the rendering: RGB, 0..255, height before width, no alpha channel"
            )
        elif image.min() == image.max():
            yield (
                f"{where}: the picture of camera {camera!r} is one flat colour ({image.flat[0]}); expected a view "
                "of the scene. Fix the rendering: camera pose, lights, and that the renderer has a context"
            )


def _info_problems(env: Environment, info: Any, where: str) -> Iterator[str]:
    names = env.spec.conditions
    if not isinstance(info, dict) or "conditions" not in info or "success" not in info:
        yield f"{where}: info is {kind(info)} without 'conditions' and 'success'; expected both. Fix {where}"
        return
    conditions, success = info["conditions"], info["success"]
    if set(conditions) != set(names):
        yield (
            f"{where}: info['conditions'] has {sorted(conditions)}; expected a value for each of spec.conditions, "
            f"{list(names)}, at every step. Fix {where} or spec.conditions"
        )
    values = {f"info['conditions'][{name!r}]": value for name, value in conditions.items()}
    for name, value in {**values, "info['success']": success}.items():
        if not isinstance(value, bool):
            yield f"{where}: {name} is {kind(value)}; expected bool. Fix {where}: bool(...)"
    if "success" in conditions and bool(conditions["success"]) != bool(success):
        yield (
            f"{where}: info['success'] is {success} but info['conditions']['success'] is {conditions['success']}; "
            f"expected the same. Fix {where}: compute it once and use it for both"
        )


def kind(value: Any) -> str:
    """A value in a few words: dtype and shape of an array, length of a tuple, else its type."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"tuple of {len(value)}" if isinstance(value, tuple) else _name(type(value))


def sample_actions(env: Environment, n: int, high: bool = False) -> NDArray[np.float32]:
    """The same ``n`` actions (n, A) each time, uniform inside the bounds; ``high`` goes all one way, far."""
    low, top = env.spec.action_low, env.spec.action_high
    share = np.full((n, len(low)), 0.95) if high else np.random.default_rng(0).uniform(0, 1, (n, len(low)))
    return (low + share * (top - low)).astype(np.float32)


def fingerprint(observation: Observation) -> bytes:
    """State and all images of an observation as bytes: equal for equal moments. Renders every camera."""
    images = b"".join(observation.images[camera].tobytes() for camera in observation.images)
    return observation.state.tobytes() + images


def _name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
