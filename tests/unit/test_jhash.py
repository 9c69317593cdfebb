"""The flow hash, scalar against numpy; that the kernel computes the same is proved by the data planes' tests."""

from __future__ import annotations

import random

import numpy as np
import pytest

from core.lb import jhash


@pytest.mark.parametrize("count", [2, 4, 8, 10])
def test_scalar_and_array_agree(count: int) -> None:
    rng = random.Random(count)
    keys = [[rng.getrandbits(32) for _ in range(count)] for _ in range(500)]
    columns = [np.array([key[i] for key in keys], np.uint32) for i in range(count)]
    assert jhash.jhash2_array(columns, 77).tolist() == [jhash.jhash2(key, 77) for key in keys]


def test_port_word_is_two_network_bytes_then_two_zero_bytes() -> None:
    assert jhash.port_word(4000) == int.from_bytes((4000).to_bytes(2, "big") + b"\0\0", "little")
    ports = np.arange(65536)
    assert jhash.port_words(ports).tolist() == [jhash.port_word(port) for port in range(65536)]


def test_buckets_are_scaled_not_taken_modulo() -> None:
    assert jhash.reciprocal_scale(0, 65537) == 0
    assert jhash.reciprocal_scale(0xFFFFFFFF, 65537) == 65536
    words = np.array([0, 1 << 31, 0xFFFFFFFF], np.uint32)
    assert jhash.reciprocal_scale_array(words, 1009).tolist() == [0, 504, 1008]


def test_addresses_are_read_as_little_endian_words() -> None:
    assert jhash.address_words(bytes([192, 168, 1, 1])) == [0x0101A8C0]
    assert len(jhash.address_words(bytes(16))) == 4
