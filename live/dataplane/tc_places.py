"""Where targets are, as the maps of the tc plane say it: found once for each target while the networks stay as they are."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from core.lb.forwarding import Pool, Target
from core.model import Address
from live.dataplane.egress import MAIN_TABLE, Egress, Link, OnLink, routes_of
from live.dataplane.tc_program import TARGET

Record = bytes
"""A struct target: where packets for an address are sent. Two targets with equal records are one."""

_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def address_in(record: Record) -> Address:
    """The address of a target."""
    _, _, packed, family = TARGET.unpack(record)
    return IPv4Address(packed[:4]) if family == _FAMILY[4] else IPv6Address(packed)


class Place(NamedTuple):
    """Where one target is. It keeps the target, whose identity it is found by, alive."""

    target: Target
    record: Record
    link: Link | None


class PoolPlaces(NamedTuple):
    """Where the targets of one pool are; the same object while pool and networks are."""

    pool: Pool
    records: tuple[Record, ...]
    """By the order of `pool.targets`."""
    least_mtu_bytes: int | None
    unreachable: tuple[Target, ...]
    """Those on no network of this namespace."""


class Places:
    """The places of all targets of the last `look`."""

    def __init__(self) -> None:
        self._networks: tuple[Mapping[str, Link], Sequence[OnLink]] | None = None
        self._way_out = Egress({}, ())
        self._places: dict[int, Place] = {}
        self._pools: dict[str, PoolPlaces] = {}

    def look(self, pools: Iterable[Pool], there: Mapping[str, Link]) -> dict[str, PoolPlaces]:
        """Where the targets of each pool are, by the pool's name; `there` are the interfaces. O(targets of pools that have changed).

        Raises NetlinkError when the kernel does not tell its routes.
        """
        networks = there, (*routes_of(4, MAIN_TABLE), *routes_of(6, MAIN_TABLE))
        if networks != self._networks:
            self._networks, self._way_out = networks, Egress(*networks)
            self._places, self._pools = {}, {}
        before, self._pools = self._pools, {}
        for pool in pools:
            known = before.get(pool.name)
            self._pools[pool.name] = known if known is not None and known.pool is pool else self._found(pool)
        self._forget(sum(len(found.records) for found in self._pools.values()))
        return self._pools

    def _found(self, pool: Pool) -> PoolPlaces:
        known = self._places
        places: list[Place] = []
        for target in pool.targets:
            place = known.get(id(target))
            if place is None:
                place = known[id(target)] = self._place(target)
            places.append(place)
        return PoolPlaces(
            pool=pool,
            records=tuple([place.record for place in places]),
            least_mtu_bytes=min((place.link.mtu_bytes for place in places if place.link is not None), default=None),
            unreachable=tuple([place.target for place in places if place.link is None]),
        )

    def _place(self, target: Target) -> Place:
        link = self._way_out.link_of(target.address)
        index, mtu_bytes = (link.index, link.mtu_bytes) if link is not None else (0, 0)
        record = TARGET.pack(index, mtu_bytes, target.address.packed, _FAMILY[target.address.version])
        return Place(target, record, link)

    def _forget(self, in_use: int) -> None:
        """Targets that are in no pool any more, when there are many."""
        if len(self._places) > 2 * in_use + 64:
            used = {id(target) for found in self._pools.values() for target in found.pool.targets}
            self._places = {number: place for number, place in self._places.items() if number in used}
