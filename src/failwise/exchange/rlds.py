"""Episodes of an RLDS dataset as TensorFlow Datasets keeps them, read without TensorFlow.

One record is one episode. A leaf of the nested structure is one list under its path, the steps one after the other:
``steps/action`` holds T times A floats, ``steps/observation/image`` T encoded pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from failwise.errors import DataError, SetupError
from failwise.exchange.encoded_pictures import decode_picture
from failwise.exchange.foreign import (
    MOST_STEPS,
    ForeignOptions,
    Found,
    Recording,
    joined,
    per_step_label,
    require_sound,
    split_keys,
)
from failwise.exchange.foreign_import import import_foreign
from failwise.exchange.lerobot_import import Imported, slug
from failwise.exchange.rlds_features import INFO, Feature, Shard, features_of, locate, read_json, shards_of
from failwise.exchange.tf_example import Example
from failwise.exchange.tfrecord import Record, records

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.types import ImageHW3

USUAL_HZ = 10.0
"""RLDS has no place for a rate; robots in Open X-Embodiment were recorded at 3 to 20 steps a second."""
REWARD = "steps/reward"
SUCCESS = ("episode_metadata/success", "steps/success", "success")
INSTRUCTION = (
    "steps/language_instruction",
    "steps/observation/natural_language_instruction",
    "steps/natural_language_instruction",
    "episode_metadata/language_instruction",
    "language_instruction",
)
STATE = ("steps/observation/state", "steps/observation/proprio")
ACTION = "steps/action"
_SEEN = "steps/observation/"


@dataclass(frozen=True)
class RldsOptions(ForeignOptions):
    """What ``import_rlds`` takes besides where from and where to."""

    split: str = ""
    """Only these splits (train,val); empty: all."""
    partial: bool = False
    """Take the files that are there, where others of the dataset are missing."""


class RldsDataset:
    """The episodes of a dataset, numbered in the order of its splits and files, be they there or not."""

    suite = "rlds"

    def __init__(self, folder: Path, options: RldsOptions) -> None:
        self.folder, self._options = locate(folder), options
        info = read_json(self.folder / INFO)
        self._features = features_of(self.folder)
        self._shards = self._chosen(shards_of(self.folder, info))
        self.name = str(info.get("name") or self.folder.resolve().name)
        self.control_hz = options.control_hz or USUAL_HZ
        self.notes = (
            []
            if options.control_hz
            else [f"RLDS has no rate: {USUAL_HZ:g} steps a second were taken (see --control-hz)"]
        )
        images = {name: f for name, f in self._features.items() if f.kind == "image" and name.startswith(_SEEN)}
        self._cameras = {
            _camera(name): name for name, f in images.items() if f.shape[2:] == (3,) and f.dtype == "uint8"
        }
        self.left_out = [_camera(name) for name in images if name not in self._cameras.values()]
        self._success = self._label()
        self.keys = {"state_keys": self._states(), "action_keys": self._actions()}

    def __len__(self) -> int:
        return sum(shard.length for shard in self._shards)

    def __iter__(self) -> Iterator[Found]:
        for shard in self._shards:
            found = records(shard.path)
            count = 0
            for count, record in enumerate(islice(found, shard.length), start=1):
                number = shard.first + count - 1
                yield Found(
                    number, record.where, f"{number}:{record.length}:{record.crc:08x}", partial(self._read, record)
                )
            if count < shard.length or next(found, None) is not None:
                more = "fewer" if count < shard.length else "more"
                raise DataError(f"{shard.path} has {more} records than {INFO} says, which are {shard.length}")

    def _read(self, record: Record) -> Recording:
        example, where = Example(record.read(), record.where), record.where
        first = self._vectors(example, self.keys["action_keys"][0], None)
        steps = len(first)
        if not 0 < steps <= MOST_STEPS:
            raise DataError(f"{where}: {self.keys['action_keys'][0]} has {steps} steps, expected 1 to {MOST_STEPS}")
        actions = {key: self._vectors(example, key, steps) for key in self.keys["action_keys"]}
        states = {key: self._vectors(example, key, steps) for key in self.keys["state_keys"]}
        rewards = None
        if (feature := self._features.get(REWARD)) and feature.width == 1:
            rewards = self._vectors(example, REWARD, steps).reshape(-1).astype(np.float64)
        held = None
        if self._success:
            held = per_step_label(where, self._success, example.numbers(self._success), steps)
        shown = {}
        for camera, key in self._cameras.items():
            content = example.texts(key)
            if len(content) != steps:
                raise DataError(f"{where}: {key} has {len(content)} pictures, expected {steps}, as many as actions")
            shown[camera] = partial(_pictures, content, self._features[key], f"{where}: {key}")
        words = self._words(example)
        return Recording(
            joined(where, actions, steps), joined(where, states, steps), rewards, held,
            slug(words) if words else self.name, words, shown,
        )  # fmt: skip

    def _vectors(self, example: Example, key: str, steps: int | None) -> NDArray[Any]:
        """A feature of all steps, (T, n)."""
        values, width = example.numbers(key), self._features[key].width
        if not width or (steps is not None and len(values) != steps * width) or len(values) % width:
            expected = f"{'T' if steps is None else steps} x {width}"
            raise DataError(f"{example.where}: {key} has {len(values)} numbers, expected {expected}")
        return values.reshape(-1, width)

    def _words(self, example: Example) -> str:
        """What the robot was told at the first step."""
        for key in INSTRUCTION:
            if key in self._features and key in example and (texts := example.texts(key)):
                try:
                    return " ".join(bytes(texts[0]).decode().split())[:1000]
                except UnicodeDecodeError as error:
                    raise DataError(f"{example.where}: {key} is no text") from error
        return ""

    def _chosen(self, shards: list[Shard]) -> list[Shard]:
        splits = {shard.split for shard in shards}
        wanted = set(split_keys(self._options.split)) or splits
        if unknown := wanted - splits:
            raise SetupError(f"no split {', '.join(sorted(unknown))} (--split); known: {', '.join(sorted(splits))}")
        chosen = [shard for shard in shards if shard.split in wanted and shard.length]
        there = [shard for shard in chosen if shard.path.is_file()]
        if not there or (len(there) < len(chosen) and not self._options.partial):
            missing = next((shard.path.name for shard in chosen if shard not in there), "every file")
            raise DataError(
                f"{self.folder}: {missing} is missing; {len(there)} of {len(chosen)} files are there"
                + (", which --partial takes" if there else "")
            )
        return there

    def _label(self) -> str:
        """The success label, or "". Refuses, before anything is read, a dataset in which nothing can tell."""
        if self._options.success_key:
            return self._resolve(self._options.success_key, "--success-key")
        for key in SUCCESS:
            if key in self._features and self._features[key].width == 1:
                return key
        if REWARD not in self._features and not self._options.outcome:
            raise DataError(
                f"{self.folder} does not say which episodes succeeded: no {SUCCESS[0]}, no {REWARD}; say it with "
                "--outcome success or --outcome failure, or name a label with --success-key"
            )
        return ""

    def _states(self) -> tuple[str, ...]:
        if self._options.state == "none":
            return ()
        if self._options.state:
            return tuple(self._resolve(key, "--state") for key in split_keys(self._options.state))
        for key in STATE:
            if key in self._features and self._features[key].width:
                return (key,)
        vectors = [name.removeprefix(_SEEN) for name, f in self._features.items() if name.startswith(_SEEN) and f.width]
        raise DataError(
            f"{self.folder} has no {STATE[0]}; name what becomes proprioception with --state KEY,KEY or --state none; "
            f"there are {', '.join(vectors) or 'no vectors'}"
        )

    def _actions(self) -> tuple[str, ...]:
        if self._options.action:
            return tuple(self._resolve(key, "--action") for key in split_keys(self._options.action))
        if ACTION in self._features and self._features[ACTION].width:
            return (ACTION,)
        parts = [
            n.removeprefix(ACTION + "/") for n, f in self._features.items() if n.startswith(ACTION + "/") and f.width
        ]
        raise DataError(
            f"{self.folder} has no vector {ACTION}; name what becomes the action with --action KEY,KEY; "
            f"there are {', '.join(parts) or 'none'}"
        )

    def _resolve(self, key: str, option: str) -> str:
        """The full path of a vector that was named by its end."""
        for path in (key, f"steps/{key}", f"{_SEEN}{key}", f"{ACTION}/{key}", f"episode_metadata/{key}"):
            if path in self._features and self._features[path].width:
                return path
        known = ", ".join(name for name, feature in self._features.items() if feature.width)
        raise SetupError(f"{self.folder} has no vector or number {key!r} ({option}); known: {known or 'none'}")


def import_rlds(
    folder: Path,
    out: Path,
    options: RldsOptions | None = None,
    progress: Callable[[Iterable[Found]], Iterable[Found]] = iter,
) -> Imported:
    """Write the episodes of an RLDS dataset into a store. May be stopped and run again.

    Args:
        folder: the dataset, or the folder above its only version.
        out: the store; made where it is missing.
        options: see there.
        progress: wraps the episodes.

    Raises:
        MissingDependencyError: google-crc32c is not installed.
        SetupError: no dataset there, or not with what was asked for.
        DataError: it is damaged, or an episode does not say how it ended. Those before it are kept.
        StoreError: the store cannot be written.
    """
    asked = options or RldsOptions()
    require_sound(asked)
    return import_foreign(RldsDataset(folder, asked), out, asked, progress)


def _pictures(content: list[memoryview], feature: Feature, where: str, rows: NDArray[np.int64]) -> Iterator[ImageHW3]:
    for row in rows.tolist():
        yield decode_picture(content[row], feature.shape, f"{where}, step {row}")


def _camera(name: str) -> str:
    return name.removeprefix(_SEEN).replace("/", ".")
