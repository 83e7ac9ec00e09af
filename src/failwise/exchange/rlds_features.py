"""What an RLDS dataset says of itself: ``dataset_info.json`` and ``features.json`` of TensorFlow Datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from failwise.errors import DataError, SetupError
from failwise.store.naming import is_plain

INFO, FEATURES = "dataset_info.json", "features.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_LONGEST_JSON = 16 << 20
_MOST_EPISODES = 10**9
_DEEPEST = 20


@dataclass(frozen=True)
class Feature:
    """One leaf of the structure.

    Attributes:
        kind: what it is; ``other`` is nothing that is read here.
        shape: of one step, without the time axis; None where it may vary.
        dtype: NumPy's name for it.
    """

    kind: Literal["tensor", "image", "text", "other"]
    shape: tuple[int | None, ...] = ()
    dtype: str = ""

    @property
    def width(self) -> int | None:
        """Numbers a step of a vector or scalar; None for anything else."""
        if self.kind != "tensor" or len(self.shape) > 1 or self.dtype in ("string", "object"):
            return None
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True)
class Shard:
    """One file of a split, with the number of its first episode in the whole dataset."""

    path: Path
    split: str
    first: int
    length: int


def locate(folder: Path) -> Path:
    """The folder that holds the dataset: this one, or the only version below it.

    Raises:
        SetupError: none, or several.
    """
    if (folder / INFO).is_file():
        return folder
    if not folder.is_dir():
        raise SetupError(f"--rlds {folder} is no folder; name the one with {INFO}")
    below = sorted(path.parent for path in folder.glob(f"*/{INFO}"))
    if len(below) != 1:
        found = ", ".join(path.name for path in below) or "none below it either"
        raise SetupError(f"--rlds {folder} has no {INFO}; name the folder of one version ({found})")
    return below[0]


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        SetupError: it is not there.
        DataError: it is damaged.
    """
    try:
        if path.stat().st_size > _LONGEST_JSON:
            raise DataError(f"{path} has more than {_LONGEST_JSON} bytes")
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise SetupError(f"{path.parent} is no RLDS dataset: {path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {str(error)[:160]}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no JSON object")
    return found


def features_of(folder: Path) -> dict[str, Feature]:
    """Path in the nested structure ("steps/observation/image") -> what is there.

    Raises:
        SetupError: ``features.json`` is missing.
        DataError: it is not of the form that TensorFlow Datasets writes today, or has no steps.
    """
    path = folder / FEATURES
    try:
        found = dict(_leaves(read_json(path), "", 0))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged or of an older form: {type(error).__name__} {error}") from error
    if not any(name.startswith("steps/") for name in found):
        raise DataError(f"{path} names no steps, so this is no RLDS dataset")
    return found


def _leaves(node: Any, path: str, depth: int) -> Iterator[tuple[str, Feature]]:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if "featuresDict" in node:
        for name, child in node["featuresDict"]["features"].items():
            yield from _leaves(child, f"{path}/{name}" if path else name, depth + 1)
    elif (nested := node.get("sequence") or node.get("dataset")) and path == "steps":
        yield from _leaves(nested["feature"], path, depth + 1)
    elif "tensor" in node and node["tensor"].get("encoding") in (None, "", "none"):
        yield path, Feature("tensor", _shape(node["tensor"]), str(node["tensor"]["dtype"]))
    elif "image" in node:
        yield path, Feature("image", _shape(node["image"]), str(node["image"].get("dtype") or "uint8"))
    elif "text" in node:
        yield path, Feature("text")
    elif "classLabel" in node:
        yield path, Feature("tensor", (), "int64")
    elif path and isinstance(node, dict):
        yield path, Feature("other")  # a tensor in bytes, a video, a list in a step, ...: what no episode of ours has
    else:
        raise ValueError("no featuresDict at its root")


def _shape(node: Mapping[str, Any]) -> tuple[int | None, ...]:
    sizes = [int(size) for size in node.get("shape", {}).get("dimensions", [])]
    return tuple(size if size >= 0 else None for size in sizes)


def shards_of(folder: Path, info: Mapping[str, Any]) -> list[Shard]:
    """The files of all splits, whether they are there or not.

    Raises:
        DataError: ``dataset_info.json`` does not say what the files are called and hold.
    """
    where, first, shards = folder / INFO, 0, []
    if str(info.get("fileFormat") or "tfrecord") != "tfrecord":
        raise DataError(f"{where}: files are {info['fileFormat']}, only tfrecord is read")
    try:
        name = str(info["name"])
        for split in info["splits"]:
            lengths = [int(length) for length in split["shardLengths"]]
            template = str(split.get("filepathTemplate") or _TEMPLATE)
            for index, length in enumerate(lengths):
                file = _file_name(template, name, str(split["name"]), index, len(lengths))
                if not is_plain(file) or not 0 <= length <= _MOST_EPISODES - first:
                    raise ValueError(f"{file!r} of {length} episodes")
                shards.append(Shard(folder / file, str(split["name"]), first, length))
                first += length
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} is damaged: {type(error).__name__} {error}") from error
    if not first:
        raise DataError(f"{where} names no episode")
    return shards


def _file_name(template: str, dataset: str, split: str, index: int, count: int) -> str:
    values = {
        "DATASET": dataset, "SPLIT": split, "FILEFORMAT": "tfrecord", "SHARD_INDEX": f"{index:05d}",
        "NUM_SHARDS": f"{count:05d}", "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}",
    }  # fmt: skip
    for key, value in values.items():
        template = template.replace("{" + key + "}", value)
    return template
