"""Expressions of nftables rules, as the kernel takes them: each function returns one expression, a rule is their concatenation.

Registers are numbered in words of 32 bits from 0; a value of n bytes takes ceil(n / 4) of them. A load from a packet leaves the bytes
in network order; marks and hashes are numbers in host order.

Source: linux/netfilter/nf_tables.h; net/netfilter/nft_*.c.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from live.netlink import attribute, be32, nested, text

_LIST_ELEMENT: Final = 1
_FIRST_WORD: Final = 8  # NFT_REG32_00
_VERDICT_REGISTER: Final = 0
_VALUE: Final = 1
_VERDICT: Final = 2


class Base(IntEnum):
    """What an offset counts from: NFT_PAYLOAD_*_HEADER, or an IPv6 header that is looked for."""

    LINK = 0
    NETWORK = 1
    TRANSPORT = 2
    FOUND = 3
    MARK = 4
    """Not a place in the packet: four bytes of it that the mark keeps."""


class Meta(IntEnum):
    """NFT_META_*."""

    MARK = 3
    INPUT_NAME = 6
    FAMILY = 15
    PROTOCOL = 16
    PACKET_TYPE = 19


class Compare(IntEnum):
    """NFT_CMP_*, NFT_RANGE_*."""

    EQUAL = 0
    NOT_EQUAL = 1


class Verdict(IntEnum):
    """Verdicts of netfilter and nftables."""

    DROP = 0
    ACCEPT = 1
    JUMP = -3
    GOTO = -4
    RETURN = -5


class Reject(IntEnum):
    """NFT_REJECT_*."""

    TCP_RESET = 1
    ICMP = 2


@dataclass(frozen=True, slots=True)
class Load:
    """`length` bytes of a packet, at `offset` from `base`. A packet that is too short ends the rule.

    `header` is the protocol number of the header to look for in the chain of IPv6 headers, for `Base.FOUND`.
    """

    base: Base
    offset: int
    length: int
    header: int = 0


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(_LIST_ELEMENT, text(1, name), nested(2, *parts))


def _register(kind: int, word: int) -> bytes:
    return be32(kind, _FIRST_WORD + word)


def value(kind: int, data: bytes) -> bytes:
    """An attribute that holds a plain value."""
    return nested(kind, attribute(_VALUE, data))


def verdict_data(kind: int, verdict: Verdict, chain: str = "") -> bytes:
    """An attribute that holds a verdict, with its chain for JUMP and GOTO."""
    target = text(2, chain) if chain else b""
    return nested(kind, nested(_VERDICT, be32(1, verdict) + target))


def payload(load: Load, word: int = 0) -> bytes:
    """Loads bytes of the packet; the last word is padded with zero bytes."""
    if load.base is Base.FOUND:
        where = attribute(2, bytes([load.header])), be32(3, load.offset), be32(4, load.length)
        return _expression("exthdr", _register(1, word), *where)
    if load.base is Base.MARK:
        return _kept(load, word)
    return _expression("payload", _register(1, word), be32(2, load.base), be32(3, load.offset), be32(4, load.length))


def _kept(load: Load, word: int) -> bytes:
    """Bytes of the mark. A register is a number of 32 bits to shifts, so where a byte stands depends on the machine."""
    result = meta(Meta.MARK, word)
    if load.offset:
        operation = be32(6, 2 if sys.byteorder == "little" else 1)  # NFT_BITWISE_RSHIFT, _LSHIFT
        distance = nested(7, attribute(_VALUE, (8 * load.offset).to_bytes(4, sys.byteorder)))
        result += _expression("bitwise", _register(1, word), _register(2, word), be32(3, 4), operation, distance)
    if load.offset + load.length < 4:
        result += mask((b"\xff" * load.length).ljust(4, b"\0"), word)
    return result


def meta(key: Meta, word: int = 0) -> bytes:
    """Loads what the kernel knows of the packet."""
    return _expression("meta", _register(1, word), be32(2, key))


def set_mark(word: int = 0) -> bytes:
    """Writes the packet's mark."""
    return _expression("meta", be32(2, Meta.MARK), _register(3, word))


def compare(data: bytes, word: int = 0, operator: Compare = Compare.EQUAL) -> bytes:
    """Ends the rule unless the register compares with `data`."""
    return _expression("cmp", _register(1, word), be32(2, operator), value(3, data))


def within(first: bytes, last: bytes, word: int = 0, operator: Compare = Compare.EQUAL) -> bytes:
    """Ends the rule unless the register is between the two, or one of them (with NOT_EQUAL: if it is); bytes in network order."""
    return _expression("range", _register(1, word), be32(2, operator), value(3, first), value(4, last))


def forward(version: int, interface_word: int, address_word: int) -> bytes:
    """Sends the packet to the neighbour with that address on the interface with that index, one hop less; it does not come back."""
    family = {4: 2, 6: 10}[version]
    return _expression("fwd", _register(1, interface_word), _register(2, address_word), be32(3, family))


def mask(data: bytes, word: int = 0) -> bytes:
    """The register AND `data`, in place."""
    return change_bits(data, bytes(len(data)), word)


def change_bits(kept: bytes, flipped: bytes, word: int = 0) -> bytes:
    """The register AND `kept`, XOR `flipped`, in place."""
    parts = be32(3, len(kept)), value(4, kept), value(5, flipped)
    return _expression("bitwise", _register(1, word), _register(2, word), *parts)


def constant(data: bytes, word: int = 0) -> bytes:
    """Loads a constant."""
    return _expression("immediate", _register(1, word), value(2, data))


def decide(verdict: Verdict, chain: str = "") -> bytes:
    """Ends the evaluation of the chain with a verdict."""
    return _expression("immediate", be32(1, _VERDICT_REGISTER), verdict_data(2, verdict, chain))


def goto(chain: str) -> bytes:
    """Goes on in `chain` and does not come back."""
    return decide(Verdict.GOTO, chain)


def contained(set_name: str, word: int = 0, operator: Compare = Compare.EQUAL) -> bytes:
    """Ends the rule unless the register is in the set (with NOT_EQUAL: if it is); counts in the element where the set has counters."""
    inverted = be32(5, 1) if operator is Compare.NOT_EQUAL else b""
    return _expression("lookup", text(1, set_name), _register(2, word), inverted)


def mapped(map_name: str, word: int = 0) -> bytes:
    """Replaces the register (and those behind it, if it is long) by what the map has for it; ends the rule when it has nothing."""
    return _expression("lookup", text(1, map_name), _register(2, word), _register(3, word))


def dispatched(map_name: str, word: int = 0) -> bytes:
    """Takes the verdict that the map has for the register; goes on when it has none."""
    return _expression("lookup", text(1, map_name), _register(2, word), be32(3, _VERDICT_REGISTER))


def jhash(words: int, modulus: int, seed: int) -> bytes:
    """The bucket of the key in the first `words` words, into the first word: ``(jhash(key; seed) * modulus) >> 32``."""
    jenkins = be32(7, 0)
    length = be32(3, 4 * words)
    return _expression("hash", _register(1, 0), _register(2, 0), length, be32(4, modulus), be32(5, seed), jenkins)


def connection_state(word: int = 0) -> bytes:
    """Loads the state of the packet's connection. That a rule has it makes the kernel defragment packets in this namespace, and track
    connections."""
    return _expression("ct", _register(1, word), be32(2, 0))


def intercepted() -> bytes:
    """Gives the packet to a local socket. That a rule has it, in a chain that no packet comes to, makes the kernel defragment packets
    in this namespace, and nothing else."""
    any_family = 0
    return constant(bytes(2)) + _expression("tproxy", be32(1, any_family), _register(3, 0))


def source_kind(word: int = 0) -> bytes:
    """Loads what the source address is to this host's routing tables (RTN_LOCAL = 2: its own), as a number in host order."""
    address_kind, of_source = 3, 1
    return _expression("fib", _register(1, word), be32(2, address_kind), be32(3, of_source))


def untracked() -> bytes:
    """Keeps the packet away from connection tracking."""
    return _expression("notrack")


def counter() -> bytes:
    """Counts packets and bytes; for the elements of a set."""
    return text(1, "counter") + nested(2)


def reject(how: Reject) -> bytes:
    """Refuses the packet: TCP reset, or ICMP port unreachable of the packet's family."""
    port_unreachable = 1
    return _expression("reject", be32(1, how), attribute(2, bytes([port_unreachable])))
