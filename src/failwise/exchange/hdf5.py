"""An HDF5 file of somebody else's, read without trust.

Only what lies in the file itself is read: links and arrays that point elsewhere are refused, and so is what would take
more memory than a recorded episode needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from failwise.errors import DataError, MissingDependencyError, SetupError
from failwise.exchange.foreign import MOST_PIXELS, MOST_STEPS, MOST_VALUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from failwise.types import ImageHW3

_MOST_BLOCK_BYTES = 256 << 20
_SLAB_BYTES = 32 << 20
# What h5py raises for a damaged file, the one or the other depending on where the damage is.
_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError, OverflowError)


class HDF5File:
    """A file, open until ``close``. Every complaint names the file or the key.

    Raises:
        MissingDependencyError: h5py is not installed.
        SetupError: there is no such file.
        DataError: it is no HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self._h5: Any = _h5py()
        self.path = path
        if not path.is_file():
            raise SetupError(f"{path} is no file; name an HDF5 file with demonstrations")
        with _reading(f"{path}: its HDF5"):
            self.root: Any = self._h5.File(path, "r")

    def close(self) -> None:
        """Let go of the file."""
        self.root.close()

    def listed(self, parent: Any, where: str) -> list[str]:
        """The names in a group."""
        with _reading(where):
            return [str(name) for name in parent]

    def has(self, parent: Any, name: str, where: str) -> bool:
        """Whether there is something of this name."""
        with _reading(f"{where}: {name}"):
            return name in parent

    def group(self, parent: Any, name: str, where: str) -> Any:
        """A group of this name in another one."""
        found = self._linked(parent, name, where)
        if not isinstance(found, self._h5.Group):
            raise DataError(f"{where}: {name} is no group, so this is no file of robomimic's form")
        return found

    def member(self, parent: Any, name: str, where: str) -> Any:
        """An array that is not read yet."""
        found = self._linked(parent, name, where)
        with _reading(f"{where}: {name}"):
            if not isinstance(found, self._h5.Dataset) or found.shape is None:
                raise DataError(f"{where}: {name} is no array")
            if found.is_virtual or found.external:
                raise DataError(f"{where}: {name} lies in another file, which is not opened")
            block = int(np.prod(found.chunks or (0,), dtype=object)) * found.dtype.itemsize
        if block > _MOST_BLOCK_BYTES:
            raise DataError(f"{where}: {name} is packed in blocks of {block} bytes, more than {_MOST_BLOCK_BYTES}")
        return found

    def images(self, parent: Any, name: str, where: str, steps: int) -> Any:
        """An array of pictures, uint8 (T, h, w, 3), that is not read yet."""
        found = self.member(parent, name, where)
        if found.dtype != np.uint8 or len(found.shape) != 4 or found.shape[0] != steps or found.shape[3] != 3:
            raise DataError(f"{where}: {name} is {found.dtype} {found.shape}, expected uint8 ({steps}, h, w, 3)")
        if found.shape[1] * found.shape[2] > MOST_PIXELS:
            raise DataError(f"{where}: {name} has shape {found.shape}, a picture of more than {MOST_PIXELS} pixels")
        return found

    def array(self, parent: Any, name: str, where: str) -> NDArray[Any]:
        """A whole array of numbers."""
        found = self.member(parent, name, where)
        size = int(np.prod(found.shape, dtype=object))
        if found.dtype.kind not in "fiub" or size > MOST_VALUES:
            raise DataError(
                f"{where}: {name} is {found.dtype} {found.shape}, expected numbers, at most {MOST_VALUES} of them"
            )
        with _reading(f"{where}: {name}"):
            return np.asarray(found[()])

    def words(self, parent: Any, name: str, where: str) -> set[str]:
        """An array of words, one axis."""
        found = self.member(parent, name, where)
        if found.dtype.kind not in "SO" or len(found.shape) != 1 or found.shape[0] > MOST_STEPS:
            raise DataError(f"{where}: {name} is {found.dtype} {found.shape}, expected names on one axis")
        with _reading(f"{where}: {name}"):
            return {entry.decode(errors="replace") if isinstance(entry, bytes) else str(entry) for entry in found[()]}

    def attribute(self, holder: Any, name: str, where: str) -> Any:
        """An attribute as it is; None where there is none."""
        with _reading(f"{where}: attribute {name}"):
            value = holder.attrs.get(name)
            return value.decode(errors="replace") if isinstance(value, bytes) else value

    def _linked(self, parent: Any, name: str, where: str) -> Any:
        if not self.has(parent, name, where):
            raise DataError(
                f"{where}: {name} is missing; there are {', '.join(self.listed(parent, where)[:20]) or 'none'}"
            )
        with _reading(f"{where}: {name}"):
            if not isinstance(parent.get(name, getlink=True), self._h5.HardLink):
                raise DataError(f"{where}: {name} is a link to another place, which is not followed")
            return parent[name]

    def json(self, holder: Any, name: str, where: str) -> Mapping[str, Any]:
        """An attribute that holds a JSON object; empty where there is none."""
        text = self.attribute(holder, name, where)
        try:
            found = json.loads(text) if isinstance(text, str) and text else {}
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: attribute {name} is no JSON: {_first_line(error)}") from error
        return found if isinstance(found, dict) else {}


def pictures(shown: Any, flip: bool, where: str, rows: NDArray[np.int64]) -> Iterator[ImageHW3]:
    """Pictures of an array at some rows, ascending, a slab of them in memory at a time.

    Args:
        shown: of ``HDF5File.images``.
        flip: turn each picture upside down.
        where: for messages.
        rows: which.
    """
    at_once = max(1, _SLAB_BYTES // max(1, int(np.prod(shown.shape[1:]))))
    for start in range(0, len(shown), at_once):
        wanted = rows[(rows >= start) & (rows < start + at_once)]
        if len(wanted):
            with _reading(where):
                slab = shown[start : start + at_once]
            yield from (slab[row - start, ::-1] if flip else slab[row - start] for row in wanted.tolist())


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """What h5py raises for a damaged file, as one line. Nothing but its calls belongs in here."""
    try:
        yield
    except _ERRORS as error:
        raise DataError(f"{what} is damaged: {_first_line(error)}") from error


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ImportError as error:
        raise MissingDependencyError("HDF5 files need h5py: pip install 'failwise[robomimic]'") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
