"""Between an observation of this package and what a policy of LeRobot takes: names, pixels, history, units.

LeRobot's convention: pictures are float32 (B, 3, h, w) in [0, 1] under ``observation.images.NAME`` (or, for a single
one, ``observation.image``), proprioception is ``observation.state`` (B, S), the sentence is ``task``.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from failwise.errors import CheckpointError, DataError, SetupError
from failwise.types import Observation

RESIZING = ("resize_imgs_with_padding", "image_resolution", "resize_shape")  # options of policies that take any size
STATE, ACTION, TASK = "observation.state", "action", "task"


class Inputs:
    """Names, sizes and processors of one checkpoint.

    Args:
        config: LeRobot's configuration of the policy.
        before: LeRobot's pre-processor: batch to normalised batch. after: its post-processor: actions to units.
        cameras: LeRobot's key of a picture -> camera, where it is not the key's last part.

    Raises:
        SetupError: ``cameras`` names a key that the policy does not have.
        CheckpointError: the policy has no action feature.
    """

    def __init__(self, config: Any, before: Any, after: Any, cameras: Mapping[str, str]) -> None:
        self.config, self.before, self.after = config, before, after
        self.pictures: dict[str, tuple[int, ...]] = {k: tuple(f.shape) for k, f in config.image_features.items()}
        if unknown := set(cameras) - set(self.pictures):
            raise SetupError(
                f"this policy has no picture {sorted(unknown)[0]!r}, only {', '.join(self.pictures) or 'none'}"
            )
        self.cameras = {key: cameras.get(key, key.rsplit(".", 1)[-1]) for key in self.pictures}
        self.sizes = {self.cameras[key]: (shape[1], shape[2]) for key, shape in self.pictures.items()}
        self.resizes = any(getattr(config, name, None) for name in RESIZING)
        self._named = frozenset(cameras)
        self._spare = getattr(config, "empty_cameras", 0)
        if config.action_feature is None:
            raise CheckpointError("this checkpoint has no action feature; was it trained?")
        self.action_dim = int(config.action_feature.shape[0])
        state = config.robot_state_feature
        self.state_dim = int(state.shape[0]) if state is not None else 0
        self.history = int(getattr(config, "n_obs_steps", 1) or 1)
        self.execute = int(getattr(config, "n_action_steps", 1) or 1)
        self.past: deque[dict[str, Any]] = deque(maxlen=self.history)

    def twin(self) -> Inputs:
        """The same names and processors, with a past of its own."""
        other = copy.copy(self)
        other.past = deque(maxlen=self.history)
        return other

    def forget(self) -> None:
        """Begin an episode."""
        self.past.clear()

    def raw(self, observations: Sequence[Observation]) -> dict[str, Any]:
        """A batch in LeRobot's names, before its pre-processor.

        Raises:
            DataError: a camera is missing, a picture is not uint8 (h, w, 3), or the state has another width.
        """
        batch: dict[str, Any] = {TASK: [o.instruction for o in observations]}
        for key in self._seen(observations[0]):
            stack = np.stack([_picture(o.images[self._camera(key, o)], key) for o in observations])
            if not self.resizes and stack.shape[1:3] != self.pictures[key][1:]:
                raise DataError(
                    f"the picture for {key!r} has {stack.shape[1]}x{stack.shape[2]} pixels, but the policy was "
                    f"trained on {self.pictures[key][1]}x{self.pictures[key][2]}; set the environment's image_size"
                )
            pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous().type(torch.float32)
            pixels /= 255
            batch[key] = pixels
        if self.state_dim:
            states = np.stack([np.asarray(o.state, np.float32) for o in observations])
            if states.shape[1] != self.state_dim:
                raise DataError(
                    f"proprioception has {states.shape[1]} numbers, the policy takes {self.state_dim}: "
                    "this checkpoint is for another robot or another environment"
                )
            batch[STATE] = torch.from_numpy(states)
        return batch

    def ready(self, observations: Sequence[Observation]) -> dict[str, Any]:
        """What the policy itself takes: named, normalised, tokenised, on its device."""
        done: dict[str, Any] = self.before(self.raw(observations))
        return done

    def notice(self, observation: Observation) -> None:
        """Remember an observation that policies with a history look back on."""
        self.past.append(self.ready([observation]))

    def stacked(self, observations: Sequence[Observation]) -> dict[str, Any]:
        """Like ``ready`` with the last observations stacked, (B, history, ...), the first repeated at the start.

        The past is that of the running episode, so it is looked at for one observation; several are all first ones.
        """
        now = self.ready(observations)
        if len(observations) == 1:
            self.past.append(now)
            frames = list(self.past)
        else:
            frames = [now]
        frames = [frames[0]] * (self.history - len(frames)) + frames
        return {k: torch.stack([f[k] for f in frames], 1) for k, v in now.items() if isinstance(v, Tensor)}

    def units(self, actions: Tensor) -> NDArray[np.float32]:
        """Normalised actions (B, H, A) to the environment's units."""
        done = self.after(actions[..., : self.action_dim].float())
        return np.asarray(done.to("cpu", torch.float32).numpy(), np.float32)

    def _seen(self, observation: Observation) -> list[str]:
        """The policy's pictures that the environment has; those of spare cameras may be missing."""
        seen = [key for key in self.pictures if self._camera(key, observation) in observation.images]
        missing = [key for key in self.pictures if key not in seen]
        if self.pictures and (not seen or len(missing) > self._spare):
            raise DataError(
                f"the policy needs the picture {missing[0]!r}, but the cameras are "
                f"{', '.join(sorted(observation.images))}; name one of them: lerobot:FOLDER?{missing[0]}=CAMERA"
            )
        return seen

    def _camera(self, key: str, observation: Observation) -> str:
        """The camera of a picture: the named one, the one of the same name, or the only one for the only picture."""
        camera = self.cameras[key]
        alone = len(self.pictures) == 1 and len(observation.images) == 1 and key not in self._named
        return next(iter(observation.images)) if alone else camera


def _picture(pixels: NDArray[Any], key: str) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(
            f"the picture for {key!r} is {pixels.dtype} of shape {pixels.shape}; it must be uint8 (h, w, 3), 0 to 255"
        )
    return pixels
