"""Addresses for interfaces, as whereabouts gives them: the lowest free one of each range."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Container
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


def lowest_free(wanted: AddressRange, taken: Container[IpAddress]) -> IpAddress | None:
    """The lowest address of the range that is neither excluded nor taken; None when there is none. O(taken + excluded networks)."""
    number, last = int(wanted.first), int(wanted.last)
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


class Addresses:
    """Who holds which address. A holder that asks again is given what it holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[PoolKey, dict[IpAddress, Holder]] = {}

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
                        self._pool(wanted, ipam.pool)[address] = holder
                return tuple(
                    ipaddress.ip_interface(f"{address}/{wanted.network.prefixlen}") for wanted, address in chosen
                )
            case _:
                assert_never(ipam)

    def release(self, pod_uid: str) -> None:
        """Frees all that a Pod holds."""
        with self._lock:
            for pool in self._pools.values():
                for address in [address for address, (uid, _) in pool.items() if uid == pod_uid]:
                    del pool[address]

    def _pool(self, wanted: AddressRange, name: str) -> dict[IpAddress, Holder]:
        return self._pools.setdefault((wanted.network, name), {})

    def _choose(self, holder: Holder, wanted: AddressRange, pool_name: str, network: str) -> IpAddress:
        pool = self._pool(wanted, pool_name)
        for address, other in pool.items():
            if other == holder and int(wanted.first) <= int(address) <= int(wanted.last):
                return address
        free = lowest_free(wanted, pool)
        if free is None:
            raise NetworkError(
                "AddressesExhausted",
                f"network {network}: no free address in {wanted.network} ({wanted.first} to {wanted.last},"
                f" {len(pool)} held, excluded: {', '.join(map(str, wanted.exclude)) or 'none'})",
            )
        return free
