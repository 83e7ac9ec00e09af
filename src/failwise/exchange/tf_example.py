"""``tf.train.Example``: named lists of bytes, floats or integers, read from protocol buffers' wire format.

The format as far as it is needed: a message is a sequence of fields, each a key (varint: field number and wire type)
and a value. ``Example`` holds ``Features`` (field 1), that a map (1: entries of key 1 and value 2) to ``Feature``, and
that one list: of bytes (1), floats (2) or int64 (3). Only lists that are asked for are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from failwise.errors import DataError
from failwise.exchange.foreign import MOST_STEPS, MOST_VALUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_KINDS = {1: "bytes", 2: "floats", 3: "integers"}
_MOST_KEYS = 10_000
_MOST_PIECES = MOST_STEPS
"""Entries of a list of bytes, and of a list of numbers that is not packed; each costs an object of Python's."""

Field = tuple[int, int, int | memoryview]


class Example:
    """The lists of one example, by name.

    Args:
        content: the message.
        where: file and record, for messages.

    Raises:
        DataError: it is no such message.
    """

    def __init__(self, content: bytes, where: str) -> None:
        self.where = where
        self._features: dict[str, memoryview] = {}
        for features in self._messages(memoryview(content), 1, where):
            for entry in self._messages(features, 1, where):
                parts = {number: value for number, _, value in self._fields(entry, where)}
                name, feature = parts.get(1), parts.get(2, memoryview(b""))
                if not isinstance(name, memoryview) or not isinstance(feature, memoryview):
                    raise DataError(f"{where} is no tf.train.Example: an entry has no name")
                self._features[bytes(name).decode(errors="replace")] = feature
                if len(self._features) > _MOST_KEYS:
                    raise DataError(f"{where} has more than {_MOST_KEYS} keys")

    def __contains__(self, key: str) -> bool:
        return key in self._features

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._features))

    def texts(self, key: str) -> list[memoryview]:
        """A list of bytes.

        Raises:
            DataError: no such list, another kind of list, or too long a one.
        """
        found: list[memoryview] = []
        for values in self._lists(key, 1):
            for number, kind, value in self._fields(values, f"{self.where}: {key}"):
                if number == 1:
                    if kind != _LENGTH or not isinstance(value, memoryview) or len(found) >= _MOST_PIECES:
                        raise DataError(f"{self.where}: {key} is damaged, or has more than {_MOST_PIECES} entries")
                    found.append(value)
        return found

    def numbers(self, key: str) -> NDArray[np.float32] | NDArray[np.int64]:
        """A list of floats or of integers, in its own dtype; an empty one is of floats.

        Raises:
            DataError: no such list, a list of bytes, or too long a one.
        """
        kind = self._kind(key)
        if kind == 1:
            raise DataError(f"{self.where}: {key} is a list of bytes, expected numbers")
        plain = _FIXED32 if kind == 2 else _VARINT
        pieces: list[Any] = []
        values = 0
        for part in self._lists(key, kind):
            for number, wire, value in self._fields(part, f"{self.where}: {key}"):
                if number != 1:
                    continue
                if wire not in (plain, _LENGTH) or len(pieces) >= _MOST_PIECES:
                    raise DataError(f"{self.where}: {key} is damaged, or has more than {_MOST_PIECES} parts")
                piece = self._piece(key, kind, value)
                values += len(piece)
                if values > MOST_VALUES:
                    raise DataError(f"{self.where}: {key} has more than {MOST_VALUES} numbers")
                pieces.append(piece)
        if not pieces:
            return np.zeros(0, np.float32)
        joined: NDArray[np.float32] | NDArray[np.int64] = np.concatenate(pieces)
        return joined

    def _piece(self, key: str, kind: int, value: int | memoryview) -> NDArray[np.float32] | NDArray[np.int64]:
        where = f"{self.where}: {key}"
        if isinstance(value, int):
            return np.array([value], np.uint64).view(np.int64)
        if kind == 3:
            return _varints(value, where)
        if len(value) % 4:
            raise DataError(f"{where} has {len(value)} bytes, which are no floats")
        return np.frombuffer(value, "<f4").astype(np.float32, copy=False)

    def _kind(self, key: str) -> int:
        """1, 2 or 3: which of the lists a feature has."""
        if key not in self._features:
            raise DataError(f"{self.where}: {key} is missing")
        numbers = {number for number, _, _ in self._fields(self._features[key], f"{self.where}: {key}")}
        if len(numbers) > 1 or not numbers <= _KINDS.keys():
            raise DataError(f"{self.where}: {key} is no list of bytes, floats or integers")
        return next(iter(numbers), 2)

    def _lists(self, key: str, kind: int) -> Iterator[memoryview]:
        has = self._kind(key)
        if has != kind and len(self._features[key]):
            raise DataError(f"{self.where}: {key} is a list of {_KINDS[has]}, expected {_KINDS[kind]}")
        return self._messages(self._features[key], kind, f"{self.where}: {key}")

    def _messages(self, message: memoryview, wanted: int, where: str) -> Iterator[memoryview]:
        for number, _, value in self._fields(message, where):
            if number == wanted:
                if not isinstance(value, memoryview):
                    raise DataError(f"{where} is no tf.train.Example")
                yield value

    def _fields(self, message: memoryview, where: str) -> Iterator[Field]:
        """Number, wire type and value of each field of a message."""
        at, end = 0, len(message)
        while at < end:
            key, at = _varint(message, at, where)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                value, at = _varint(message, at, where)
                yield number, wire, value
                continue
            if wire == _LENGTH:
                size, at = _varint(message, at, where)
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise DataError(f"{where} is no tf.train.Example: wire type {wire}")
            if size > end - at:
                raise DataError(f"{where} is damaged: a field claims {size} bytes, {end - at} are left")
            yield number, wire, message[at : at + size]
            at += size


def _varint(message: memoryview, at: int, where: str) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte, at = message[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise DataError(f"{where} is damaged: a number does not end")


def _varints(packed: memoryview, where: str) -> NDArray[np.int64]:
    """All numbers of a packed list at once."""
    content = np.frombuffer(packed, np.uint8)
    last = content < 0x80
    if np.count_nonzero(last) > MOST_VALUES:  # before anything of eight bytes a number is made
        raise DataError(f"{where} has more than {MOST_VALUES} numbers")
    ends = np.flatnonzero(last)
    if len(content) and (not len(ends) or ends[-1] != len(content) - 1):
        raise DataError(f"{where} is damaged: a number does not end")
    starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > 10:
        raise DataError(f"{where} is damaged: a number does not end")
    values = np.zeros(len(ends), np.uint64)
    for byte in range(int(lengths.max(initial=0))):
        longer = lengths > byte
        part = (content[starts[longer] + byte] & 0x7F).astype(np.uint64)
        values[longer] |= part << np.uint64(7 * byte)
    return values.view(np.int64)
