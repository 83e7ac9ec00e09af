"""The codec against openpi's frames, and against messages that mean harm."""

import random
import tracemalloc
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from failwise.errors import WireError
from failwise.wire import Limits, pack, unpack

DTYPES = ["?", "u1", "i1", "<u2", "<i4", "<i8", "<u8", "<f2", "<f4", "<f8", ">f4", ">i2"]
MESSAGE = {
    "observation/image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    "observation/state": np.linspace(0, 1, 5, dtype=np.float32),
    "prompt": "pick up the block",
    "nested": {"numbers": [1, 2.5, None, True], "scalar": np.float32(0.25)},
}


def tagged(array, **changes):
    """An array as openpi's frames have it, with something wrong."""
    frame = {"__ndarray__": True, "data": array.tobytes(), "dtype": array.dtype.str, "shape": list(array.shape)}
    return {key.encode(): value for key, value in (frame | changes).items()}


def framed(**changes):
    return msgpack.packb({"x": tagged(np.arange(6, dtype=np.float32).reshape(2, 3), **changes)})


def same(a, b):
    if isinstance(a, np.ndarray):
        equal = isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
        return equal and np.array_equal(a, b, a.dtype.kind == "f")
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b and type(a) is type(b)


def test_an_array_has_the_frame_that_openpi_gives_it():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert pack({"x": array}) == framed()
    scalar = {b"__npgeneric__": True, b"data": 0.25, b"dtype": "<f4"}
    assert pack({"x": np.float32(0.25)}) == msgpack.packb({"x": scalar})
    assert same(unpack(framed()), {"x": array})
    assert same(unpack(msgpack.packb({"x": scalar})), {"x": np.float32(0.25)})


def test_openpi_reads_what_we_write_and_writes_the_same_bytes():
    theirs = pytest.importorskip("openpi_client.msgpack_numpy", reason="openpi-client is not installed")
    assert pack(MESSAGE) == theirs.packb(MESSAGE)
    assert same(MESSAGE, theirs.unpackb(pack(MESSAGE)))
    assert same(MESSAGE, unpack(theirs.packb(MESSAGE)))
    for dtype in DTYPES:
        array = np.arange(4).reshape(2, 2).astype(dtype)
        assert pack({"x": array}) == theirs.packb({"x": array}), dtype
        assert same({"x": array.astype(array.dtype.newbyteorder("="))}, unpack(theirs.packb({"x": array})))


@given(st.data())
def test_arrays_come_back_as_they_went(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    array = data.draw(arrays(np.dtype(dtype), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
    back = unpack(pack({"x": array}))["x"]
    assert same(array.astype(array.dtype.newbyteorder("=")), back)


def test_what_is_not_contiguous_goes_in_c_order():
    array = np.arange(12).reshape(3, 4)[:, ::-2].T
    assert np.array_equal(unpack(pack({"x": array}))["x"], array)


@pytest.mark.parametrize(
    "value", [np.array(["a"]), np.array([None]), np.zeros(2, complex), np.zeros(1, "M8[s]"), object(), {1, 2}, 2**70]
)
def test_what_no_reader_accepts_is_not_sent(value):
    with pytest.raises(WireError, match="cannot be packed"):
        pack({"x": value})


def nested(depth, leaf):
    for _ in range(depth):
        leaf = [leaf]
    return leaf


HOSTILE = {
    "objects": (framed(dtype="|O", data=b"\x80\x04."), "type '|O'"),
    "objects by another name": (framed(dtype="object"), "type 'object'"),
    "a record type": (framed(dtype="<f4,<f4"), "not accepted"),
    "text": (framed(dtype="<U6"), "not accepted"),
    "a date": (framed(dtype="<M8[s]"), "not accepted"),
    "a number as type": (framed(dtype=7), "not accepted"),
    "no type": (framed(dtype=None), "not accepted"),
    "too few bytes": (framed(shape=[2, 4]), "cannot have 24 bytes"),
    "too many bytes": (framed(shape=[2, 2]), "cannot have 24 bytes"),
    "a huge claim": (framed(shape=[2**40, 2**40]), "cannot have 24 bytes"),
    "a huge empty claim": (framed(shape=[0, 2**62, 2**62], data=b""), "not valid|cannot"),
    "negative sizes": (framed(shape=[-2, -3]), "sizes from 0 on"),
    "true as a size": (framed(shape=[True, 6]), "sizes from 0 on"),
    "a fraction as a size": (framed(shape=[2.0, 3]), "sizes from 0 on"),
    "too many axes": (framed(shape=[1] * 40 + [6]), "at most 8 sizes"),
    "a shape that is no list": (framed(shape=6), "its bytes and its shape"),
    "data that is no bytes": (framed(data="x" * 24), "its bytes and its shape"),
    "no data": (framed(data=None), "its bytes and its shape"),
    "a scalar of bytes": (msgpack.packb({"x": {b"__npgeneric__": True, b"data": b"x", b"dtype": "<f4"}}), "a number"),
    "a scalar too large": (msgpack.packb({"x": {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}}), "not valid"),
    "bytes as a key": (msgpack.packb({b"x": 1}), "keys of a message must be text"),
    "a number as a key": (msgpack.packb({1: 1}), "not valid"),
    "a list as a key": (b"\x81\x90\x01", "not valid"),
    "too deep": (msgpack.packb({"x": nested(20, 1)}), "more than 8 levels"),
    "much too deep": (b"\x81\xa1x" + b"\x91" * 5000 + b"\xc0", "not valid|levels"),
    "too many entries": (msgpack.packb({"x": [[0] * 400] * 20}), "4096 entries"),
    "a list too long": (msgpack.packb({"x": [0] * 5000}), "not valid"),
    "a list that claims to be long": (b"\x81\xa1x\xdd\xff\xff\xff\xff", "not valid"),
    "a map that claims to be long": (b"\xdf\xff\xff\xff\xff", "not valid"),
    "bytes that claim to be long": (b"\x81\xa1x\xc6\xff\xff\xff\xff", "not valid"),
    "an extension": (msgpack.packb({"x": msgpack.ExtType(5, b"x")}), "extension 5"),
    "a time": (msgpack.packb({"x": msgpack.Timestamp(1)}), "may not hold a Timestamp"),
    "not UTF-8": (b"\x81\xa1\xff\x01", "not valid"),
    "nothing": (b"", "not valid"),
    "something after the end": (pack({"x": 1}) + b"\x01", "not valid"),
    "no map": (msgpack.packb([1]), "must be a map"),
    "an array alone": (msgpack.packb(tagged(np.zeros(2))), "must be a map"),
}


@pytest.mark.parametrize(("packed", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_message_is_refused_in_words(packed, said):
    with pytest.raises(WireError, match=said) as refused:
        unpack(packed)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_the_size_is_checked_before_anything_is_read():
    with pytest.raises(WireError, match="too large: at most 10"):
        unpack(b"\xff" * 11, Limits(nbytes=10))


def test_arrays_are_views_that_cannot_be_written():
    array = unpack(framed())["x"]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def mutated(r, seeds):
    """A message that was valid, with bytes flipped, cut, repeated, moved or mixed with another one's."""
    packed = bytearray(r.choice(seeds))
    for _ in range(r.randint(1, 4)):
        at, end = sorted((r.randrange(len(packed) + 1), r.randrange(len(packed) + 1)))
        what = r.randrange(6)
        if what == 0 and packed:
            packed[at % len(packed)] = r.randrange(256)
        elif what == 1:
            del packed[at:end]
        elif what == 2:
            packed[at:at] = packed[at:end]
        elif what == 3:
            packed[at:end] = r.choice(seeds)[: end - at]
        elif what == 4:
            packed[at:at] = r.choice([b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"]) + r.randbytes(4)
        else:
            packed[at:at] = r.randbytes(r.randrange(20))
    return bytes(packed)


def test_ten_thousand_hostile_messages_raise_nothing_else_and_hold_little_memory(monkeypatch):
    def never(*_, **__):
        raise AssertionError("code from a message was run")

    for name in ("pickle.loads", "pickle.load", "builtins.eval", "builtins.exec"):
        monkeypatch.setattr(name, never)
    r = random.Random(7)
    seeds = [pack(MESSAGE), *(packed for packed, _ in HOSTILE.values() if len(packed) < 1000)]
    read = 0
    tracemalloc.start()
    try:
        for _ in range(10_000):
            with suppress(WireError):
                read += isinstance(unpack(mutated(r, seeds)), dict)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < read < 9_000, "some mutations do no harm, most do"
    assert peak < 64 * 2**20


def test_lists_in_lists_cannot_take_much_more_memory_than_their_bytes():
    bomb = b"\x81\xa1x" + b"\xdc\x0f\xff" * 1000  # each level claims 4095 entries, for which room is made at once
    many = msgpack.packb({"x": [[[]] * 4000] * 1000})
    for packed in (bomb, many):
        tracemalloc.start()
        try:
            with pytest.raises(WireError):
                unpack(packed)
            assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        finally:
            tracemalloc.stop()
