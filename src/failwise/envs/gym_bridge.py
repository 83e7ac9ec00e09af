"""Every environment as a ``gymnasium.Env``, under ids that ``gymnasium.make`` and ``make_vec`` take.

Gymnasium has had no entry points for plugins since its version 1.0: an id names the module that registers it. So
``failwise.gym`` stands before the colon, and nothing else has to be imported::

    gymnasium.make("failwise.gym:failwise/metaworld.pick-place", cameras=("corner",))
    gymnasium.make("failwise.gym:failwise/Env", environment="libero/libero_spatial:0@drop")

An id may hold one slash, no second colon and no "@", hence the dots of the first form. The second takes every
environment id as it is, those of other distributions included.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from failwise import registry
from failwise.envs import list_tasks, make_env
from failwise.errors import SetupError, UnknownNameError
from failwise.protocols import Environment
from failwise.types import Observation

NAMESPACE = "failwise"
ANY = f"{NAMESPACE}/Env"
STATE = "state"
_RENDER_MODES = ("rgb_array",)

GymObservation = dict[str, NDArray[Any]]


def image_key(camera: str) -> str:
    """The key of a camera's image. No dot: Stable-Baselines3 names a torch module after it, which allows none."""
    return f"image_{camera}"


def gym_id(env_id: str) -> str:
    """The id under which Gymnasium knows a task: "failwise/metaworld.pick-place" for "metaworld/pick-place"."""
    return f"{NAMESPACE}/{env_id.replace('/', '.').replace(':', '.')}"


class GymEnv(gymnasium.Env[GymObservation, NDArray[Any]]):
    """One environment behind Gymnasium's own class.

    Observations are a flat dict, because Stable-Baselines3 refuses nested ones: ``state``, float32 (S,), and one
    ``image_<camera>``, uint8 (h, w, 3), per camera. The instruction is ``info["instruction"]`` at every step and not
    a part of the observation: Stable-Baselines3 refuses ``spaces.Text``, and a wording may have any length and any
    character, which ``Text`` would have to bound. ``info`` also holds ``conditions``, ``success``, the same again as
    ``is_success`` (where Stable-Baselines3 and LeRobot look for it), and after a reset the layout's ``seed``.

    Args:
        environment: an environment, or the id of one, such as "tiny/push" or "metaworld/pick-place@drop". A vector
            needs an id: an environment that is made already would be shared by all its places.
        cameras: whose images are observed; all when None, none for ``()``, which renders nothing and is fastest.
        success_ends: whether success terminates the episode, as it ends a rollout. Otherwise it goes on, up to the
            step limit, as a reward that is paid while the task stays solved needs it.
        render_mode: "rgb_array" or None.
        render_camera: what ``render`` shows; the first camera when None.
        options: what ``failwise.make_env`` takes for this id, such as ``image_size``.

    Attributes:
        environment: the environment inside, with its ``spec``, ``expert``, ``snapshot`` and ``restore``.

    Raises:
        UnknownNameError: no such suite, task, camera or render mode.
        SetupError: an option is not taken or out of its range, or nothing would be observed.
    """

    metadata: dict[str, Any] = {"render_modes": list(_RENDER_MODES), "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        environment: Environment | str,
        *,
        cameras: Sequence[str] | None = None,
        success_ends: bool = True,
        render_mode: str | None = None,
        render_camera: str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(environment, str):
            environment = make_env(environment, **options)
        elif options:
            raise SetupError(f"{environment.spec.env_id} is made already; it takes no option {next(iter(options))!r}")
        self.environment: Environment = environment
        task = environment.spec
        observed = tuple(task.cameras if cameras is None else cameras)
        for camera in (*observed, *([] if render_camera is None else [render_camera])):
            if camera not in task.cameras:
                raise UnknownNameError(f"{task.env_id} camera", camera, task.cameras)
        if render_mode is not None and render_mode not in _RENDER_MODES:
            raise UnknownNameError("render mode", render_mode, _RENDER_MODES)
        self.metadata = {"render_modes": list(_RENDER_MODES), "render_fps": task.control_hz}
        self.render_mode = render_mode
        self.action_space = spaces.Box(task.action_low, task.action_high, dtype=np.float32)
        parts: dict[str, spaces.Space[Any]] = {}
        if task.state_names:
            parts[STATE] = spaces.Box(-np.inf, np.inf, (len(task.state_names),), np.float32)
        for camera in observed:
            parts[image_key(camera)] = spaces.Box(0, 255, (*task.cameras[camera], 3), np.uint8)
        if not parts:
            raise SetupError(f"{task.env_id} has no proprioception, so at least one camera must be observed")
        self.observation_space = cast("spaces.Space[GymObservation]", spaces.Dict(parts))
        self._has_state = STATE in parts
        self._cameras = observed
        self._render_camera = render_camera or next(iter(task.cameras))
        self._success_ends = success_ends
        self._observation: Observation | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[GymObservation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of the layout; later resets without one draw the next layouts from it.
            options: ``{"instruction": str}`` replaces the wording.

        Returns:
            Observation and info.

        Raises:
            SetupError: the seed is negative, or the environment does not take the options.
        """
        observation, info = self.environment.reset(seed=seed, options=options)
        super().reset(seed=seed)
        return self._observed(observation), self._told(observation, info)

    def step(self, action: NDArray[Any]) -> tuple[GymObservation, float, bool, bool, dict[str, Any]]:
        """Apply one action (A,), clipped to the bounds.

        Args:
            action: in the environment's own units.

        Returns:
            Observation, reward, terminated, truncated (at the step limit) and info.

        Raises:
            EpisodeError: the action is not A finite numbers, or the simulation diverged.
        """
        observation, reward, terminated, truncated, info = self.environment.step(action)
        ended = terminated or (self._success_ends and bool(info["success"]))
        return self._observed(observation), reward, ended, truncated, self._told(observation, info)

    def render(self) -> NDArray[np.uint8] | None:
        """The image of this moment, uint8 (h, w, 3); None without a render mode.

        Raises:
            gymnasium.error.ResetNeeded: no episode was started yet.
        """
        if self.render_mode is None:
            gymnasium.logger.warn("render() shows nothing without a render mode; make it with render_mode='rgb_array'")
            return None
        if self._observation is None:
            raise gymnasium.error.ResetNeeded("render() needs an episode; call reset() first")
        return self._observation.images[self._render_camera].copy()

    def close(self) -> None:
        """Free the simulator and its renderer."""
        self.environment.close()

    def _observed(self, observation: Observation) -> GymObservation:
        self._observation = observation
        parts: GymObservation = {STATE: observation.state} if self._has_state else {}
        return parts | {image_key(camera): observation.images[camera] for camera in self._cameras}

    def _told(self, observation: Observation, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "is_success": bool(info["success"]), "instruction": observation.instruction}


def register_tasks() -> None:
    """Tell Gymnasium of ``failwise/Env`` and of each task of the suites that come with Failwise. Imports no simulator.

    Suites of other distributions are reached by ``failwise/Env``: asking them for their tasks would import them.
    """
    entries = entry_points(group=registry.GROUPS["env"])
    own = [entry.name for entry in entries if entry.dist is not None and entry.dist.name == NAMESPACE]
    tasks = [f"{suite}/{task}" for suite in sorted(set(own)) for task in list_tasks(suite)]
    arguments: dict[str, dict[str, Any]] = {ANY: {}, **{gym_id(task): {"environment": task} for task in tasks}}
    for name, keywords in arguments.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=f"{__name__}:{GymEnv.__name__}", kwargs=keywords)


register_tasks()
