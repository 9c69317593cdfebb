"""A veth pair of the gateway's own namespace: what is routed to the one end comes in at the other, where the data plane looks at it.

    NAME  --->  PEER

No addresses, no ARP, one MAC address, so that what comes out at the peer is addressed to it; and IPv4 packets from an address of this
host are let in, for the host itself sends there.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from live import sysctl
from live.dataplane.egress import Link, links
from live.netlink import (
    CREATE,
    EXCL,
    NETLINK_ROUTE,
    Message,
    NetlinkSocket,
    attribute,
    nested,
    text,
    u32,
)

LEAST_MTU_BYTES: Final = 1280
"""RFC 8200, section 5."""
_NEWLINK, _DELLINK = 16, 17
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_AF_SPEC = 1, 3, 4, 18, 26
_UP, _NOARP = 0x1, 0x80
_SEND_REDIRECTS, _RP_FILTER, _ACCEPT_LOCAL = 6, 8, 23
"""IPV4_DEVCONF_* (linux/ip.h): set by netlink, for /proc/sys may be read-only in a Pod."""
_MAC: Final = bytes.fromhex("02746700000a")
_ENODEV: Final = 19


@dataclass(frozen=True, slots=True)
class Loop:
    """The names of the two ends."""

    name: str
    peer: str

    def ensure(self, mtu_bytes: int, *, ipv6: bool) -> tuple[Link, Link]:
        """The two ends (where to send to, where it comes out), made if need be. With `ipv6` they have it also where new devices do not:
        container runtimes turn it off, and on again for the networks of a Pod that have IPv6 addresses.

        Raises DataplaneError when the kernel refuses.
        """
        found = links()
        names = self.name, self.peer
        if any(name not in found for name in names):
            change(self._remove_message(), self._create_message(), expected={_DELLINK: _ENODEV})
        if ipv6:
            for name in names:
                sysctl.ensure(_ipv6_off(name), "0")
        wanted = max(mtu_bytes, LEAST_MTU_BYTES)
        furnish = [_furnish_message(name) for name in names]
        change(*furnish, *(_start_message(name, wanted) for name in names), expected={})
        found = links()
        return found[self.name], found[self.peer]

    def versions(self) -> tuple[int, ...]:
        """The IP versions that the device has."""
        return tuple(version for version in versions() if version == 4 or sysctl.read(_ipv6_off(self.name)) != "1")

    def remove(self) -> None:
        """Takes the device away; if it is not there that is no error."""
        change(self._remove_message(), expected={_DELLINK: _ENODEV})

    def _remove_message(self) -> Message:
        return Message(_DELLINK, 0, _header() + text(_IFLA_IFNAME, self.name), f"deleting the device {self.name}")

    def _create_message(self) -> Message:
        veth_info_peer = 1
        peer = attribute(veth_info_peer, _header() + text(_IFLA_IFNAME, self.peer) + attribute(_IFLA_ADDRESS, _MAC))
        info = nested(_IFLA_LINKINFO, attribute(1, b"veth"), nested(2, peer))
        body = _header() + text(_IFLA_IFNAME, self.name) + attribute(_IFLA_ADDRESS, _MAC) + info
        return Message(_NEWLINK, CREATE | EXCL, body, f"making the device {self.name}")


def _ipv6_off(name: str) -> str:
    return f"net/ipv6/conf/{name}/disable_ipv6"


def versions() -> tuple[int, ...]:
    """The IP versions that this kernel has: it refuses messages about others."""
    return (4, 6) if Path("/proc/net/if_inet6").exists() else (4,)


def change(*messages: Message, expected: Mapping[int, int]) -> None:
    """Makes changes by rtnetlink; `expected`: by the kind of a message, the error that is none.

    Raises NetlinkError, the first one, after everything else has been tried.
    """
    if not messages:
        return
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        errors = [e for e in kernel.change(messages) if expected.get(messages[e.index].kind) != e.errno]
    if errors:
        raise errors[0]


def _header(flags: int = 0, mask: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, 0, flags, mask)


def _furnish_message(name: str) -> Message:
    """No addresses of its own, not even a link-local one: set before the device is up."""
    inet_conf, inet6_addr_gen_mode, none = 1, 8, 1
    parameters = ((_SEND_REDIRECTS, 0), (_RP_FILTER, 0), (_ACCEPT_LOCAL, 1))
    ipv4 = nested(socket.AF_INET, nested(inet_conf, *(u32(number, value) for number, value in parameters)))
    ipv6 = nested(socket.AF_INET6, attribute(inet6_addr_gen_mode, bytes([none]))) if 6 in versions() else b""
    body = _header(_NOARP, _NOARP) + text(_IFLA_IFNAME, name) + nested(_IFLA_AF_SPEC, ipv4, ipv6)
    return Message(_NEWLINK, 0, body, f"furnishing the device {name}")


def _start_message(name: str, mtu_bytes: int) -> Message:
    body = _header(_UP, _UP) + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu_bytes)
    return Message(_NEWLINK, 0, body, f"starting the device {name}")
