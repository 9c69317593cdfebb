"""Attributes on the wire."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from live.netlink import attribute, attributes, be32, each_attribute, nested, string, text, u32

pairs = st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)))


@given(pairs)
def test_attributes_are_read_back_in_order(written: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in written)
    assert len(data) % 4 == 0
    assert list(each_attribute(data)) == written


def test_nesting_numbers_and_strings() -> None:
    data = nested(5, u32(1, 7), be32(2, 0xFFFFFFFC), text(3, "net1"))
    inside = attributes(attributes(data)[5])
    assert struct.unpack("=I", inside[1]) == (7,)
    assert inside[2] == b"\xff\xff\xff\xfc"
    assert string(inside[3]) == "net1"


def test_a_broken_attribute_ends_the_reading() -> None:
    assert list(each_attribute(attribute(1, b"abc") + b"\x01\x00\x05\x00")) == [(1, b"abc")]
