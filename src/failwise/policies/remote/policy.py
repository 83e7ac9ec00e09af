"""A policy server as a ``Policy``: observations go out under the server's names, chunks come back."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.errors import CheckpointError, EpisodeError, SetupError, UnreachableError
from failwise.policies.remote.address import PREFIX, Address
from failwise.policies.remote.link import Link
from failwise.types import ActionChunk, EnvSpec, Observation, PolicySpec
from failwise.wire.keys import NOTICE, RESET, SEED, STEP, WANT, KeyMap

EXECUTE = 8
"""Actions of a chunk that are executed where neither the server nor the user says how many."""


class RemotePolicy:
    """A policy behind openpi's protocol, be its server Failwise's or openpi's own.

    A server of Failwise says what it takes and gives, is told when an episode begins and with which seed, and gives
    features and verdicts. Of another server only actions are known.

    Args:
        address: ``ws://HOST:PORT`` with options, see ``Address``.

    Raises:
        SetupError: not an address. UnreachableError: no such server answers.
    """

    def __init__(self, address: str) -> None:
        self.address = Address.parse(address)
        self._link = Link(self.address)
        weakref.finalize(self, self._link.close)  # the connection has a thread of its own, which would keep it
        try:
            self._link.connect()
        except EpisodeError as error:
            raise UnreachableError(str(error)) from error
        self._about = self._said()
        self.checkpoint_sha256 = str(self._about.get("checkpoint_sha256", ""))
        try:
            self._keys = self.address.keys or (KeyMap.of(self._about["keys"], "metadata") if self._about else None)
            self.spec = self._spec()
        except (KeyError, TypeError, ValueError) as error:
            raise SetupError(f"the server at {self.address.url} describes its policy badly ({error!r})") from error
        self.reset(0)

    @classmethod
    def load(cls, address: str | Path) -> RemotePolicy:
        """The policy at an address, or in a folder whose config.json is {"kind": "openpi", "address": ...}.

        Raises:
            SetupError: not an address, or no such server answers. CheckpointError: the folder names no address.
        """
        if isinstance(address, str):
            return cls(address)
        path = address / "config.json"
        try:
            return cls(str(json.loads(path.read_text(encoding="utf-8"))["address"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} must name an address: {{'kind': 'openpi', 'address': ...}}") from error

    def _said(self) -> Mapping[str, Any]:
        """What a server of Failwise says of its policy; {} of another server."""
        about = self._link.metadata.get("failwise", {})
        if not isinstance(about, dict) or about.get("protocol", 1) != 1:
            raise SetupError(f"the server at {self.address.url} speaks another version of Failwise's protocol")
        return about

    def _spec(self) -> PolicySpec:
        about, columns = self._about, self.address.actions
        width = columns.stop - columns.start if columns else int(about.get("action_dim", 0))
        execute = self.address.execute or int(about.get("execute", EXECUTE))
        return PolicySpec(
            kind="openpi",
            horizon=max(execute, int(about.get("horizon", execute))),
            execute=execute,
            action_dim=width,
            state_dim=int(about.get("state_dim", 0)),
            cameras={str(name): (int(size[0]), int(size[1])) for name, size in about.get("cameras", {}).items()},
            feature_dim=int(about.get("feature_dim", 0)),
            history=int(about.get("history", 1)),
            resizes_images=bool(about.get("resizes_images", False)),
        )

    def reset(self, seed: int) -> None:
        """Begin an episode; the server is told with the first question."""
        self._seed, self._inference = seed, 0

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk (H, A) per observation, in turn.

        Raises:
            EpisodeError: the server is gone, refused, or gave something else than finite actions.
            SetupError: the server wants a camera that the environment lacks.
        """
        return [self._one(observation) for observation in observations]

    def notice(self, observation: Observation) -> None:
        """Show the policy an observation at which it is not asked to act, if its server says that it looks back.

        Raises:
            EpisodeError: the server is gone, or refused.
        """
        self._ask(self._message(observation) | {NOTICE: True})

    def _message(self, observation: Observation) -> dict[str, Any]:
        keys = self._keys or KeyMap.usual(list(observation.images))
        message = keys.write(observation)
        if self.address.resize:
            message = {key: _resized(value, self.address.resize) for key, value in message.items()}
        return message

    def _one(self, observation: Observation) -> ActionChunk:
        message = self._message(observation)
        if self._about:
            message[STEP] = self._inference * self.spec.execute
            message[WANT] = ["features"] if self.spec.feature_dim else []
            if self._inference == 0:
                message |= {RESET: True, SEED: self._seed}
        chunk = self._chunk(self._ask(message))
        self._inference += 1
        return chunk

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The reply. A connection that was lost between two episodes is opened again; in an episode it is its end."""
        try:
            return self._link.ask(message)
        except ConnectionError as error:
            lost = EpisodeError(f"the policy server at {self.address.url} went away at inference {self._inference}")
            if self._inference:
                raise lost from error
        self._link.connect()
        if self._link.metadata.get("failwise", {}) != self._about:
            self._link.close()
            raise EpisodeError(f"the server at {self.address.url} now serves another policy than when this run began")
        try:
            return self._link.ask(message)
        except ConnectionError as error:
            raise lost from error

    def _chunk(self, reply: Mapping[str, Any]) -> ActionChunk:
        where = f"the policy server at {self.address.url}"
        actions = reply.get("actions")
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind != "f" or not len(actions):
            got = f"{actions.dtype} {actions.shape}" if isinstance(actions, np.ndarray) else type(actions).__name__
            raise EpisodeError(f"{where} must send 'actions' as floats (H, A), got {got}")
        columns = self.address.actions
        if columns is not None:
            if actions.shape[1] < columns.stop:
                wanted = f"actions={columns.start}:{columns.stop}"
                raise EpisodeError(f"{where} sends {actions.shape[1]} numbers an action, which has no {wanted}")
            actions = actions[:, columns]
        said = reply.get("failwise", {})
        said = said if isinstance(said, dict) else {}
        features = said.get("features")
        if features is not None and getattr(features, "shape", None) != (self.spec.feature_dim,):
            raise EpisodeError(f"{where} sends features of another width than {self.spec.feature_dim}")
        return ActionChunk(
            np.array(actions, np.float32),
            features=None if features is None else np.array(features, np.float32),
            info=_scalars(said),
        )

    def probe(self, env: EnvSpec) -> None:
        """Ask once with a blank observation, before any episode, whether environment and server fit each other.

        Raises:
            SetupError: a key, a camera or the state does not fit, or the actions have another width.
        """
        images = {name: np.zeros((*size, 3), np.uint8) for name, size in env.cameras.items()}
        blank = Observation(images, np.zeros(len(env.state_names), np.float32), env.instruction)
        self.reset(0)
        try:
            width = self.infer([blank])[0].actions.shape[1]
        except EpisodeError as error:
            raise SetupError(f"{env.env_id} and {PREFIX}{self.address.url} do not fit: {error}") from error
        self.reset(0)
        if width != len(env.action_low):
            raise SetupError(
                f"the policy server at {self.address.url} sends actions of {width} numbers, {env.env_id} takes "
                f"{len(env.action_low)}; choose some of them with ?actions=START:STOP, or another server"
            )


def _scalars(said: Mapping[str, Any]) -> dict[str, float]:
    """What a server of Failwise reports with a chunk, as numbers: the steering's own, and its monitor's verdict."""
    info = said.get("info", {})
    found = dict(info) if isinstance(info, dict) else {}
    found |= {f"server_{name}": said[name] for name in ("score", "band", "alarm") if name in said}
    return {
        str(name): float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _resized(value: Any, pixels: int) -> Any:
    """An image scaled to fit into a square and padded with black; anything else as it is."""
    if not isinstance(value, np.ndarray) or value.ndim != 3:
        return value
    from PIL import Image, ImageOps

    square = ImageOps.pad(Image.fromarray(value), (pixels, pixels), Image.Resampling.BILINEAR, color=0)
    resized: NDArray[np.uint8] = np.asarray(square)
    return resized
