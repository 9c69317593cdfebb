"""Neighbour entries of one network namespace: which MAC address the kernel believes to be behind an address.

Addresses of Pods come back with other Pods behind them. Unless the new one speaks first, or its network plugin announced it, the
kernel goes on for up to 8 s to send to where the old one was: until it doubts (5 s) and three probes have not been answered.

Source: linux/neighbour.h; Documentation/networking/ip-sysctl.rst (delay_first_probe_time, ucast_solicit, retrans_time_ms).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from typing import Final

from core.model import Address
from live.netlink import NETLINK_ROUTE, DumpInterruptedError, Message, NetlinkSocket, attribute, attributes

_DELNEIGH, _GETNEIGH = 29, 30
_NDA_DST: Final = 1
_HEADER: Final = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type."""
_PERMANENT: Final = 0x80
_GONE: Final = (2, 3)
_ATTEMPTS: Final = 10


def forget(addresses: Collection[Address]) -> None:
    """Makes the kernel ask anew who has these addresses; packets wait for the answer. Entries that a person made stay.

    Of the calling thread's namespace. Raises NetlinkError when the kernel refuses.
    """
    if not addresses:
        return
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        stale = [message for address, message in _entries(kernel) if address in addresses]
        errors = [error for error in kernel.change(stale) if error.errno not in _GONE]
    if errors:
        raise errors[0]


def _entries(kernel: NetlinkSocket) -> Iterator[tuple[Address, Message]]:
    """Each address that is believed to be somewhere, and how to forget that."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(kernel, Message(_GETNEIGH, 0, _HEADER.pack(family, 0, 0, 0, 0), "listing neighbours")):
            _, interface, state, _, _ = _HEADER.unpack_from(body)
            packed = attributes(body[_HEADER.size :]).get(_NDA_DST)
            if packed is None or state & _PERMANENT:
                continue
            address = ip_address(packed)
            header = _HEADER.pack(family, interface, 0, 0, 0)
            yield (
                address,
                Message(_DELNEIGH, 0, header + attribute(_NDA_DST, packed), f"forgetting neighbour {address}"),
            )


def _dump(kernel: NetlinkSocket, message: Message) -> list[bytes]:
    for _ in range(_ATTEMPTS - 1):
        try:
            return [body for _, body in kernel.dump(message)]
        except DumpInterruptedError:
            continue
    return [body for _, body in kernel.dump(message)]
