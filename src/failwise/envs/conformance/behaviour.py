"""Does an environment behave: seeds, pictures, snapshots, step limit, expert, wording, bad actions?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.envs.conformance.returns import fingerprint, kind, sample_actions
from failwise.envs.lazy import StaleObservationError
from failwise.errors import EpisodeError
from failwise.protocols import Environment, Recomputes
from failwise.types import Observation

_SEEDS = (0, 50, 100, *range(1, 8), *(100_000 * k + j for k in (1, 2, 3) for j in range(5)))
_STEPS = 12  # of the comparisons step by step


def check_instruction_option(env: Environment) -> Iterator[str]:
    """A wording given to reset is told, for that episode only."""
    spec = env.spec
    for wording in (*spec.paraphrases[:1], *spec.held_out[:1]):
        told = env.reset(seed=0, options={"instruction": wording})[0].instruction
        if told != wording:
            yield (f"reset(options={{'instruction': {wording!r}}}) tells {told!r}; expected that wording. Fix reset()")
    if env.reset(seed=0)[0].instruction != spec.instruction:
        yield "the instruction of an earlier episode stays; expected spec.instruction again. Fix reset()"


def check_seeds(env: Environment) -> Iterator[str]:
    """The same seed and actions give the same episode, bit for bit; distinct seeds give distinct layouts."""
    actions = sample_actions(env, _STEPS)
    env.reset(seed=7)
    one = _trace(env, actions, env.reset(seed=3)[0])
    env.reset(seed=11)
    _trace(env, actions[:3], env.reset(seed=12)[0])
    difference = _difference(one, _trace(env, actions, env.reset(seed=3)[0]))
    if difference:
        yield (
            f"the same seed and actions gave another episode: {difference}; expected the same values, bit for bit. "
            "Fix reset(): draw everything from np.random.default_rng(seed), and reset every counter and buffer"
        )
    looks = {seed: fingerprint(env.reset(seed=seed)[0]) for seed in _SEEDS}
    same = [pair for pair in combinations(_SEEDS, 2) if looks[pair[0]] == looks[pair[1]]]
    if same:
        yield (
            f"seeds {same[0][0]} and {same[0][1]} start in the same layout ({len(same)} such pairs among {len(_SEEDS)} "
            "seeds); expected distinct, continuous layouts, so that test layouts were never trained on. Fix reset(): "
            "draw positions from np.random.default_rng(seed).uniform, not from a list"
        )


def check_pictures(env: Environment) -> Iterator[str]:
    """A picture shows its own moment: it renders in time or not at all, and stays as it was."""
    action = sample_actions(env, 1)[0]
    moves: dict[str, Callable[[Observation], object]] = {
        "step()": lambda _: env.step(action),
        "reset()": lambda _: env.reset(seed=2),
        "restore()": lambda _: env.restore(env.snapshot()),
    }
    for name, move in moves.items():
        old = env.reset(seed=1)[0]
        move(old)
        for camera in env.spec.cameras:
            try:
                old.images[camera]
            except StaleObservationError:
                continue
            yield (
                f"after {name}, camera {camera!r} of the observation before still renders; expected "
                "StaleObservationError, as the picture would show a later moment. Fix: return "
                f"failwise.envs.LazyImages and let {name} change what its is_current looks at"
            )
    seen = env.reset(seed=1)[0]
    kept = {camera: seen.images[camera].copy() for camera in env.spec.cameras}
    state = seen.state.copy()
    for action in sample_actions(env, 5, high=True):
        now = env.step(action)[0]
        for camera in env.spec.cameras:
            now.images[camera]
    if any(not np.array_equal(kept[camera], seen.images[camera]) for camera in kept):
        yield (
            "a picture that was looked at changed when later ones were rendered; expected it to stay. Fix the "
            "rendering: return a new array (image.copy()), not the renderer's own buffer"
        )
    if not np.array_equal(state, seen.state):
        yield "observation.state changes with later steps; expected it to stay. Fix: return a copy of the state"


def check_first_image(env: Environment) -> Iterator[str]:
    """The observation right after reset shows the layout that reset drew, not one from before.

    A simulator may write a layout into its model and leave the poses that its renderer draws as they were. Two ways
    round to the same moment tell: through a snapshot, and through ``recompute()`` where the environment has it.
    """
    routes: dict[str, Callable[[], Observation]] = {"restore(snapshot())": lambda: env.restore(env.snapshot())}
    if isinstance(env, Recomputes):
        routes["recompute()"] = env.recompute
    for seed in _SEEDS[:3]:
        for route, again in routes.items():
            first = env.reset(seed=seed)[0]
            shown = {camera: first.images[camera].copy() for camera in env.spec.cameras}
            second = again()
            for camera, image in shown.items():
                differing = int((image != second.images[camera]).any(-1).sum())
                if differing:
                    yield (
                        f"camera {camera!r} right after reset(seed={seed}) differs in {differing} of "
                        f"{image.shape[0] * image.shape[1]} pixels from the same moment after {route}; expected the "
                        "same image. Fix reset(): let the simulator compute all poses from the new layout before it "
                        "returns (in MuJoCo: mj_forward)"
                    )
                    return
            if not np.allclose(first.state, second.state, atol=1e-6, rtol=0):
                yield (
                    f"observation.state right after reset(seed={seed}) is {first.state.tolist()}, and "
                    f"{second.state.tolist()} at the same moment after {route}; expected the same. Fix reset()"
                )
                return


def check_two_at_once(env: Environment, other: Environment) -> Iterator[str]:
    """Two environments of one process leave each other's images alone, in whatever order they render."""
    for first, second in ((env, other), (other, env)):
        alone = fingerprint(first.reset(seed=1)[0])
        fingerprint(second.reset(seed=2)[0])
        late = first.reset(seed=1)[0]
        fingerprint(second.step(sample_actions(second, 1)[0])[0])
        if fingerprint(late) != alone or fingerprint(first.reset(seed=1)[0]) != alone:
            yield (
                f"an image of {first.spec.env_id} changes when {second.spec.env_id} renders in the same process; "
                "expected the same image. Fix the rendering: make the environment's own context and buffer current "
                "before each image, and share no scene, model or texture between environments"
            )
            return


def check_snapshots(env: Environment) -> Iterator[str]:
    """Continuing from a snapshot repeats what happened the first time, bit for bit."""
    actions = sample_actions(env, 2 * _STEPS)
    _trace(env, actions[:_STEPS], env.reset(seed=5)[0])
    snapshot = env.snapshot()
    odd = [k for k, v in snapshot.items() if not isinstance(v, np.ndarray) or v.dtype.kind not in "fiub"]
    if odd:
        yield (
            f"snapshot() holds {odd[0]!r} as {kind(snapshot[odd[0]])}; expected arrays of numbers only, so that "
            "it can be stored. Fix snapshot(): np.array(...); text as np.frombuffer(text.encode(), np.uint8)"
        )
        return
    kept = {name: array.copy() for name, array in snapshot.items()}
    original = _trace(env, actions[_STEPS:], None)
    if any(not np.array_equal(kept[name], snapshot[name], equal_nan=True) for name in kept):
        yield "a snapshot changed while the environment went on; expected it to stay. Fix snapshot(): copy arrays"
    for story, prepare in (("", lambda: None), (" into another episode", lambda: env.reset(seed=6))):
        prepare()
        env.restore(kept)
        difference = _difference(original, _trace(env, actions[_STEPS:], None))
        if difference:
            yield (
                f"restore(){story}, then the same actions: {difference}; expected what happened the first time, bit "
                "for bit. Fix snapshot() and restore(): include everything that the next step reads (velocities, "
                "controls, step counter, random state, what reset() drew)"
            )
            return
    env.reset(seed=5)
    moved = _trace(env, actions[:_STEPS], None)[-1]
    snapshot = env.snapshot()
    env.reset(seed=6)
    restored: Any = env.restore(snapshot)
    if not isinstance(restored, Observation) or not np.array_equal(restored.state, moved["state"]):
        yield (
            f"restore() returned {kind(restored)} that is not the observation of the restored moment. Fix the return "
            "line of restore()"
        )


def check_step_limit(env: Environment) -> Iterator[str]:
    """An episode is truncated at its step limit, and not before; restoring a snapshot restores the count."""
    limit = env.spec.step_limit
    neutral = (env.spec.action_low + env.spec.action_high) / 2
    for seed in _SEEDS[:3]:
        env.reset(seed=seed)
        back_at = limit // 2 if limit >= 8 else -1
        for step in range(1, limit + 1):
            _, _, terminated, truncated, _ = env.step(neutral)
            if truncated and step < limit:
                detour = f", {step - back_at} after a restored snapshot" if 0 < back_at < step else ""
                yield (
                    f"step() reported truncated at step {step}{detour}; expected it at spec.step_limit {limit}. Fix "
                    "spec.step_limit, step() (an end of the task itself is 'terminated'), or the count in restore()"
                )
                return
            if terminated:
                break
            if step == back_at:
                snapshot = env.snapshot()
                for _ in range(3):
                    env.step(neutral)
                env.restore(snapshot)
        else:
            if not truncated:
                yield (
                    f"step() did not report truncated at step {limit} = spec.step_limit. Fix step(): count steps from "
                    "reset() and return truncated=True when the count reaches the limit"
                )
            return


def check_expert(env: Environment) -> Iterator[str]:
    """The expert answers inside the bounds, exactly where the spec says that there is one."""
    spec = env.spec
    env.reset(seed=4)
    for _ in range(_STEPS):
        action: Any = env.expert()
        if not spec.has_expert:
            if action is not None:
                yield f"expert() returned {kind(action)} but spec.has_expert is False. Fix one of the two"
            return
        shape = spec.action_low.shape
        if not isinstance(action, np.ndarray) or action.shape != shape or not np.isfinite(action).all():
            yield f"expert() returned {kind(action)}; expected finite numbers {shape}. Fix expert() or spec.has_expert"
            return
        if np.any(action < spec.action_low) or np.any(action > spec.action_high):
            yield (
                f"expert() returned {action.tolist()}, outside spec.action_low..action_high. Fix expert(): np.clip("
                "action, spec.action_low, spec.action_high)"
            )
            return
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return


def check_bad_actions(env: Environment) -> Iterator[str]:
    """An action that is no action ends the episode instead of corrupting it."""
    n = len(env.spec.action_low)
    for name, action in (("NaN", np.full(n, np.nan, np.float32)), ("too short", np.zeros(n - 1, np.float32))):
        env.reset(seed=0)
        try:
            env.step(action)
        except EpisodeError:
            continue
        except Exception as error:
            got = f"raised {type(error).__name__}"
        else:
            got = "took it without a word"
        yield (
            f"step() with an action that is {name} {got}; expected failwise.errors.EpisodeError, so that the episode "
            "counts as an error and the run goes on. Fix the first lines of step()"
        )


def _trace(env: Environment, actions: NDArray[np.float32], first: Observation | None) -> list[dict[str, Any]]:
    """All that is seen and told from here on under some actions, up to the end of the episode."""
    trace = [{"state": first.state.copy(), "pictures": fingerprint(first)}] if first is not None else []
    for i, action in enumerate(actions):
        observation, reward, terminated, truncated, info = env.step(action)
        record = {
            "state": observation.state.copy(), "reward": reward, "conditions": dict(info["conditions"]),
            "terminated": terminated, "truncated": truncated, "instruction": observation.instruction,
        }  # fmt: skip
        if i == len(actions) - 1:
            record["pictures"] = fingerprint(observation)
        trace.append(record)
        if terminated or truncated:
            break
    return trace


def _difference(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """The first value that differs between two traces, in words; empty when none does."""
    for step, (a, b) in enumerate(zip(one, other, strict=False)):
        for name in a:
            if not np.array_equal(a[name], b[name]):
                shown = "" if name == "pictures" else f" ({a[name]} and {b[name]})"
                return f"{name} differ after {step} steps{shown}"
    return "" if len(one) == len(other) else f"they ended after {len(one)} and {len(other)} steps"


CHECKS = (
    check_instruction_option, check_seeds, check_pictures, check_first_image, check_snapshots, check_step_limit,
    check_expert, check_bad_actions,
)  # fmt: skip
