"""Where packets leave this network namespace: its interfaces, and the one on whose network an address is."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from core.model import Address
from live.netlink import NETLINK_ROUTE, Message, NetlinkSocket, attributes, string
from live.rtnetlink import MAIN_TABLE, RouteKind, RouteSocket, RouteSpec

_GETLINK: Final = 18
_IFLA_IFNAME, _IFLA_MTU = 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface."""

    name: str
    index: int
    mtu_bytes: int


class Egress:
    """The networks that interfaces of this namespace are on, as they were when this was made.

    A route with a gateway, the default route above all, is no way to a target: what takes it would leave by the primary network.
    """

    def __init__(self, links: Mapping[str, Link], routes: Iterable[RouteSpec]) -> None:
        by_index = {link.index: link for link in links.values()}
        on_link = (
            (route, by_index[route.interface])
            for route in routes
            if route.kind is RouteKind.UNICAST and route.interface in by_index and not route.next_hops
        )
        self._networks = sorted(on_link, key=lambda found: (-found[0].destination.prefixlen, found[0].metric))
        self._found: dict[Address, Link | None] = {}

    def link_of(self, address: Address) -> Link | None:
        """The interface whose network holds `address`, the longest prefix first; None: it is on no network of ours."""
        if address not in self._found:
            self._found[address] = next(
                (
                    link
                    for route, link in self._networks
                    if route.destination.version == address.version and address in route.destination
                ),
                None,
            )
        return self._found[address]


def links() -> dict[str, Link]:
    """Every interface of this namespace, by name."""
    message = Message(_GETLINK, 0, struct.pack("=BxHiII", 0, 0, 0, 0, 0), "listing interfaces")
    found = {}
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        for _, body in kernel.dump(message):
            values = attributes(body[16:])
            name = string(values[_IFLA_IFNAME])
            index = struct.unpack_from("=i", body, 4)[0]
            found[name] = Link(name=name, index=index, mtu_bytes=struct.unpack("=I", values[_IFLA_MTU])[0])
    return found


def egress() -> Egress:
    """The networks of this namespace, now."""
    with RouteSocket() as kernel:
        return Egress(links(), kernel.routes(MAIN_TABLE, protocol=None))
