"""Demonstrations in an HDF5 file of robomimic's form, which LIBERO, MimicGen and RoboCasa use too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from failwise.errors import DataError, SetupError
from failwise.exchange.foreign import (
    MOST_STEPS,
    ForeignOptions,
    Found,
    Recording,
    joined,
    per_step_label,
    require_sound,
    split_keys,
    successes,
)
from failwise.exchange.foreign_import import import_foreign
from failwise.exchange.hdf5 import HDF5File, pictures
from failwise.exchange.lerobot_import import Imported, slug

if TYPE_CHECKING:
    from numpy.typing import NDArray

USUAL_STATES = (
    ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),  # robosuite's names
    ("ee_states", "gripper_states"),  # LIBERO's: position, axis-angle and gripper
)
USUAL_HZ = 20.0
"""robosuite's own default, for files that name no ``control_freq``."""
_DEMO = re.compile(r"demo_(0|[1-9]\d{0,8})")


@dataclass(frozen=True)
class RobomimicOptions(ForeignOptions):
    """What ``import_robomimic`` takes besides where from and where to."""

    filter_key: str = ""
    """Only the demonstrations that mask/KEY names; empty: all."""
    upside_down: Literal["auto", "yes", "no"] = "auto"
    """Whether pictures are stored with their bottom row first; auto: where the file says so, as LIBERO's do."""


class RobomimicFile:
    """The demonstrations of a file, by number. A context manager, as the file stays open."""

    suite = "robomimic"

    def __init__(self, path: Path, options: RobomimicOptions) -> None:
        self.name, self._options = path.stem, options
        self._file = HDF5File(path)
        try:
            self._data = self._file.group(self._file.root, "data", path.name)
            self._demos = self._chosen()
            self.notes = self._facts()
            self._cameras, self.left_out, states = self._observed()
            self.keys = {"state_keys": states, "action_keys": split_keys(options.action) or ("actions",)}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._demos)

    def __iter__(self) -> Iterator[Found]:
        for number in self._demos:
            digest = sha256(self._actions(number, ("actions",)).tobytes()).hexdigest()[:16]
            yield Found(number, self._where(number), f"demo_{number}:{digest}", partial(self._read, number))

    def _read(self, number: int) -> Recording:
        where, demo, file = self._where(number), self._demo(number), self._file
        actions = self._actions(number, self.keys["action_keys"])
        steps = len(actions)
        counted = file.attribute(demo, "num_samples", where)
        if counted is not None and str(counted) != str(steps):
            raise DataError(f"{where}: num_samples is {counted}, but actions has shape {actions.shape}")
        rewards = file.array(demo, "rewards", where).astype(np.float64) if file.has(demo, "rewards", where) else None
        if rewards is not None and rewards.shape not in ((steps,), (steps, 1)):
            raise DataError(f"{where}: rewards has shape {rewards.shape}, expected ({steps},)")
        wanted = self.keys["state_keys"]
        seen = file.group(demo, "obs", where) if wanted or self._cameras else None
        inside = f"{where}/obs"
        states = {key: file.array(seen, key, inside) for key in wanted}
        shown = {camera: file.images(seen, key, inside, steps) for camera, key in self._cameras.items()}
        said = file.json(demo, "ep_meta", where).get("lang")  # RoboCasa's
        return Recording(
            actions, joined(inside, states, steps), None if rewards is None else rewards.reshape(-1),
            self._success(demo, where, steps), self._task, self._instruction or _line(said),
            {camera: partial(pictures, array, self._flip, inside) for camera, array in shown.items()},
        )  # fmt: skip

    def _success(self, demo: Any, where: str, steps: int) -> NDArray[np.bool_] | None:
        key = self._options.success_key or "success"
        if self._file.has(demo, key, where):
            return per_step_label(where, key, self._file.array(demo, key, where), steps)
        if (value := self._file.attribute(demo, key, where)) is not None:
            return per_step_label(where, f"attribute {key}", np.asarray(value), steps)
        if self._options.success_key:
            raise DataError(
                f"{where} has no label {key!r} (--success-key); it has {', '.join(self._file.listed(demo, where))}"
            )
        return None

    def _actions(self, number: int, keys: tuple[str, ...]) -> NDArray[np.float32]:
        where, demo = self._where(number), self._demo(number)
        parts = {key: self._file.array(demo, key, where) for key in keys}
        shape = next(iter(parts.values())).shape
        if not shape or not 0 < shape[0] <= MOST_STEPS:
            raise DataError(f"{where}: {keys[0]} has shape {shape}, expected 1 to {MOST_STEPS} steps")
        return joined(where, parts, shape[0])

    def _where(self, number: int) -> str:
        return f"{self._file.path.name}: demo_{number}"

    def _demo(self, number: int) -> Any:
        return self._file.group(self._data, f"demo_{number}", self._file.path.name)

    def _chosen(self) -> list[int]:
        """Numbers of the demonstrations, ascending."""
        file, name = self._file, self._file.path.name
        numbers = sorted(int(match[1]) for match in map(_DEMO.fullmatch, file.listed(self._data, name)) if match)
        if key := self._options.filter_key:
            masks = file.group(file.root, "mask", name) if file.has(file.root, "mask", name) else {}
            known = file.listed(masks, name)
            if key not in known:
                raise SetupError(f"{name} has no mask/{key} (--filter-key); known: {', '.join(known) or 'none'}")
            names = file.words(masks, key, f"{name}: mask")
            numbers = [number for number in numbers if f"demo_{number}" in names]
        if not numbers:
            raise DataError(f"{name}: data holds no demonstration (demo_0, demo_1, ...) that was asked for")
        return numbers

    def _facts(self) -> list[str]:
        """What the file says of all its demonstrations; returns what a reader should know."""
        file, name, notes = self._file, self._file.path.name, []
        args, problem = file.json(self._data, "env_args", name), file.json(self._data, "problem_info", name)
        self._instruction = _line(problem.get("language_instruction"))
        env_name = _line(args.get("env_name")) or _line(file.attribute(self._data, "env_name", name))
        # LIBERO's environments are scenes, of many tasks each.
        self._task = slug(self._instruction) if self._instruction else env_name or self.name
        kwargs = args.get("env_kwargs")
        rate = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
        told = float(rate) if isinstance(rate, int | float) and 0 < rate < 1e6 else 0.0
        self.control_hz = self._options.control_hz or told or USUAL_HZ
        if not self._options.control_hz and not told:
            notes.append(f"the file names no rate: {USUAL_HZ:g} steps a second were taken (see --control-hz)")
        opengl = file.attribute(self._data, "macros_image_convention", name) == "opengl"
        self._flip = self._options.upside_down == "yes" or (self._options.upside_down == "auto" and opengl)
        if self._flip:
            notes.append("pictures were stored bottom row first and are the right way up now (see --upside-down)")
        if problem:
            notes.append("LIBERO's own files hold what was seen after each action, one step later than elsewhere")
        return notes

    def _observed(self) -> tuple[dict[str, str], list[str], tuple[str, ...]]:
        """Camera -> key, depth cameras, and keys of the state, as the first demonstration has them."""
        file, where = self._file, self._where(self._demos[0])
        first = self._demo(self._demos[0])
        seen = file.group(first, "obs", where) if file.has(first, "obs", where) else {}
        arrays = {key: file.member(seen, key, f"{where}/obs") for key in file.listed(seen, where)}
        images = [k for k, a in arrays.items() if a.dtype == np.uint8 and len(a.shape) == 4 and a.shape[3] == 3]
        depth = [key for key, array in arrays.items() if len(array.shape) == 4 and array.shape[3] == 1]
        short = {key: key.removesuffix("_image").removesuffix("_rgb") for key in images}
        cameras = short if len(set(short.values())) == len(short) else {key: key for key in images}
        return {camera: key for key, camera in cameras.items()}, depth, self._states(arrays)

    def _states(self, arrays: Mapping[str, Any]) -> tuple[str, ...]:
        if self._options.state:
            return () if self._options.state == "none" else split_keys(self._options.state)
        for usual in USUAL_STATES:
            if all(key in arrays for key in usual):
                return usual
        # One vector a step, and not what a robot cannot know of itself.
        vectors = [k for k, a in arrays.items() if len(a.shape) in (1, 2) and a.dtype.kind == "f"]
        return tuple(key for key in vectors if not key.startswith("object"))


def import_robomimic(
    path: Path,
    out: Path,
    options: RobomimicOptions | None = None,
    progress: Callable[[Iterable[Found]], Iterable[Found]] = iter,
) -> Imported:
    """Write the demonstrations of a robomimic HDF5 file into a store. May be stopped and run again.

    Args:
        path: the file.
        out: the store; made where it is missing.
        options: see there.
        progress: wraps the episodes.

    Raises:
        MissingDependencyError: h5py is not installed.
        SetupError: no such file, or no such filter key.
        DataError: the file is damaged, or does not say how its episodes ended. Nothing is written then, unless it is
            pictures that are damaged: the episodes before them are kept.
        StoreError: the store cannot be written.
    """
    asked = options or RobomimicOptions()
    require_sound(asked)
    with RobomimicFile(path, asked) as file:
        for found in file:  # all but the pictures, which is little
            successes(found, found.read(), asked.outcome)
        return import_foreign(file, out, asked, progress)


def _line(value: Any) -> str:
    return " ".join(value.split())[:1000] if isinstance(value, str) else ""
