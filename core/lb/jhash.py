"""Linux's jhash and the bucket of a flow: scalar for one packet, numpy for a million.

nftables' ``jhash``, our BPF program and this file compute the same bucket bit for bit:

    bucket = (jhash2(words; seed) * M) >> 32

The words of a flow are what the kernel loads from the packet, as little-endian 32-bit words: addresses in network byte order, each
port as two network-order bytes followed by two zero bytes.

    TCP, UDP over IPv4    saddr, daddr, sport, dport              (4 words)
    TCP, UDP over IPv6    saddr[4], daddr[4], sport, dport        (10 words)
    SCTP                  sport, dport                            (2 words: an association has many addresses, RFC 9260 section 6.4)
    ICMP echo             saddr, daddr                            (2 or 8 words)

Source: linux/jhash.h (jhash2; Bob Jenkins' lookup3), net/netfilter/nft_hash.c, linux/kernel.h (reciprocal_scale).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

JHASH_INITVAL = 0xDEADBEEF
_U32 = 0xFFFFFFFF

Words = NDArray[np.uint32]


def _rol(word: int, shift: int) -> int:
    return ((word << shift) | (word >> (32 - shift))) & _U32


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """__jhash_mix of linux/jhash.h."""
    a = ((a - c) & _U32) ^ _rol(c, 4)
    c = (c + b) & _U32
    b = ((b - a) & _U32) ^ _rol(a, 6)
    a = (a + c) & _U32
    c = ((c - b) & _U32) ^ _rol(b, 8)
    b = (b + a) & _U32
    a = ((a - c) & _U32) ^ _rol(c, 16)
    c = (c + b) & _U32
    b = ((b - a) & _U32) ^ _rol(a, 19)
    a = (a + c) & _U32
    c = ((c - b) & _U32) ^ _rol(b, 4)
    b = (b + a) & _U32
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    """__jhash_final of linux/jhash.h."""
    c = ((c ^ b) - _rol(b, 14)) & _U32
    a = ((a ^ c) - _rol(c, 11)) & _U32
    b = ((b ^ a) - _rol(a, 25)) & _U32
    c = ((c ^ b) - _rol(b, 16)) & _U32
    a = ((a ^ c) - _rol(c, 4)) & _U32
    b = ((b ^ a) - _rol(a, 14)) & _U32
    return ((c ^ b) - _rol(b, 24)) & _U32


def jhash2(words: Sequence[int], seed: int) -> int:
    """The 32-bit hash of `words` (each 0 <= word < 2**32).

    Source: linux/jhash.h, jhash2(); jhash() of the same bytes is equal, because the length is a multiple of four bytes.
    """
    a = b = c = (JHASH_INITVAL + (len(words) << 2) + seed) & _U32
    left = list(words)
    while len(left) > 3:
        a, b, c = _mix((a + left[0]) & _U32, (b + left[1]) & _U32, (c + left[2]) & _U32)
        del left[:3]
    if not left:
        return c
    a = (a + left[0]) & _U32
    if len(left) > 1:
        b = (b + left[1]) & _U32
    if len(left) > 2:
        c = (c + left[2]) & _U32
    return _final(a, b, c)


def jhash2_array(columns: Sequence[Words], seed: int) -> Words:
    """jhash2 of many keys at once: `columns[i]` holds the i-th word of every key, shape (n,); returns shape (n,), uint32."""
    start = np.uint32((JHASH_INITVAL + (len(columns) << 2) + seed) & _U32)
    n = len(columns[0])
    a, b, c = (np.full(n, start, np.uint32) for _ in range(3))
    left = list(columns)
    while len(left) > 3:
        a += left[0]
        b += left[1]
        c += left[2]
        _mix_array(a, b, c)
        del left[:3]
    if not left:
        return c
    for word, column in zip((a, b, c), left, strict=False):
        word += column
    _final_array(a, b, c)
    return c


def _rol_array(word: Words, shift: int) -> Words:
    return (word << np.uint32(shift)) | (word >> np.uint32(32 - shift))


def _mix_array(a: Words, b: Words, c: Words) -> None:
    """__jhash_mix, in place; uint32 arrays wrap silently."""
    for x, y, z, shift in ((a, c, b, 4), (b, a, c, 6), (c, b, a, 8), (a, c, b, 16), (b, a, c, 19), (c, b, a, 4)):
        # x -= y; x ^= rol(y, shift); y += z
        x -= y
        x ^= _rol_array(y, shift)
        y += z


def _final_array(a: Words, b: Words, c: Words) -> None:
    """__jhash_final, in place."""
    for x, y, shift in ((c, b, 14), (a, c, 11), (b, a, 25), (c, b, 16), (a, c, 4), (b, a, 14), (c, b, 24)):
        x ^= y
        x -= _rol_array(y, shift)


def reciprocal_scale(word: int, size: int) -> int:
    """Maps a 32-bit hash to 0 <= bucket < `size` (linux/kernel.h, reciprocal_scale)."""
    return (word * size) >> 32


def reciprocal_scale_array(words: Words, size: int) -> NDArray[np.int64]:
    """`reciprocal_scale` of every element; shape (n,)."""
    return ((words.astype(np.uint64) * np.uint64(size)) >> np.uint64(32)).astype(np.int64)


def address_words(packed: bytes) -> list[int]:
    """The words of an address given as its 4 or 16 network-order bytes."""
    return [int.from_bytes(packed[i : i + 4], "little") for i in range(0, len(packed), 4)]


def port_word(port: int) -> int:
    """The word of a port: two network-order bytes, then two zero bytes, read as a little-endian word."""
    return ((port & 0xFF) << 8) | (port >> 8)


def port_words(ports: NDArray[np.integer]) -> Words:
    """`port_word` of every element; shape (n,)."""
    wide = ports.astype(np.uint32)
    return ((wide & np.uint32(0xFF)) << np.uint32(8)) | (wide >> np.uint32(8))
