"""Addresses for interfaces, as whereabouts gives them: the lowest free one of each range."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Container
from dataclasses import dataclass, field
from typing import assert_never

from sim.cluster.networks import (
    AddressRange,
    IpAddress,
    Ipam,
    IpInterface,
    IpNetwork,
    NetworkError,
    NoIpam,
    StaticIpam,
    Whereabouts,
)

Holder = tuple[str, str]
"""(Pod UID, interface)."""
PoolKey = tuple[IpNetwork, str]


def lowest_free(wanted: AddressRange, taken: Container[IpAddress], start: int = 0) -> IpAddress | None:
    """The lowest address of the range, not below the number `start`, that is neither excluded nor taken; None when there is none.

    O(taken ones from `start` on + excluded networks).
    """
    number, last = max(start, int(wanted.first)), int(wanted.last)
    make = ipaddress.IPv4Address if wanted.network.version == 4 else ipaddress.IPv6Address
    while number <= last:
        address = make(number)
        excluding = [network for network in wanted.exclude if address in network]
        if excluding:
            number = max(int(network.broadcast_address) for network in excluding) + 1
        elif address in taken:
            number += 1
        else:
            return address
    return None


@dataclass(slots=True)
class _Pool:
    """The addresses of a network that are held. To fill a range costs O(1) an address: searches begin where nothing below is free."""

    holders: dict[IpAddress, Holder] = field(default_factory=dict)
    held_by: dict[str, dict[IpAddress, Holder]] = field(default_factory=dict)
    """By Pod UID."""
    taken_below: dict[AddressRange, int] = field(default_factory=dict)
    """Every address of the range below this number is held or excluded."""

    def hold(self, address: IpAddress, holder: Holder) -> None:
        self.holders[address] = holder
        self.held_by.setdefault(holder[0], {})[address] = holder

    def release(self, pod_uid: str) -> None:
        for address in self.held_by.pop(pod_uid, ()):
            del self.holders[address]
            for wanted, lowest in self.taken_below.items():
                self.taken_below[wanted] = min(lowest, int(address))


class Addresses:
    """Who holds which address. A holder that asks again is given what it holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[PoolKey, _Pool] = {}

    def allocate(self, holder: Holder, ipam: Ipam, network: str) -> tuple[IpInterface, ...]:
        """The addresses of one interface; all of them or none.

        Raises:
            NetworkError: AddressesExhausted, naming `network` and the range.
        """
        match ipam:
            case NoIpam():
                return ()
            case StaticIpam():
                return ipam.addresses
            case Whereabouts():
                with self._lock:
                    chosen = [(wanted, self._choose(holder, wanted, ipam.pool, network)) for wanted in ipam.ranges]
                    for wanted, address in chosen:
                        self._pool(wanted, ipam.pool).hold(address, holder)
                return tuple(
                    ipaddress.ip_interface(f"{address}/{wanted.network.prefixlen}") for wanted, address in chosen
                )
            case _:
                assert_never(ipam)

    def release(self, pod_uid: str) -> None:
        """Frees all that a Pod holds."""
        with self._lock:
            for pool in self._pools.values():
                pool.release(pod_uid)

    def _pool(self, wanted: AddressRange, name: str) -> _Pool:
        return self._pools.setdefault((wanted.network, name), _Pool())

    def _choose(self, holder: Holder, wanted: AddressRange, pool_name: str, network: str) -> IpAddress:
        pool = self._pool(wanted, pool_name)
        for address, other in pool.held_by.get(holder[0], {}).items():
            if other == holder and int(wanted.first) <= int(address) <= int(wanted.last):
                return address
        free = lowest_free(wanted, pool.holders, pool.taken_below.get(wanted, 0))
        if free is None:
            raise NetworkError(
                "AddressesExhausted",
                f"network {network}: no free address in {wanted.network} ({wanted.first} to {wanted.last},"
                f" {len(pool.holders)} held, excluded: {', '.join(map(str, wanted.exclude)) or 'none'})",
            )
        pool.taken_below[wanted] = int(free)
        return free
