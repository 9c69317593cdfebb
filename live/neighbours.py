"""Neighbour entries of one network namespace: which MAC address the kernel believes to be behind an address.

Addresses of Pods come back with other Pods behind them. Unless the new one speaks first, or its network plugin announced it, the
kernel goes on for up to 8 s to send to where the old one was: until it doubts (5 s) and three probes have not been answered.

Source: linux/neighbour.h; Documentation/networking/ip-sysctl.rst (delay_first_probe_time, ucast_solicit, retrans_time_ms).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from core.model import Address
from live.netlink import (
    NETLINK_ROUTE,
    REPLACE,
    DumpInterruptedError,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    nested,
    text,
    u32,
)

_NEWNEIGH, _DELNEIGH, _GETNEIGH, _SETNEIGHTBL = 28, 29, 30, 67
_NDA_DST, _NDA_LLADDR = 1, 2
_NDTA_NAME, _NDTA_PARMS = 1, 6
_NDTPA_IFINDEX, _NDTPA_UCAST_PROBES, _NDTPA_MCAST_REPROBES = 1, 10, 17
_HEADER: Final = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type."""
_PROBE: Final = 0x10
_NOT_OURS: Final = 0x80 | 0x40
"""Permanent, and noarp: what a person made, and what is asked of nobody."""
_GONE: Final = (2, 3)
_ATTEMPTS: Final = 10
_FEW: Final = 8


def forget(addresses: Collection[Address]) -> None:
    """Makes the kernel ask anew who has these addresses; packets wait for the answer. Entries that a person made stay.

    Of the calling thread's namespace. Raises NetlinkError when the kernel refuses.
    """
    if not addresses:
        return
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        stale = list(_entries(kernel, addresses))
        errors = [
            error for error in kernel.change([entry.forget_message() for entry in stale]) if error.errno not in _GONE
        ]
    if errors:
        raise errors[0]


def doubt(addresses: Collection[Address]) -> None:
    """Makes the kernel ask whether these addresses are where it believes them to be, and send there until it is told otherwise.

    It asks there first, and a second later everybody. Addresses of which it believes nothing, and entries that a person made, stay
    as they are.

    Of the calling thread's namespace. Raises NetlinkError when the kernel refuses.
    """
    if not addresses:
        return
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        believed = [entry for entry in _entries(kernel, addresses) if entry.mac]
        interfaces = sorted({(entry.family, entry.interface) for entry in believed})
        asking = [_ask_everybody_message(*interface) for interface in interfaces]
        errors = [*kernel.change(asking), *kernel.change([entry.probe_message() for entry in believed])]
    if unexpected := [error for error in errors if error.errno not in _GONE]:
        raise unexpected[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """Where the kernel believes an address to be."""

    family: int
    interface: int
    address: Address
    mac: bytes
    """Empty while it is being asked for, or nobody answered."""

    def forget_message(self) -> Message:
        header = _HEADER.pack(self.family, self.interface, 0, 0, 0)
        body = header + attribute(_NDA_DST, self.address.packed)
        return Message(_DELNEIGH, 0, body, f"forgetting neighbour {self.address}")

    def probe_message(self) -> Message:
        header = _HEADER.pack(self.family, self.interface, _PROBE, 0, 0)
        body = header + attribute(_NDA_DST, self.address.packed) + attribute(_NDA_LLADDR, self.mac)
        return Message(_NEWNEIGH, REPLACE, body, f"probing neighbour {self.address}")


def _entries(kernel: NetlinkSocket, addresses: Collection[Address]) -> Iterator[_Entry]:
    """Those of `addresses` but for what a person made. The kernel tells of all its neighbours; most are not even read."""
    by_packed = {address.packed: address for address in addresses}
    few = tuple(by_packed) if len(by_packed) <= _FEW else ()
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(kernel, Message(_GETNEIGH, 0, _HEADER.pack(family, 0, 0, 0, 0), "listing neighbours")):
            if few and not any(packed in body for packed in few):
                continue
            _, interface, state, _, _ = _HEADER.unpack_from(body)
            values = attributes(body[_HEADER.size :])
            address = by_packed.get(values.get(_NDA_DST, b""))
            if address is not None and not state & _NOT_OURS:
                yield _Entry(family=family, interface=interface, address=address, mac=values.get(_NDA_LLADDR, b""))


def _ask_everybody_message(family: int, interface: int) -> Message:
    """To whom a neighbour does not answer when it is asked itself, everybody is asked: by default the kernel gives up on it instead.

    Source: net/core/neighbour.c (neigh_max_probes); Documentation/networking/ip-sysctl.rst (mcast_resolicit).
    """
    table = {socket.AF_INET: "arp_cache", socket.AF_INET6: "ndisc_cache"}[socket.AddressFamily(family)]
    parameters = (u32(_NDTPA_IFINDEX, interface), u32(_NDTPA_UCAST_PROBES, 1), u32(_NDTPA_MCAST_REPROBES, 3))
    body = struct.pack("=Bxxx", family) + text(_NDTA_NAME, table) + nested(_NDTA_PARMS, *parameters)
    return Message(_SETNEIGHTBL, REPLACE, body, f"setting how neighbours on interface {interface} are probed")


def _dump(kernel: NetlinkSocket, message: Message) -> list[bytes]:
    for _ in range(_ATTEMPTS - 1):
        try:
            return [body for _, body in kernel.dump(message)]
        except DumpInterruptedError:
            continue
    return [body for _, body in kernel.dump(message)]
