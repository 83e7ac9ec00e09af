"""Which key of a message stands for what: openpi leaves the names of an observation to each policy.

A source is one of ``image:NAME`` (a camera), ``image:0`` (the first camera, and so on), ``state``, ``state:0:7`` (some
of its numbers) and ``instruction``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from failwise.errors import SetupError, WireError
from failwise.types import Observation

PRESETS: Mapping[str, Mapping[str, str]] = {
    "libero": {
        "observation/image": "image:0",
        "observation/wrist_image": "image:1",
        "observation/state": "state",
        "prompt": "instruction",
    },
    "droid": {
        "observation/exterior_image_1_left": "image:0",
        "observation/wrist_image_left": "image:1",
        "observation/joint_position": "state:0:7",
        "observation/gripper_position": "state:7:8",
        "prompt": "instruction",
    },
}
"""The names that openpi's examples for these robots use."""

OWN = "failwise/"
"""Keys of our own begin so; openpi's servers and clients have none."""
RESET, SEED, STEP, TASK, WANT, NOTICE = (OWN + name for name in ("reset", "seed", "step", "task", "want", "notice"))

LONGEST_INSTRUCTION = 2000


@dataclass(frozen=True)
class KeyMap:
    """Wire key -> source, see above.

    Attributes:
        sources: of all keys.
        unread: keys of what the policy does not take, see ``for_policy``.

    Raises:
        SetupError: a source is unknown, or two keys give the same camera or overlapping parts of the state.
    """

    sources: Mapping[str, str]
    unread: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        used: set[str] = set()
        for key, source in self.sources.items():
            if key.startswith(OWN) or not key:
                raise SetupError(f"the key {key!r} cannot stand for {source!r}: {OWN}* is reserved")
            kind, _, rest = source.partition(":")
            if kind not in ("image", "state", "instruction") or {"image": not rest, "instruction": rest}.get(kind):
                raise SetupError(
                    f"key {key!r} has the unknown source {source!r}; "
                    "choose image:NAME, image:0, state, state:0:7 or instruction"
                )
            if kind == "state" and rest:
                _part(source)
            if source in used:
                raise SetupError(f"two keys stand for {source!r}; give each one source")
            used.add(source)

    @classmethod
    def usual(cls, cameras: Sequence[str]) -> KeyMap:
        """One key a camera, ``observation/images/NAME``; ``observation/state``; ``prompt``."""
        images = {f"observation/images/{name}": f"image:{name}" for name in cameras}
        return cls({**images, "observation/state": "state", "prompt": "instruction"})

    @classmethod
    def parse(cls, text: str) -> KeyMap | None:
        """What a user writes: "" or "failwise" (the usual keys, so None), a preset's name, or a JSON file.

        Raises:
            SetupError: neither, or the file does not hold one map of key to source.
        """
        if text in ("", "failwise"):
            return None
        if text in PRESETS:
            return cls(PRESETS[text])
        path = Path(text)
        if not path.is_file():
            raise SetupError(
                f"keys {text!r}: neither a file nor one of failwise, {', '.join(PRESETS)}; "
                'a file holds {"key": "image:NAME", "key": "state", "key": "instruction"}'
            )
        try:
            sources = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SetupError(f"{path} is not valid JSON ({error})") from error
        return cls.of(sources, str(path))

    @classmethod
    def of(cls, sources: object, where: str) -> KeyMap:
        """From what was read from ``where``.

        Raises:
            SetupError: it is no map of text to text.
        """
        if not isinstance(sources, dict) or not all(isinstance(x, str) for pair in sources.items() for x in pair):
            raise SetupError(f"{where} must hold one map of key to source, both text")
        return cls(sources)

    def named(self, cameras: Sequence[str]) -> KeyMap:
        """With cameras by name where they stood by number.

        Raises:
            SetupError: there is no camera of that number.
        """
        named = {}
        for key, source in self.sources.items():
            kind, _, rest = source.partition(":")
            if kind == "image" and rest.isdigit() and key not in self.unread:
                if int(rest) >= len(cameras):
                    there = ", ".join(cameras) or "none"
                    raise SetupError(f"key {key!r} stands for camera number {rest}, counted from 0, of {there}")
                source = f"image:{cameras[int(rest)]}"
            named[key] = source
        return KeyMap(named, self.unread)

    def for_policy(self, cameras: Sequence[str], state_dim: int) -> KeyMap:
        """The same names for a policy that may be blind: what it has no use for need not come, and is not read.

        So any client can be tried against a policy without cameras, such as ``random:8``. A key that is not read is
        still checked where it comes: a client whose image is none should learn it from the trial.

        Args:
            cameras: names of the policy's cameras, in its order.
            state_dim: numbers of its state, 0 for none.

        Returns:
            Cameras by name, and as ``unread`` all images of a policy without cameras and the state of one without.

        Raises:
            SetupError: the policy has cameras, but none of some number.
        """
        unused = {"image"} if not cameras else set()
        if not state_dim:
            unused.add("state")
        unread = frozenset(key for key, source in self.sources.items() if source.partition(":")[0] in unused)
        return KeyMap(self.sources, unread).named(cameras)

    @property
    def read_sources(self) -> dict[str, str]:
        """Key -> source of those that are read."""
        return {key: source for key, source in self.sources.items() if key not in self.unread}

    def write(self, observation: Observation) -> dict[str, Any]:
        """The part of a message that tells an observation; only the cameras that have a key render.

        Raises:
            SetupError: a camera is not there, or the state is too short.
        """
        message: dict[str, Any] = {}
        for key, source in self.named(list(observation.images)).read_sources.items():
            kind, _, rest = source.partition(":")
            if kind == "image":
                if rest not in observation.images:
                    raise SetupError(
                        f"the server wants camera {rest!r} under {key!r}; there is {', '.join(observation.images)}"
                    )
                message[key] = np.ascontiguousarray(observation.images[rest])
            elif kind == "instruction":
                message[key] = observation.instruction
            else:
                part = _part(source) if rest else slice(None)
                numbers = np.asarray(observation.state, np.float32)[part]
                if rest and len(numbers) != part.stop - part.start:
                    raise SetupError(
                        f"key {key!r} is {source} of the state, which has {len(observation.state)} numbers"
                    )
                message[key] = numbers
        return message

    def read(self, message: Mapping[str, Any]) -> Observation:
        """The observation that a message tells; keys that stand for nothing are left alone.

        Raises:
            WireError: a key is missing, or holds something else than its source is.
        """
        if missing := [key for key in self.read_sources if key not in message]:
            found = ", ".join(sorted(key for key in message if not key.startswith(OWN))) or "nothing"
            raise WireError(f"the observation lacks {', '.join(map(repr, missing))}; it has {found}"[:600])
        images, parts, instruction = {}, [], ""
        for key, source in self.sources.items():
            kind, _, rest = source.partition(":")
            if key in self.unread:
                if key in message:
                    _check(key, message[key], source)
                continue
            value = message[key]
            if kind == "image":
                images[rest] = _image(key, value)
            elif kind == "instruction":
                instruction = _instruction(key, value)
            else:
                parts.append((_part(source) if rest else slice(0, None), _numbers(key, value, source)))
        parts.sort(key=lambda part: part[0].start)
        state = np.concatenate([numbers for _, numbers in parts]) if parts else np.zeros(0, np.float32)
        return Observation(images, state, instruction)


def _part(source: str) -> slice:
    """``state:0:7`` as a slice.

    Raises:
        SetupError: not two ascending numbers.
    """
    start, _, stop = source.removeprefix("state:").partition(":")
    if not (start.isdigit() and stop.isdigit() and int(start) < int(stop)):
        raise SetupError(f"{source!r} is no part of the state: state:START:STOP, counted from 0, STOP left out")
    return slice(int(start), int(stop))


def _check(key: str, value: Any, source: str) -> None:
    """Refuse what is neither an image nor numbers, as ``source`` has it.

    Raises:
        WireError: it is of another kind.
    """
    if source.startswith("image:"):
        _image(key, value)
    else:
        _numbers(key, value, source)


def _image(key: str, value: Any) -> NDArray[np.uint8]:
    """An image (h, w, 3) as it came.

    Raises:
        WireError: it is none.
    """
    fits = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3
    if not fits or value.shape[2] != 3 or 0 in value.shape:
        raise WireError(f"{key!r} must be an image, uint8 (height, width, 3), got {_said(value)}")
    image: NDArray[np.uint8] = value
    return image


def _instruction(key: str, value: Any) -> str:
    """The instruction as it came.

    Raises:
        WireError: it is no text, blank, or too long.
    """
    if not isinstance(value, str) or len(value) > LONGEST_INSTRUCTION:
        raise WireError(f"{key!r} must be text of at most {LONGEST_INSTRUCTION} characters, got {_said(value)}")
    if not value.strip():
        raise WireError(f"{key!r} is blank: it must tell the policy what to do")
    return value


def _numbers(key: str, value: Any, source: str) -> NDArray[np.float32]:
    """The numbers (n,) of ``source``, ``state`` or ``state:0:7``.

    Raises:
        WireError: they are no row of finite numbers, or too few or too many for their part of the state.
    """
    part = _part(source) if source != "state" else None
    width = part.stop - part.start if part else None
    try:
        numbers = np.asarray(value, np.float32) if not isinstance(value, str | bytes | dict) else None
    except (TypeError, ValueError):
        numbers = None
    if numbers is not None and numbers.ndim == 0 and width == 1:
        numbers = numbers.reshape(1)  # a gripper's opening is one number, which openpi's DROID policies take bare, too
    if numbers is None or numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise WireError(f"{key!r} must be one row of finite numbers, got {_said(value)}")
    if width is not None and len(numbers) != width:
        raise WireError(f"{key!r} must have {width} numbers ({source}), got {len(numbers)}")
    return numbers


def _said(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
