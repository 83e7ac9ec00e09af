"""Files as other tools write them: HDF5 by h5py, TFRecords by a writer that shares no line with the reader."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STEPS = 7
SIZE = (12, 16)


def picture(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, kind)
    return sink.getvalue()


def reward_at_end(steps: int = STEPS) -> np.ndarray:
    return np.eye(1, steps, steps - 1)[0]


def demo(seed: int, steps: int = STEPS, **changes: Any) -> dict[str, Any]:
    """What is in a robomimic demonstration; a change of None takes a key away."""
    noise = np.random.default_rng(seed)
    parts = {
        "actions": noise.normal(size=(steps, 7)),
        "rewards": reward_at_end(steps),
        "dones": reward_at_end(steps).astype(int),
        "states": noise.normal(size=(steps, 32)),
        "obs/agentview_image": np.stack([picture(seed, step, 0) for step in range(steps)]),
        "obs/robot0_eye_in_hand_image": np.stack([picture(seed, step, 1) for step in range(steps)]),
        "obs/agentview_depth": np.zeros((steps, *SIZE, 1), np.float32),
        "obs/robot0_eef_pos": noise.normal(size=(steps, 3)),
        "obs/robot0_eef_quat": noise.normal(size=(steps, 4)),
        "obs/robot0_gripper_qpos": noise.normal(size=(steps, 2)),
        "obs/object": noise.normal(size=(steps, 10)),
    }
    return {key: value for key, value in (parts | changes).items() if value is not None}


ENV_ARGS = {"env_name": "PickPlaceCan", "type": 1, "env_kwargs": {"control_freq": 25, "camera_heights": SIZE[0]}}


def write_robomimic(path: Path, demos: Mapping[str, Mapping[str, Any]], attrs: Mapping[str, Any] | None = None) -> Path:
    """A file of robomimic's form; ``attrs`` are those of its ``data``."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for name, value in ({"env_args": json.dumps(ENV_ARGS)} if attrs is None else attrs).items():
            data.attrs[name] = value
        for name, parts in demos.items():
            group = data.create_group(name)
            for key, value in parts.items():
                group.create_dataset(key, data=value, compression="gzip" if np.ndim(value) == 4 else None)
            if "actions" in parts:
                group.attrs["num_samples"] = np.size(parts["actions"], 0) if np.ndim(parts["actions"]) else 1
    return path


def crc32c(content: bytes) -> int:
    """Bit by bit, by the definition: polynomial 0x1EDC6F41, reflected."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)


def frame(content: bytes) -> bytes:
    head = struct.pack("<Q", len(content))
    return head + masked(head) + content + masked(content)


def varint(number: int) -> bytes:
    number %= 2**64
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: Mapping[str, Any]) -> bytes:
    """A serialised ``tf.train.Example``: bytes as they are, bools and integers as int64, floats as float32."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            feature = message(1, b"".join(message(1, value) for value in values))
        elif values.dtype.kind == "f":
            feature = message(2, message(1, values.astype("<f4").tobytes()))
        else:
            feature = message(3, message(1, b"".join(varint(int(value)) for value in values.reshape(-1))))
        entries += message(1, message(1, name.encode()) + message(2, feature))
    return message(1, entries)


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {
        "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
        "tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"},
    }


def image(channels: int = 3, dtype: str = "uint8", encoding: str = "png") -> dict[str, Any]:
    shape = {"dimensions": [*map(str, SIZE), str(channels)]}
    return {
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
        "image": {"shape": shape, "dtype": dtype, "encodingFormat": encoding},
    }


def features_dict(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": dict(parts)},
    }


TEXT = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}


def features_json(steps: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``features.json`` of the example of rlds_dataset_builder, with what changes in its steps (None: not there)."""
    observation = {"image": image(), "wrist_image": image(encoding="jpeg"), "depth": image(1, "uint16")}
    parts = {
        "observation": features_dict(observation | {"state": tensor("float32", 5)}),
        "action": tensor("float32", 4), "discount": tensor("float32"), "reward": tensor("float32"),
        "is_first": tensor("bool"), "is_last": tensor("bool"), "is_terminal": tensor("bool"),
        "language_instruction": TEXT, "language_embedding": tensor("float32", 8),
    } | dict(steps or {})  # fmt: skip
    inner = features_dict({name: part for name, part in parts.items() if part is not None})
    python = "tensorflow_datasets.core.features.dataset_feature.Dataset"
    nested = {"pythonClassName": python, "sequence": {"feature": inner, "length": "-1"}}
    return features_dict(
        {"steps": nested, "episode_metadata": features_dict({"file_path": TEXT} | dict(metadata or {}))}
    )


def episode(seed: int, steps: int = STEPS, words: str = "Pick up the mug.", **changes: Any) -> dict[str, Any]:
    """The lists of one record; keys of ``changes`` may have __ for /, and None takes one away."""
    noise = np.random.default_rng(seed)
    ends = reward_at_end(steps)
    parts: dict[str, Any] = {
        "episode_metadata/file_path": [f"episode_{seed}.npy".encode()],
        "steps/action": noise.normal(size=(steps, 4)).astype(np.float32),
        "steps/discount": np.ones(steps, np.float32),
        "steps/is_first": np.eye(1, steps)[0].astype(int),
        "steps/is_last": ends.astype(int),
        "steps/is_terminal": ends.astype(int),
        "steps/language_embedding": np.zeros((steps, 8), np.float32),
        "steps/language_instruction": [words.encode()] * steps,
        "steps/observation/depth": [encoded(np.zeros(SIZE, np.uint16))] * steps,
        "steps/observation/image": [encoded(picture(seed, step, 0)) for step in range(steps)],
        "steps/observation/state": noise.normal(size=(steps, 5)).astype(np.float32),
        "steps/observation/wrist_image": [encoded(picture(seed, step, 1), "JPEG") for step in range(steps)],
        "steps/reward": ends.astype(np.float32),
    }
    parts |= {key.replace("__", "/"): value for key, value in changes.items()}
    return {key: value for key, value in parts.items() if value is not None}


def write_rlds(
    folder: Path, splits: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], features: Mapping[str, Any] | None = None
) -> Path:
    """A dataset called mugs: split -> files -> records."""
    folder.mkdir(parents=True)
    about = []
    for split, shards in splits.items():
        for index, records in enumerate(shards):
            name = f"mugs-{split}.tfrecord-{index:05d}-of-{len(shards):05d}"
            (folder / name).write_bytes(b"".join(frame(example(record)) for record in records))
        about.append(
            {
                "name": split, "shardLengths": [str(len(records)) for records in shards], "numBytes": "0",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )  # fmt: skip
    info = {"name": "mugs", "version": "1.0.0", "fileFormat": "tfrecord", "splits": about}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(features or features_json()))
    return folder
