"""``--env.type=failwise``: an environment of Failwise, as ``lerobot-train`` and ``lerobot-eval`` take it.

The observation is LeRobot's: ``pixels`` {camera: uint8 (h, w, 3)} and ``agent_pos`` float (S,). Episodes, seeds and
success are those of ``failwise evaluate``: seed for seed the same layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from failwise.envs import make_env
from failwise.protocols import Environment
from failwise.types import Observation


@EnvConfig.register_subclass("failwise")
@dataclass
class FailwiseEnvConfig(EnvConfig):
    """An environment of Failwise.

    Attributes:
        task: its id, such as "metaworld/pick-place" or "tiny/reach".
        cameras: which of its cameras the policy sees, joined by commas; empty for all.
        image_size: pixels a side; 0 for the environment's own.
    """

    task: str | None = "tiny/reach"
    cameras: str = ""
    image_size: int = 0
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        env = self._make()
        spec = env.spec
        env.close()
        self.fps = round(spec.control_hz)
        self.features = {"action": PolicyFeature(FeatureType.ACTION, (len(spec.action_low),))}
        self.features_map = {"action": "action"}
        if spec.state_names:
            self.features["agent_pos"] = PolicyFeature(FeatureType.STATE, (len(spec.state_names),))
            self.features_map["agent_pos"] = "observation.state"
        for camera in self._cameras(spec.cameras):
            self.features[f"pixels/{camera}"] = PolicyFeature(FeatureType.VISUAL, (*spec.cameras[camera], 3))
            self.features_map[f"pixels/{camera}"] = f"observation.images.{camera}"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Nothing: ``create_envs`` makes them."""
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """{"failwise": {0: a vector of n environments}}."""
        made = [lambda: FailwiseGym(self._make(), self._cameras) for _ in range(n_envs)]
        mode = gym.vector.AutoresetMode.SAME_STEP
        if use_async_envs and n_envs > 1:
            return {"failwise": {0: gym.vector.AsyncVectorEnv(made, context="forkserver", autoreset_mode=mode)}}
        return {"failwise": {0: gym.vector.SyncVectorEnv(made, autoreset_mode=mode)}}

    def _make(self) -> Environment:
        return make_env(str(self.task), **({"image_size": self.image_size} if self.image_size else {}))

    def _cameras(self, known: Mapping[str, Any]) -> list[str]:
        asked = [name.strip() for name in self.cameras.split(",") if name.strip()]
        if unknown := [name for name in asked if name not in known]:
            raise ValueError(f"--env.cameras: {self.task} has no camera {unknown[0]!r}, only {', '.join(known)}")
        return asked or list(known)


class FailwiseGym(gym.Env[dict[str, Any], np.ndarray[Any, Any]]):
    """An environment of Failwise as Gymnasium's vectors and LeRobot take it.

    Args:
        env: the environment. cameras: which of its cameras are shown, of all that it has.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, env: Environment, cameras: Any) -> None:
        self.env, spec = env, env.spec
        self.cameras: list[str] = cameras(spec.cameras)
        self.metadata = {**self.metadata, "render_fps": round(spec.control_hz)}
        self.action_space = gym.spaces.Box(spec.action_low, spec.action_high, dtype=np.float32)
        pictures = {c: gym.spaces.Box(0, 255, (*spec.cameras[c], 3), np.uint8) for c in self.cameras}
        spaces: dict[str, gym.Space[Any]] = {"pixels": gym.spaces.Dict(pictures)}
        if spec.state_names:
            spaces["agent_pos"] = gym.spaces.Box(-np.inf, np.inf, (len(spec.state_names),), np.float32)
        self.observation_space = gym.spaces.Dict(spaces)
        self.task = spec.env_id
        self.task_description = spec.instruction
        self._max_episode_steps = spec.step_limit
        self._seen: Observation | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; LeRobot's own options are not the environment's."""
        super().reset(seed=seed)
        observation, _ = self.env.reset(seed=seed)
        return self._shown(observation), {"is_success": False}

    def step(self, action: np.ndarray[Any, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step; success ends the episode."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        success = bool(info["success"])
        return self._shown(observation), float(reward), terminated or success, truncated, {"is_success": success}

    def render(self) -> Any:
        """The first camera's picture, uint8 (h, w, 3)."""
        assert self._seen is not None, "reset() comes first"
        return np.asarray(self._seen.images[self.cameras[0]])

    def close(self) -> None:
        """Free the simulator."""
        self.env.close()

    def _shown(self, observation: Observation) -> dict[str, Any]:
        self._seen = observation
        shown: dict[str, Any] = {"pixels": {c: np.asarray(observation.images[c]) for c in self.cameras}}
        if self.env.spec.state_names:
            shown["agent_pos"] = np.asarray(observation.state, np.float32)
        return shown
