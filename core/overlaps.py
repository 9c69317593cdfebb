"""Which routes of a gateway get packets that an older one of the same priority gets before them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Final

from core.flows import Bound
from core.manifests.fields import LONGEST_L4_HEADER_BYTES
from core.model import ByteMatch, L4Protocol, Match, ObjectRef, PortRange, Prefix

COMPARED_AT_A_PREFIX: Final = 16
"""Of routes that have one port at one prefix, or at prefixes inside it, so many are compared with others: the older ones."""
COMPARED: Final = 64
"""With so many routes is one compared, for each prefix and range of ports that it has."""

_HEADER_BITS: Final = 8 * LONGEST_L4_HEADER_BYTES

_Spans = tuple[tuple[int, int], ...]
"""First and last numbers, in ascending order; none overlaps another."""
_Place = tuple[int, int]
"""A prefix of one IP version: its length, and the bits that it fixes."""
_Entry = tuple[int, int, int, _Place]
"""First and last destination port, the number of the route in matching order, and where."""
_Active = dict[_Place, dict[int, int]]
"""Place -> number -> last port, of those that the sweep has begun and not ended."""


def overtaken(bound: Sequence[Bound]) -> dict[ObjectRef, ObjectRef]:
    """Route -> the oldest route of the same priority that was found to get some of its packets. `bound` is in matching order.

    Who is named does share packets. Some may be missing where more routes than COMPARED_AT_A_PREFIX have the same port at
    overlapping prefixes, so that O(prefixes x ranges of ports x lengths of prefixes) is enough. Pings are not looked at.
    """
    kinds: dict[tuple[int, L4Protocol, int], list[_Entry]] = {}
    for number, one in enumerate(bound):
        for protocol in one.match.protocols:
            for destination in one.match.destinations:
                entries = kinds.setdefault((one.match.priority, protocol, destination.version), [])
                entries += ((r.first, r.last, number, _place(destination)) for r in one.match.destination_ports)
    matched = cache(lambda number: _matched(bound[number].match))
    found: dict[ObjectRef, int] = {}
    for (_, protocol, version), entries in kinds.items():
        compared: set[tuple[int, int]] = set()
        for pair in _pairs(entries):
            older, younger = (bound[number].route.meta.ref for number in pair)
            if pair in compared or found.get(younger, len(bound)) <= pair[0] or older == younger:
                continue
            compared.add(pair)
            if _share_packets(matched(pair[0]), matched(pair[1]), protocol, version):
                found[younger] = pair[0]
    return {route: bound[number].route.meta.ref for route, number in found.items()}


def _pairs(entries: list[_Entry]) -> Iterator[tuple[int, int]]:
    """(older, younger) of the numbers whose ports and prefixes overlap, some of them several times: a sweep over the ports."""
    lengths = sorted({place[0] for *_, place in entries}, reverse=True)
    at: _Active = {}
    below: _Active = {}
    for first, last, number, place in sorted(entries) if len(entries) > 1 else ():
        around = [(length, place[1] >> place[0] - length) for length in lengths if length < place[0]]
        near = ((at, place), (below, place), *((at, each) for each in around))
        others = (other for active, where in near for other in _live(active, where, first) if other != number)
        yield from ((min(number, other), max(number, other)) for other in islice(others, COMPARED))
        for active, where in ((at, place), *((below, each) for each in around)):
            live = active.setdefault(where, {})
            live[number] = max(last, live.get(number, last))
            if len(live) > COMPARED_AT_A_PREFIX:
                del live[max(live)]


def _live(active: _Active, where: _Place, port: int) -> list[int]:
    """The numbers at a place whose ports have not ended before `port`; those that have are forgotten."""
    if where not in active:
        return []
    active[where] = {number: last for number, last in active[where].items() if last >= port}
    return sorted(active[where])


def _place(prefix: Prefix) -> _Place:
    return prefix.prefixlen, int(prefix.network_address) >> prefix.max_prefixlen - prefix.prefixlen


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matched:
    """What a route matches beside destinations and protocols."""

    sources: Mapping[int, _Spans]
    """By IP version."""
    source_ports: _Spans
    destination_ports: _Spans
    byte_matches: tuple[ByteMatch, ...]


def _matched(match: Match) -> _Matched:
    everywhere = {4: ((0, 2**32 - 1),), 6: ((0, 2**128 - 1),)}
    return _Matched(
        sources={v: _spans(_addresses(match.sources, v)) for v in (4, 6)} if match.sources else everywhere,
        source_ports=_spans(_numbers(match.source_ports)),
        destination_ports=_spans(_numbers(match.destination_ports)),
        byte_matches=match.byte_matches,
    )


def _addresses(prefixes: Iterable[Prefix], version: int) -> Iterator[tuple[int, int]]:
    for prefix in prefixes:
        if prefix.version == version:
            first = int(prefix.network_address)
            yield first, first + prefix.num_addresses - 1


def _numbers(ports: Iterable[PortRange]) -> Iterator[tuple[int, int]]:
    return ((each.first, each.last) for each in ports)


def _spans(found: Iterable[tuple[int, int]]) -> _Spans:
    spans: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if spans and first <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(last, spans[-1][1])
        else:
            spans.append((first, last))
    return tuple(spans)


def _common(a: _Spans, b: _Spans) -> Iterator[tuple[int, int]]:
    """What is in both."""
    i = j = 0
    while i < len(a) and j < len(b):
        first, last = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if first <= last:
            yield first, last
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1


def _share_packets(one: _Matched, other: _Matched, protocol: L4Protocol, version: int) -> bool:
    """Whether both match some packet of this protocol and IP version to a VIP and a port that both have."""
    return (
        any(_common(one.sources[version], other.sources[version]))
        and any(_common(one.source_ports, other.source_ports))
        and (not (one.byte_matches or other.byte_matches) or _bytes_agree(one, other, protocol))
    )


def _bytes_agree(one: _Matched, other: _Matched, protocol: L4Protocol) -> bool:
    """Whether a header exists that has ports of both and fulfils the byte matches of both."""
    mask = value = 0
    for byte_match in (*one.byte_matches, *other.byte_matches):
        shift = _HEADER_BITS - 8 * (byte_match.offset + byte_match.length)
        bits, wanted = byte_match.mask << shift, (byte_match.value & byte_match.mask) << shift
        if byte_match.protocol is not protocol or (value ^ wanted) & mask & bits:
            return False
        mask, value = mask | bits, value | wanted

    # RFC 9293, section 3.1, and alike for UDP and SCTP: the source port comes first, then the destination port, 16 bits each.
    def has_port(spans: Iterable[tuple[int, int]], bits_before: int) -> bool:
        shift = _HEADER_BITS - bits_before - 16
        of_mask, of_value = mask >> shift & 0xFFFF, value >> shift & 0xFFFF
        return any(port & of_mask == of_value for first, last in spans for port in range(first, last + 1))

    return has_port(_common(one.source_ports, other.source_ports), 0) and has_port(
        _common(one.destination_ports, other.destination_ports), 16
    )
