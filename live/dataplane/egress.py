"""Where packets leave this network namespace: its interfaces, and the one on whose network an address is.

Read with our own netlink messages, for a data plane is at work before pyroute2 would be imported.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from core.errors import DataplaneError
from core.model import Address, Prefix
from live.netlink import (
    NETLINK_ROUTE,
    DumpInterruptedError,
    Message,
    NetlinkError,
    NetlinkSocket,
    attributes,
    string,
    u32,
)

MAIN_TABLE: Final = 254

_GETLINK, _GETROUTE = 18, 26
_IFLA_IFNAME, _IFLA_MTU = 3, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 1, 4, 5, 6, 9, 15, 18
_UNICAST: Final = 1
_CLONED: Final = 0x200
_ENOENT: Final = 2
_ROUTE_HEADER: Final = struct.Struct("=8BI")
_ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface."""

    name: str
    index: int
    mtu_bytes: int


def there_of(names: Sequence[str], known: Mapping[str, Link]) -> tuple[str, ...]:
    """Those of the interfaces that exist. Raises DataplaneError when none does."""
    found = tuple(name for name in dict.fromkeys(names) if name in known)
    if names and not found:
        check_all(names, known)
    return found


def check_all(names: Sequence[str], known: Mapping[str, Link]) -> None:
    """Raises DataplaneError when an interface does not exist."""
    if missing := [name for name in names if name not in known]:
        raise DataplaneError(
            f"no interface {', '.join(missing)} in this network namespace, only {', '.join(sorted(known))}; name the gateway's networks"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OnLink:
    """A network that is right behind an interface: a route without a gateway."""

    network: Prefix
    metric: int
    interface: int


class Egress:
    """The networks that interfaces of this namespace are on, as they were when this was made.

    A route with a gateway, the default route above all, is no way to a target: what takes it would leave by the primary network.
    """

    def __init__(self, links: Mapping[str, Link], networks: Iterable[OnLink]) -> None:
        self._links = {link.index: link for link in links.values()}
        self._networks = sorted(networks, key=lambda found: (-found.network.prefixlen, found.metric))
        self._found: dict[Address, Link | None] = {}

    def link_of(self, address: Address) -> Link | None:
        """The interface whose network holds `address`, the longest prefix first; None: it is on no network of ours."""
        if address not in self._found:
            self._found[address] = next(
                (
                    self._links.get(on_link.interface)
                    for on_link in self._networks
                    if on_link.network.version == address.version and address in on_link.network
                ),
                None,
            )
        return self._found[address]


def links() -> dict[str, Link]:
    """Every interface of this namespace, by name."""
    found = {}
    for body in dump(Message(_GETLINK, 0, struct.pack("=BxHiII", 0, 0, 0, 0, 0), "listing interfaces")):
        values = attributes(body[16:])
        name = string(values[_IFLA_IFNAME])
        index = struct.unpack_from("=i", body, 4)[0]
        found[name] = Link(name=name, index=index, mtu_bytes=struct.unpack("=I", values[_IFLA_MTU])[0])
    return found


def egress(there: Mapping[str, Link]) -> Egress:
    """The networks of this namespace, now; `there` are its interfaces."""
    return Egress(there, [*_on_link(4), *_on_link(6)])


def _on_link(version: int) -> list[OnLink]:
    return routes_of(version, MAIN_TABLE)


def routes_of(version: int, table: int) -> list[OnLink]:
    """The routes of a table that have no gateway; none when there is no such table."""
    family, zeros = (socket.AF_INET, bytes(4)) if version == 4 else (socket.AF_INET6, bytes(16))
    request = _ROUTE_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + u32(_RTA_TABLE, table)
    try:
        answers = dump(Message(_GETROUTE, 0, request, f"listing routes of IPv{version}"))
    except NetlinkError as error:
        if error.errno == _ENOENT:
            return []
        raise
    found = []
    for body in answers:
        _, bits, _, _, _, _, _, kind, flags = _ROUTE_HEADER.unpack_from(body)
        values = attributes(body[12:])
        direct = not values.keys() & {_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA} and _RTA_OIF in values
        mine = struct.unpack("=I", values[_RTA_TABLE])[0] == table
        if mine and kind == _UNICAST and direct and not flags & _CLONED:
            network = ip_network((values.get(_RTA_DST, zeros), bits))
            metric = struct.unpack("=I", values[_RTA_PRIORITY])[0] if _RTA_PRIORITY in values else 0
            found.append(OnLink(network=network, metric=metric, interface=struct.unpack("=i", values[_RTA_OIF])[0]))
    return found


def dump(message: Message) -> list[bytes]:
    """What the kernel lists, from a moment in which nothing changed."""
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        for _ in range(_ATTEMPTS - 1):
            try:
                return [body for _, body in kernel.dump(message)]
            except DumpInterruptedError:
                continue
        return [body for _, body in kernel.dump(message)]
