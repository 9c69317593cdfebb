"""Who can reach whom: Pods by their addresses, gateway pods, routers outside; from a 5-tuple to the Pod that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from core.lb.forwarding import Forwarding
from core.lb.placement import FiveTuples, Indices, Placement, Placer
from core.model import Address, Attachment, L4Protocol
from sim.cluster.multus import PodInterface
from sim.des.kernel import Kernel, Signal
from sim.des.routing import Ecmp, HashThreshold, OutsideRouter, Rib

NOBODY: Final = -1
"""Nobody answers: the packet is lost on its way, or its answer is."""
REFUSED: Final = -2
"""A reset comes back."""
DROPPED: Final = -3
"""No route of the gateway matches."""
NO_ROUTE: Final = -4
"""The router outside does not know the address."""


@dataclass(slots=True, eq=False)
class PodPlace:
    """A Pod on its node: its network namespace."""

    name: str
    namespace: str
    uid: str
    node: str
    interfaces: tuple[PodInterface, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    """What the endpoint agent has made true."""
    listening: frozenset[tuple[L4Protocol, int]] = frozenset()
    index: int = NOBODY
    """Its number in `Fabric.names`."""
    addresses: tuple[Address, ...] = field(init=False, default=())

    def on(self, bridge: str) -> tuple[Address, ...]:
        """Its addresses on a network."""
        return tuple(a.ip for one in self.interfaces if one.bridge == bridge for a in one.addresses)


class Plane(Protocol):
    """A gateway pod as packets see it."""

    @property
    def forwarding(self) -> Forwarding:
        """What its load balancer has programmed: one object as long as it does not change."""

    def way_out(self, version: int) -> bool:
        """Whether it has learned a default route of an address family."""


class Flows:
    """The connections of one traffic, and where forwarding sets take them."""

    def __init__(self, tuples: FiveTuples, ecmp: Ecmp) -> None:
        self.tuples = tuples
        self._ecmp = ecmp
        self._placer = Placer(tuples)
        self._placed: dict[int, tuple[Forwarding, Placement]] = {}
        self._chosen: tuple[int, Indices] = (1, np.zeros(len(tuples), np.int32))

    def chosen(self, next_hops: int) -> Indices:
        """Which of so many next hops each connection takes."""
        if self._chosen[0] != next_hops:
            self._chosen = (next_hops, self._ecmp.choose(self.tuples, next_hops))
        return self._chosen[1]

    def placements(self, planes: Iterable[Forwarding]) -> list[Placement]:
        """Where each forwarding set takes the connections; those that were asked for last are remembered."""
        placed = {}
        for plane in planes:
            placed[id(plane)] = self._placed.get(id(plane)) or (plane, self._placer.place(plane))
        self._placed = placed
        return [placement for _, placement in placed.values()]


class Fabric:
    """The networks.

    Models: the path of a connection: route and next hop outside, table of the gateway pod, target that listens, holds the VIP and has a
    way back over a gateway pod that has learned a default route. Does not model: links, delays, losses, packets one by one; replies
    take any next hop that works.
    """

    def __init__(self, kernel: Kernel, routers: Iterable[OutsideRouter], ecmp: Ecmp | None = None) -> None:
        self.changed = Signal(kernel)
        """Some packet may take another path from now on."""
        self.ecmp = ecmp or HashThreshold()
        self.ribs = {router.name: Rib(router, self.changed.fire) for router in routers}
        self.names: list[str] = []
        """The Pods that there have been, by their number."""
        self._places: dict[str, dict[str, PodPlace]] = {}
        self._by_address: dict[Address, PodPlace] = {}
        self._planes: dict[str, Plane] = {}

    def add(self, place: PodPlace) -> None:
        """A Pod has its namespace."""
        place.index = len(self.names)
        self.names.append(place.name)
        place.addresses = tuple(a.ip for one in place.interfaces for a in one.addresses)
        self._places.setdefault(place.node, {})[place.uid] = place
        self._by_address |= dict.fromkeys(place.addresses, place)

    def remove(self, place: PodPlace) -> None:
        """Its namespace is gone."""
        self._places.get(place.node, {}).pop(place.uid, None)
        for address in place.addresses:
            if self._by_address.get(address) is place:
                del self._by_address[address]
        if place.listening:
            self.changed.fire()

    def places(self, node: str) -> tuple[PodPlace, ...]:
        """The Pods that have a namespace on a node."""
        return tuple(self._places.get(node, {}).values())

    def all_places(self) -> Iterator[PodPlace]:
        """The Pods that have a namespace on any node."""
        return (place for places in self._places.values() for place in places.values())

    def add_plane(self, place: PodPlace, plane: Plane) -> None:
        """A gateway pod forwards."""
        self._planes[place.uid] = plane
        self.changed.fire()

    def remove_plane(self, place: PodPlace) -> None:
        if self._planes.pop(place.uid, None) is not None:
            self.changed.fire()

    def flows(self, tuples: FiveTuples) -> Flows:
        return Flows(tuples, self.ecmp)

    def answers(self, router: str, flows: Flows) -> Indices:
        """For each connection the number of the Pod that answers it, NOBODY, REFUSED, DROPPED or NO_ROUTE; shape (n,)."""
        tuples = flows.tuples
        hops = self.ribs[router].next_hops(tuples.destination)
        if not hops:
            return np.full(len(tuples), NO_ROUTE, np.int32)
        planes = [self._plane(hop) for hop in hops]
        distinct = {id(plane): plane for plane in planes if plane is not None}
        who = self._who(tuples)
        found = [_numbers(placement, who) for placement in flows.placements(distinct.values())]
        if len(distinct) == 1 and None not in planes:
            return found[0]
        answers = np.full(len(tuples), NOBODY, np.int32)
        chosen = flows.chosen(len(hops))
        for hop, plane in enumerate(planes):
            if plane is not None:
                mine = chosen == hop
                answers[mine] = found[list(distinct).index(id(plane))][mine]
        return answers

    def _plane(self, hop: Address) -> Forwarding | None:
        place = self._by_address.get(hop)
        plane = self._planes.get(place.uid) if place is not None else None
        return plane.forwarding if plane is not None else None

    def _who(self, tuples: FiveTuples) -> Callable[[Address], int]:
        """Target address -> who answers there."""
        ways_out = {
            address
            for uid, plane in self._planes.items()
            if plane.way_out(tuples.destination.version)
            for place in (self._place(uid),)
            if place is not None
            for address in place.addresses
        }
        service = (tuples.protocol, tuples.destination_port)
        attached: dict[int, bool] = {}
        """id(attachments) -> whether they hold the address and have a way back; most Pods share them."""

        def who(address: Address) -> int:
            place = self._by_address.get(address)
            if place is None:
                return NOBODY
            key = id(place.attachments)
            if key not in attached:
                attached[key] = _serves(place.attachments, tuples.destination, ways_out)
            if not attached[key]:
                return NOBODY
            return place.index if service in place.listening else REFUSED

        return who

    def _place(self, uid: str) -> PodPlace | None:
        return next((places[uid] for places in self._places.values() if uid in places), None)


def _serves(attachments: Iterable[Attachment], vip: Address, ways_out: set[Address]) -> bool:
    """Whether a Pod with these attachments holds `vip`, and has a way back for its replies."""
    first = next((one for one in attachments if any(vip in prefix for prefix in one.vips)), None)
    return first is not None and not ways_out.isdisjoint(first.next_hops)


def _numbers(placement: Placement, who: Callable[[Address], int]) -> Indices:
    # The two last are found by the negative numbers of placements: DROPPED is -2 there, REJECTED -1.
    number = [who(target.address) for target in placement.targets]
    answers: Indices = np.array([*number, DROPPED, REFUSED], np.int32)[placement.target]
    return answers
