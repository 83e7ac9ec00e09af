"""The two formats below RLDS, against their definitions and against the library of protocol buffers."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failwise.errors import DataError
from failwise.exchange.tf_example import Example
from failwise.exchange.tfrecord import masked_crc, records

from .foreign_files import crc32c, example, frame, masked, message, varint

pytest.importorskip("google_crc32c", reason="pip install 'failwise[rlds]'")

CHECKED = {b"": 0x00000000, b"123456789": 0xE3069283, bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43}
"""CRC-32C as RFC 3720 gives it (appendix B.4), and its check value."""


@pytest.mark.parametrize(("content", "expected"), CHECKED.items())
def test_the_checksum_is_the_published_one(content, expected):
    assert crc32c(content) == expected
    rotated = (expected >> 15) + (expected % 2**15) * 2**17
    assert masked_crc(content) == (rotated + 0xA282EAD8) % 2**32


@given(st.binary(max_size=300))
def test_the_checksum_is_the_one_by_definition(content):
    assert struct.pack("<I", masked_crc(content)) == masked(content)


def test_the_empty_record_as_every_writer_writes_it(tmp_path):
    (tmp_path / "a").write_bytes(bytes.fromhex("0000000000000000 29039807 d8ea82a2"))
    assert [(record.read(), record.length) for record in records(tmp_path / "a")] == [(b"", 0)]
    assert frame(b"") == (tmp_path / "a").read_bytes()


def test_records_may_be_passed_over(tmp_path):
    (tmp_path / "a").write_bytes(b"".join(frame(bytes([k]) * k) for k in range(5)))
    found = [record.read() if record.length % 2 else record.length for record in records(tmp_path / "a")]
    assert found == [0, b"\1", 2, b"\3" * 3, 4]


def protobuf_example():
    """``tf.train.Example`` as its .proto file declares it."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def declare(name, *fields):
        kind = file.message_type.add(name=name)
        for number, (label, called, of, type_name) in enumerate(fields, 1):
            kind.field.add(name=called, number=number, label=label, type=of, type_name=type_name)
        return kind

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    declare("BytesList", (many, "value", field.TYPE_BYTES, None))
    declare("FloatList", (many, "value", field.TYPE_FLOAT, None))
    declare("Int64List", (many, "value", field.TYPE_INT64, None))
    lists = [(one, f"{k.lower()}_list", field.TYPE_MESSAGE, f".t.{k}List") for k in ("Bytes", "Float", "Int64")]
    feature = declare("Feature", *lists)
    feature.oneof_decl.add(name="kind")
    for part in feature.field:
        part.oneof_index = 0
    features = declare("Features", (many, "feature", field.TYPE_MESSAGE, ".t.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=field.TYPE_MESSAGE, type_name=".t.Feature")
    declare("Example", (one, "features", field.TYPE_MESSAGE, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


INT64 = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(
    floats=st.lists(st.floats(width=32, allow_nan=False)), integers=st.lists(INT64), texts=st.lists(st.binary()),
    name=st.text(min_size=1),
)  # fmt: skip
def test_what_protocol_buffers_write_is_read(floats, integers, texts, name):
    written = protobuf_example()()
    written.features.feature["f"].float_list.value.extend(floats)
    written.features.feature["i/" + name].int64_list.value.extend(integers)
    written.features.feature["t"].bytes_list.value.extend(texts)
    read = Example(written.SerializeToString(), "here")
    assert list(read) == sorted(["f", "i/" + name, "t"])
    np.testing.assert_array_equal(read.numbers("f"), np.array(floats, np.float32))
    np.testing.assert_array_equal(read.numbers("i/" + name), np.array(integers, np.int64))
    assert [bytes(text) for text in read.texts("t")] == texts


def test_the_writer_of_the_tests_is_one_that_protocol_buffers_read():
    parts = {"f": np.array([1.5, -2], np.float32), "i": np.array([-1, 0, 300]), "t": [b"", b"abc"]}
    read = protobuf_example().FromString(example(parts)).features.feature
    assert list(read["f"].float_list.value) == [1.5, -2]
    assert list(read["i"].int64_list.value) == [-1, 0, 300]
    assert list(read["t"].bytes_list.value) == [b"", b"abc"]


def feature(content: bytes) -> Example:
    return Example(message(1, message(1, message(1, b"x") + message(2, content))), "here")


def test_lists_that_are_not_packed_and_fields_that_nobody_knows():
    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in (0.5, -3.0))
    np.testing.assert_array_equal(feature(message(2, floats)).numbers("x"), [0.5, -3.0])
    integers = b"".join(b"\x08" + varint(value) for value in (-7, 2**40))
    np.testing.assert_array_equal(feature(message(3, integers)).numbers("x"), [-7, 2**40])
    parts = message(2, message(1, struct.pack("<f", 1))) + message(2, message(1, struct.pack("<f", 2)))
    np.testing.assert_array_equal(feature(parts).numbers("x"), [1, 2])
    unknown = message(9, b"?") + b"\x50\x01" + b"\x59" + bytes(8) + b"\x65" + bytes(4)
    content = unknown + message(1, message(1, message(1, b"x") + message(2, message(1, message(1, b"y"))))) + unknown
    assert [bytes(text) for text in Example(content, "here").texts("x")] == [b"y"]


DAMAGED = {
    "a length beyond the end": (message(2, b"\x0a\x7f"), "claims 127 bytes, 0 are left"),
    "a length of all the memory": (message(2, b"\x0a" + varint(2**62)), f"claims {2**62} bytes"),
    "three quarters of a float": (message(2, message(1, b"abc")), "3 bytes, which are no floats"),
    "a number without an end": (message(3, message(1, b"\x01\x80")), "a number does not end"),
    "a number too long": (message(3, message(1, b"\x80" * 10 + b"\x01")), "a number does not end"),
    "a group": (message(2, b"\x0b"), "wire type 3"),
    "two kinds": (message(2, b"") + message(3, b""), "is no list of bytes, floats or integers"),
    "no kind": (message(7, b""), "is no list of bytes, floats or integers"),
    "text": (message(1, message(1, b"abc")), "is a list of bytes, expected numbers"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_list_is_told(content, expected):
    with pytest.raises(DataError, match=expected) as raised:
        feature(content).numbers("x")
    assert str(raised.value).startswith("here: x")


def test_too_much_is_refused(monkeypatch):
    monkeypatch.setattr("failwise.exchange.tf_example.MOST_VALUES", 3)
    monkeypatch.setattr("failwise.exchange.tf_example._MOST_PIECES", 3)
    monkeypatch.setattr("failwise.exchange.tf_example._MOST_KEYS", 3)
    assert len(feature(message(3, message(1, b"\1\1\1"))).numbers("x")) == 3
    for content in (message(3, message(1, b"\1\1\1\1")), message(2, message(1, bytes(16))), message(3, b"\x08\1" * 4)):
        with pytest.raises(DataError, match="more than 3"):
            feature(content).numbers("x")
    with pytest.raises(DataError, match="more than 3 entries"):
        feature(message(1, message(1, b"") * 4)).texts("x")
    with pytest.raises(DataError, match="more than 3 keys"):
        Example(example({str(k): [] for k in range(4)}), "here")


def test_a_list_that_is_too_long_is_not_unpacked(monkeypatch):
    """Packed, it has a byte a number; unpacked eight, of which two copies are needed."""
    monkeypatch.setattr("failwise.exchange.tf_example.MOST_VALUES", 1000)
    packed = feature(message(3, message(1, b"\1" * 5_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more than 1000 numbers"):
            packed.numbers("x")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


VALID = example({"f": np.arange(3, dtype=np.float32), "i": np.array([-1, 300]), "t": [b"abc", b""]})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(VALID)))
def test_whatever_the_bytes_are_they_are_read_or_refused(changes, end):
    content = bytearray(VALID)
    for at, byte in changes:
        content[at] = byte
    try:
        read = Example(bytes(content[:end]), "here")
    except DataError:
        return
    for key in read:
        for ask in (read.numbers, read.texts):
            try:
                assert len(ask(key)) <= len(VALID)
            except DataError as error:
                assert "\n" not in str(error)
