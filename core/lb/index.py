"""The decisions of `core.lb.classifier` for many packets against many flows: prepared once, then the cost of a packet depends on the
flows that it nearly matches, not on all of them.

Like everything that compiles flows, it must agree with the classifier packet by packet; a property test holds that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

from core.lb.classifier import Decision, Packet, flow_hash, header_matches
from core.lb.forwarding import REJECT, Flow, Forwarding, pool_table
from core.lb.jhash import reciprocal_scale
from core.model import Address, Prefix

SHORT: Final = 16
"""So many flows are looked through one by one."""
GROWTH: Final = 16
"""So many times as many entries as flows may an index by port have."""


class PrefixIndex:
    """Numbers by prefix; finding those of the prefixes that contain an address takes one look-up for each length in use."""

    def __init__(self, prefixes: Iterable[tuple[Prefix, int]]) -> None:
        self._by_length: dict[tuple[int, int], dict[int, list[int]]] = {}
        for prefix, number in prefixes:
            shift = prefix.max_prefixlen - prefix.prefixlen
            found = self._by_length.setdefault((prefix.version, shift), {})
            found.setdefault(int(prefix.network_address) >> shift, []).append(number)

    def at(self, address: Address) -> list[list[int]]:
        """The numbers of the prefixes that contain `address`, one list a prefix."""
        value = int(address)
        return [
            numbers
            for (version, shift), found in self._by_length.items()
            if version == address.version and (numbers := found.get(value >> shift))
        ]


class Classifier:
    """`core.lb.classifier.decide` for one Forwarding, from indices by destination, destination port and source."""

    def __init__(self, forwarding: Forwarding) -> None:
        self._seed = forwarding.seed
        self._flows = forwarding.flows
        self._pools = {pool.name: pool for pool in forwarding.pools}
        lists: dict[Prefix, list[int]] = {}
        for number, flow in enumerate(self._flows):
            for prefix in dict.fromkeys(flow.destinations):
                if prefix.version == flow.version:
                    lists.setdefault(prefix, []).append(number)
        self._ports = [_PortIndex(self._flows, numbers) for numbers in lists.values()]
        self._destinations = PrefixIndex(zip(lists, range(len(lists)), strict=True))
        self._sources = {
            number: PrefixIndex((prefix, 0) for prefix in flow.sources)
            for number, flow in enumerate(self._flows)
            if flow.sources
        }

    def near(self, packet: Packet) -> list[Flow]:
        """The flows one of whose destinations contains that of `packet`, in matching order."""
        found = {n for (at,) in self._destinations.at(packet.destination) for n in self._ports[at].numbers}
        return [self._flows[number] for number in sorted(found)]

    def classify(self, packet: Packet) -> Flow | None:
        """The first flow in matching order that `packet` matches."""
        port = None if packet.protocol is None else packet.destination_port
        best = len(self._flows)
        for (at,) in self._destinations.at(packet.destination):
            for number in self._ports[at].candidates(port):
                if number >= best:
                    break
                if self._matches(number, packet):
                    best = number
                    break
        return self._flows[best] if best < len(self._flows) else None

    def _matches(self, number: int, packet: Packet) -> bool:
        sources = self._sources.get(number)
        if sources is not None and not sources.at(packet.source):
            return False
        return header_matches(self._flows[number], packet)

    def decide(self, packet: Packet) -> Decision:
        """The fate of `packet`."""
        flow = self.classify(packet)
        if flow is None:
            return Decision()
        pool = self._pools[flow.pool]
        bucket = reciprocal_scale(flow_hash(packet, self._seed), pool.table_size)
        index = int(pool_table(pool)[bucket])
        return Decision(flow=flow, pool=pool, bucket=bucket, target=None if index == REJECT else pool.targets[index])


class _PortIndex:
    """The flows of one destination, by number; of many, those that may match a destination port."""

    def __init__(self, flows: Sequence[Flow], numbers: list[int]) -> None:
        self.numbers = numbers
        self._starts: list[int] = []
        self._pieces: list[tuple[int, ...]] = []
        if len(numbers) > SHORT:
            self._cut(flows)

    def _cut(self, flows: Sequence[Flow]) -> None:
        """Ports as intervals, each with the flows that allow it; left undone when flows overlap so much that it would not help."""
        events: dict[int, tuple[list[int], list[int]]] = {0: ([], [])}
        for number in self.numbers:
            for ports in flows[number].destination_ports:
                events.setdefault(ports.first, ([], []))[0].append(number)
                events.setdefault(ports.last + 1, ([], []))[1].append(number)
        room = GROWTH * len(self.numbers)
        # A flow may allow a port by several ranges.
        active: dict[int, int] = {}
        for start in sorted(events):
            begun, ended = events[start]
            for number in ended:
                active[number] -= 1
                if not active[number]:
                    del active[number]
            for number in begun:
                active[number] = active.get(number, 0) + 1
            room -= len(active)
            if room < 0:
                self._starts, self._pieces = [], []
                return
            self._starts.append(start)
            self._pieces.append(tuple(sorted(active)))

    def candidates(self, port: int | None) -> Sequence[int]:
        """Numbers in matching order; `port` None: the packet has none."""
        if port is None or not self._starts:
            return self.numbers
        return self._pieces[bisect_right(self._starts, port) - 1]
