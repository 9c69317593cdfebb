"""The packet inside an ICMP error: where its L4 header begins depends on its IPv4 options or IPv6 extension headers.

nftables loads from fixed offsets. Chains that do not depend on the flows look where the L4 header is, and keep its first four bytes,
the ports, in the packet's mark: there the trees that decide among flows (nft_program) ask for them (`Base.MARK`). On the way through
the headers of IPv6 the mark is what stands there: the kind of the header and, in the second byte, where it begins, in units of 8 bytes.

One chain and rules that follow each other, instead of a chain for each header: the kernel checks every path through chains, and allows
16 of them one behind the other.

Source: RFC 791, section 3.1; RFC 8200, section 4; RFC 4302, section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from core.model import L4Protocol
from live.dataplane import nft_expressions as nft
from live.dataplane.nft_expressions import Base, Compare, Load, Verdict
from live.dataplane.nft_packets import AUTHENTICATION, ECHOES, ICMP, ICMP_HEADER, IP_HEADER

EXTENSION_HEADERS: Final = 3
"""So many extension headers may an IPv6 packet inside an error have,"""
EXTENSIONS_BYTES: Final = 64
"""and so long may they be together."""

_FRAGMENT: Final = 44
_OTHERS: Final = (0, 60, 43)
"""Hop-by-hop options, destination options, routing: length in units of 8 bytes behind the first."""
_UNIT: Final = 8

Chains = Mapping[str, tuple[bytes, ...]]
Name = Callable[[str, Sequence[bytes]], str]
"""Names a chain by its label and its rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """The chains that decide about each kind of packet inside, and the one that drops what matches nothing."""

    transports: Mapping[L4Protocol, str]
    echo: str
    unmatched: str


def chains_inside(version: int, trees: Trees, name: Name) -> tuple[str, Chains]:
    """(the chain for ICMP errors, all chains that it needs)."""
    load, made = _loading(version, trees.unmatched, name)
    chains = dict(made)

    def add(label: str, rules: Sequence[bytes]) -> str:
        named = name(label, rules)
        chains[named] = tuple(rules)
        return named

    loaded = nft.decide(Verdict.JUMP, load)
    unmatched = nft.goto(trees.unmatched)
    echoes = [_kept(0, kind) + nft.goto(trees.echo) for kind in ECHOES[version]]
    if version == 4:
        of = {protocol: _at(9) + nft.compare(bytes([protocol])) for protocol in (*L4Protocol, ICMP[4])}
        decide = [of[protocol] + nft.goto(tree) for protocol, tree in trees.transports.items()]
        echo = add("error-v4-echo", [*echoes, unmatched])
        return add("error-v4", [loaded, *decide, of[ICMP[4]] + nft.goto(echo), unmatched]), chains
    walk, made = _walk(name)
    chains |= made
    rules = [
        _at(0) + nft.mask(b"\xf0") + nft.compare(b"\x60", operator=Compare.NOT_EQUAL) + unmatched,
        nft.constant(bytes(4)) + nft.set_mark(),
        _go_on(6, IP_HEADER[6]),
        nft.decide(Verdict.JUMP, walk),
    ]
    for protocol, tree in trees.transports.items():
        found = add(f"error-v6-{protocol.name.lower()}", [loaded, nft.goto(tree)])
        rules.append(_kept(0, protocol) + nft.goto(found))
    rules.append(_kept(0, ICMP[6]) + nft.goto(add("error-v6-echo", [loaded, *echoes, unmatched])))
    return add("error-v6", [*rules, unmatched]), chains


@lru_cache(maxsize=8)
def _loading(version: int, unmatched: str, name: Name) -> tuple[str, Chains]:
    """The chain that puts the first four bytes of the L4 header into the mark. A later fragment has none."""
    if version == 4:
        first = _at(6, 2) + nft.mask(b"\x1f\xff") + nft.compare(b"\0\0")
        found = {4 * words: _at(0) + nft.compare(bytes([0x40 | words])) + first for words in range(5, 16)}
    else:
        found = {offset: _kept(1, offset // _UNIT) for offset in _offsets()}
    back = nft.decide(Verdict.RETURN)
    rules = [question + _at(offset, 4) + nft.set_mark() + back for offset, question in found.items()]
    rules.append(nft.goto(unmatched))
    named = name(f"error-v{version}-load", rules)
    return named, {named: tuple(rules)}


@lru_cache(maxsize=2)
def _walk(name: Name) -> tuple[str, Chains]:
    """The chain that leads the mark from the first header of an IPv6 packet to the L4 header, or as far as it goes."""
    done = [_kept(0, kind) + nft.decide(Verdict.RETURN) for kind in (*L4Protocol, ICMP[6])]
    rules = [rule for _ in range(EXTENSION_HEADERS) for rule in (*done, *_one_header())]
    named = name("error-v6-walk", rules)
    return named, {named: tuple(rules)}


def _one_header() -> list[bytes]:
    """Rules that go past one extension header; the first that applies returns only when there is nothing behind it to go on with."""
    rules = []
    # From the far end, so that of these rules only one applies.
    for offset in reversed(_offsets()[:-1]):
        here = _kept(1, offset // _UNIT)
        first = _at(offset + 2, 2) + nft.mask(b"\xff\xf8") + nft.compare(b"\0\0")
        rules.append(here + _kept(0, _FRAGMENT) + first + _go_on(offset, offset + _UNIT))
        for end in (o for o in _offsets() if o > offset):
            units = (end - offset) // _UNIT
            rules += [here + _kept(0, kind) + _length(offset, units - 1) + _go_on(offset, end) for kind in _OTHERS]
            rules.append(here + _kept(0, AUTHENTICATION) + _length(offset, 2 * units - 2) + _go_on(offset, end))
    return rules


def _offsets() -> range:
    """Where an L4 header, or an extension header, may begin."""
    return range(IP_HEADER[6], IP_HEADER[6] + EXTENSIONS_BYTES + 1, _UNIT)


def _at(offset: int, length: int = 1) -> bytes:
    """Loads bytes of the packet inside."""
    return nft.payload(Load(Base.TRANSPORT, ICMP_HEADER + offset, length))


def _length(offset: int, value: int) -> bytes:
    """Ends the rule unless the length field of the extension header at `offset` has this value."""
    return _at(offset + 1) + nft.compare(bytes([value]))


def _kept(byte: int, value: int) -> bytes:
    """Ends the rule unless a byte of the mark has this value."""
    return nft.payload(Load(Base.MARK, byte, 1)) + nft.compare(bytes([value]))


def _go_on(next_header_at: int, offset: int) -> bytes:
    """The mark becomes: the header that is named at `next_header_at` begins at `offset`."""
    return _at(next_header_at) + nft.change_bits(b"\xff\0\0\0", bytes([0, offset // _UNIT, 0, 0])) + nft.set_mark()
