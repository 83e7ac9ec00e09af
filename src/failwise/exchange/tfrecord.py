"""TFRecord files, read without TensorFlow and without trust.

A record is its length (uint64, little-endian), the masked CRC-32C of that, the content, and the masked CRC-32C of the
content. A length is believed only if its checksum fits and the file is long enough.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from failwise.errors import DataError, MissingDependencyError, SetupError

LONGEST_RECORD = 2**31 - 1
"""What protocol buffers allow a message to have."""
_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Record:
    """One record, its content not read yet. Valid until the next one is asked for.

    Attributes:
        length: bytes of the content. ``crc``: their masked CRC-32C, as the file says.
    """

    length: int
    crc: int
    where: str
    _file: BinaryIO
    _at: int

    def read(self) -> bytes:
        """The content.

        Raises:
            DataError: it is not what was written.
        """
        self._file.seek(self._at)
        content = self._file.read(self.length)
        if masked_crc(content) != self.crc:
            raise DataError(f"{self.where} is damaged: its checksum does not fit")
        return content


def records(path: Path) -> Iterator[Record]:
    """The records of a file, in their order.

    Raises:
        SetupError: no such file.
        DataError: the file is damaged or cut off.
        MissingDependencyError: google-crc32c is not installed.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        size, at, number = os.fstat(file.fileno()).st_size, 0, 0
        while at < size:
            where = f"{path.name}: record {number}"
            file.seek(at)
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                raise DataError(f"{where} is cut off: {len(head)} bytes are left, its header has {_HEADER.size}")
            length, crc = _HEADER.unpack(head)
            if masked_crc(head[:8]) != crc:
                raise DataError(f"{where} is damaged, or this is no TFRecord file: its length's checksum does not fit")
            begin = at + _HEADER.size
            if length > LONGEST_RECORD:
                raise DataError(f"{where} claims {length} bytes, more than the {LONGEST_RECORD} that a record may have")
            if begin + length + _CRC.size > size:
                raise DataError(f"{where} is cut off: it claims {length} bytes, {size - begin} are left")
            file.seek(begin + length)
            yield Record(length, _CRC.unpack(file.read(_CRC.size))[0], where, file, begin)
            at, number = begin + length + _CRC.size, number + 1


def masked_crc(content: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord wants it, so that checksums of checksums stay good.

    Raises:
        MissingDependencyError: google-crc32c is not installed.
    """
    try:
        value = int(import_module("google_crc32c").value(content))
    except ImportError as error:
        raise MissingDependencyError("RLDS needs google-crc32c: pip install 'failwise[rlds]'") from error
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
