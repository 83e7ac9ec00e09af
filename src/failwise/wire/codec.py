"""Messages as bytes: msgpack with numpy arrays inside, in the form that openpi's servers and clients speak.

An array is the map ``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [..]}`` with its numbers in C
order; a numpy scalar is ``{b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}``. These four keys are bytes, all
others are text.

Reading trusts nothing: a message is at most so large and so deep, an array's type is on a list without objects, and
its shape must account for exactly the bytes that came with it before it becomes an array.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import msgpack
import numpy as np

from failwise.errors import WireError

Message: TypeAlias = dict[str, Any]

_ARRAY, _SCALAR, _DATA, _DTYPE, _SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"
_DTYPES = {"|b1": "?", "|u1": "u1", "|i1": "i1"} | {
    f"{order}{kind}{size}": f"{order}{kind}{size}"
    for order in "<>"
    for kind, sizes in (("i", (2, 4, 8)), ("u", (2, 4, 8)), ("f", (2, 4, 8)))
    for size in sizes
}
_PLAIN = (str, bytes, int, float, bool, type(None), np.ndarray, np.generic)


@dataclass(frozen=True)
class Limits:
    """How much a message may hold.

    Attributes:
        nbytes: of the packed message.
        depth: maps and lists inside each other.
        items: entries of all maps and lists together. Arrays count as one.
        axes: of one array.
    """

    nbytes: int = 64 * 2**20
    depth: int = 8
    items: int = 4096
    axes: int = 8


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as bytes.

    Args:
        message: text keys; values are numbers, text, None, lists, maps, and numpy arrays and scalars.

    Raises:
        WireError: it holds something else, or an array of a type that no reader accepts.
    """
    try:
        packed: bytes = msgpack.packb(dict(message), default=_tagged)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"a message cannot be packed: {error}") from error
    return packed


def unpack(packed: bytes, limits: Limits | None = None) -> Message:
    """The message in some bytes. Arrays are views of these bytes, in native byte order, and cannot be written to.

    Raises:
        WireError: it is not one map in msgpack, or exceeds a limit, or holds an array that is not as it says.
    """
    limits = limits or Limits()
    if len(packed) > limits.nbytes:
        raise WireError(f"a message of {len(packed)} bytes is too large: at most {limits.nbytes}")
    reading = _Reading(limits)
    try:
        message = msgpack.unpackb(
            packed, object_hook=reading.a_map, list_hook=reading.a_list, ext_hook=_no_extension,
            # msgpack makes room for a list as soon as it reads its length, at up to 1024 levels
            max_array_len=limits.items, max_map_len=limits.items,
        )  # fmt: skip
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"a message is not valid msgpack: {str(error)[:200] or type(error).__name__}") from error
    if not isinstance(message, dict):
        raise WireError(f"a message must be a map of keys, not {type(message).__name__}")
    return message


class _Reading:
    """Counts what a message holds while it is being read, innermost first."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.items = 0
        self._depth: dict[int, int] = {}  # of the containers whose parent is still being read

    def a_map(self, found: dict[Any, Any]) -> Any:
        self._count(found, list(found.values()))
        for tag, read in ((_ARRAY, self._array), (_SCALAR, self._scalar)):
            if tag in found:
                self._depth.pop(id(found), None)
                return read(found)
        if odd := next((key for key in found if not isinstance(key, str)), None):
            raise WireError(f"the keys of a message must be text, got {odd[:40]!r}")
        return found

    def a_list(self, found: list[Any]) -> list[Any]:
        self._count(found, found)
        return found

    def _count(self, container: Any, children: list[Any]) -> None:
        self.items += 1 + len(children)
        if self.items > self.limits.items:
            raise WireError(f"a message holds more than {self.limits.items} entries; send numbers as arrays")
        depth = 1
        for child in children:
            if isinstance(child, dict | list):
                depth = max(depth, 1 + self._depth.pop(id(child), 0))
            elif not isinstance(child, _PLAIN):
                raise WireError(f"a message may not hold a {type(child).__name__}")
        if depth > self.limits.depth:
            raise WireError(f"a message is more than {self.limits.depth} levels deep")
        self._depth[id(container)] = depth

    def _array(self, found: dict[Any, Any]) -> Any:
        data, shape, dtype = found.get(_DATA), found.get(_SHAPE), _dtype(found)
        if not isinstance(data, bytes) or not isinstance(shape, list):
            raise WireError("an array needs its bytes and its shape")
        if len(shape) > self.limits.axes or not all(type(n) is int and n >= 0 for n in shape):
            raise WireError(f"an array has the shape {str(shape)[:80]}: at most {self.limits.axes} sizes from 0 on")
        if prod(shape) * dtype.itemsize != len(data):
            raise WireError(f"an array of shape {shape} and type {dtype.str} cannot have {len(data)} bytes")
        if not data:  # of which no view can be made
            return np.zeros(shape, dtype.newbyteorder("="))
        array = np.frombuffer(data, dtype).reshape(shape)
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))

    def _scalar(self, found: dict[Any, Any]) -> Any:
        data, dtype = found.get(_DATA), _dtype(found)
        if type(data) not in (int, float, bool):
            raise WireError(f"a number cannot be of type {type(data).__name__}")
        return dtype.newbyteorder("=").type(data)


def _dtype(found: Mapping[Any, Any]) -> np.dtype[Any]:
    name = found.get(_DTYPE)
    if not isinstance(name, str) or name not in _DTYPES:
        raise WireError(
            f"an array of type {str(name)[:40]!r} is not accepted: booleans, integers and floats up to 8 bytes"
        )
    return np.dtype(_DTYPES[name])


def _tagged(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"no {type(value).__name__} can be sent")
    if value.dtype.str not in _DTYPES:
        raise TypeError(f"no array of type {value.dtype} can be sent")
    if isinstance(value, np.ndarray):
        return {_ARRAY: True, _DATA: value.tobytes(), _DTYPE: value.dtype.str, _SHAPE: value.shape}
    return {_SCALAR: True, _DATA: value.item(), _DTYPE: value.dtype.str}


def _no_extension(code: int, data: bytes) -> Any:
    raise WireError(f"a message may not hold msgpack's extension {code}")
