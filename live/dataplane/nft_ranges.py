"""The dimensions of a flow as ranges of numbers, and how ranges are cut into pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from core.lb.forwarding import Flow
from core.model import PortRange, Prefix
from live.dataplane.nft_expressions import Load
from live.dataplane.nft_packets import Layout
from live.dataplane.nft_wire import PORT_KEY, KeyType

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Dimension:
    """One question about a packet: what a flow allows (None: anything), and where the answer stands."""

    name: str
    allowed: Callable[[Flow], Ranges | None]
    load: Callable[[Layout], Load]
    key: Callable[[Layout], KeyType]


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same values as sorted ranges that neither overlap nor touch."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(last, result[-1][1])
        else:
            result.append((first, last))
    return tuple(result)


def cut(
    flows: Sequence[Flow], allowed: Sequence[Ranges | None], *, limit: int
) -> list[tuple[int, int, list[Flow]]] | None:
    """The intervals (first, last, flows that contain it, in order) in which at least one flow that asks is; sorted.

    `allowed[i]` is what flow i asks for, None for nothing. Returns None when the lists of flows would have more than `limit` entries
    together.
    """
    everywhere = {i for i, ranges in enumerate(allowed) if ranges is None}
    bounds: dict[int, list[tuple[int, bool]]] = {}
    for i, ranges in enumerate(allowed):
        for first, last in ranges or ():
            bounds.setdefault(first, []).append((i, True))
            bounds.setdefault(last + 1, []).append((i, False))
    pieces = []
    inside: set[int] = set()
    entries = 0
    points = sorted(bounds)
    for at, after in pairwise(points):
        for i, begins in bounds[at]:
            (inside.add if begins else inside.discard)(i)
        if inside:
            entries += len(inside) + len(everywhere)
            if entries > limit:
                return None
            pieces.append((at, after - 1, [flows[i] for i in sorted(inside | everywhere)]))
    return pieces


def joined(ranges: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Neighbours that lead to the same chain as one."""
    result: list[tuple[int, int, str]] = []
    for first, last, chain in ranges:
        if result and result[-1][2] == chain and result[-1][1] + 1 == first:
            result[-1] = result[-1][0], last, chain
        else:
            result.append((first, last, chain))
    return result


def _prefixes(prefixes: Iterable[Prefix], version: int) -> Ranges:
    return merged(
        (int(prefix.network_address), int(prefix.broadcast_address)) for prefix in prefixes if prefix.version == version
    )


def _ports(ranges: Sequence[PortRange]) -> Ranges | None:
    values = merged((ports.first, ports.last) for ports in ranges)
    return None if values == ((0, 65535),) else values


def destination_ranges(flow: Flow) -> Ranges:
    return _prefixes(flow.destinations, flow.version)


def destinations_of(flows: Iterable[Flow], version: int) -> Ranges:
    """The VIPs of all `flows` of one IP version."""
    return merged(r for flow in flows if flow.version == version for r in destination_ranges(flow))


DESTINATION: Final = Dimension("destination", destination_ranges, lambda at: at.destination, lambda at: at.address_key)
_SOURCE = Dimension(
    "source",
    lambda flow: _prefixes(flow.sources, flow.version) if flow.sources else None,
    lambda at: at.source,
    lambda at: at.address_key,
)
_DESTINATION_PORT = Dimension(
    "dport", lambda flow: _ports(flow.destination_ports), lambda at: at.destination_port, lambda _: PORT_KEY
)
_SOURCE_PORT = Dimension("sport", lambda flow: _ports(flow.source_ports), lambda at: at.source_port, lambda _: PORT_KEY)
PORTED: Final = (DESTINATION, _DESTINATION_PORT, _SOURCE, _SOURCE_PORT)
ADDRESSED: Final = (DESTINATION, _SOURCE)
