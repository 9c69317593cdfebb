"""The slow device: a veth pair of the gateway's own namespace, for what the program cannot do to a packet where it comes in.

    tg-slow0  --->  tg-slow1, with tg_answer and tg_slow at its ingress

* The kernel sends marked packets there (a rule, a table): fragments that came in the wrong order, after it has put them together; and
  IPv4 packets that may be fragmented and have to be. It leaves them on tg-slow0 as fragments of that device's MTU, the first one first.
* The program sends packets there that it is about to answer. The device has no checksum offload, so what comes out is finished.

Nothing else uses it: no addresses, no ARP; whatever arrives without a mark is dropped.
"""

from __future__ import annotations

import array
import fcntl
import logging
import socket
import struct
from typing import Final

from core.errors import DataplaneError
from live.dataplane import nft_expressions as nft
from live.dataplane.egress import Link, links
from live.dataplane.nft_wire import NftSocket, Table
from live.netlink import (
    CREATE,
    EXCL,
    NETLINK_ROUTE,
    REPLACE,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    be32,
    nested,
    text,
    u32,
)

log = logging.getLogger(__name__)

NAME: Final = "tg-slow0"
PEER: Final = "tg-slow1"
MARK: Final = 0x7467_0001
"""Of packets that the kernel shall send there."""
ANSWER_MARK: Final = 0x7467_0002
"""Of packets that the program sends there itself."""
TABLE: Final = 0x7467
PRIORITY: Final = 20090
"""Before the rules of replies (live/routes.py): a marked packet is on its way to a target."""
LEAST_MTU_BYTES: Final = 1280
OUR_PROTOCOL: Final = 0x74
"""As live/rtnetlink.py marks routes and rules of ours."""

_NEWLINK, _DELLINK, _NEWROUTE, _NEWRULE, _DELRULE = 16, 17, 24, 32, 33
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_IFLA_MTU, _IFLA_LINKINFO, _IFLA_AF_SPEC = 4, 18, 26
_UP, _NOARP = 0x1, 0x80
DEFRAGMENT: Final = Table("tidegate_tc")
_CHAIN: Final = "defragment"
_FIRST_REGISTER: Final = 8  # NFT_REG32_00
_ENOENT, _EEXIST, _ENODEV = 2, 17, 19


def ensure(mtu_bytes: int) -> tuple[Link, Link]:
    """The two ends (where to send to, where it comes out), made if need be, with the MTU of the narrowest network of targets.

    Raises DataplaneError when the kernel refuses.
    """
    mtu_bytes = max(mtu_bytes, LEAST_MTU_BYTES)
    found = links()
    if NAME not in found or PEER not in found:
        _change(_remove_message(), _create_message())
    _change(*(_furnish_message(name) for name in (NAME, PEER)), *(_start_message(n, mtu_bytes) for n in (NAME, PEER)))
    _without_checksum_offload(NAME)
    _defragment()
    found = links()
    _change(*(_route(family, found[NAME].index) for family in _FAMILIES), *(_rule(family) for family in _FAMILIES))
    return found[NAME], found[PEER]


def remove() -> None:
    """Takes device, rules and routes away; what is not there is no error."""
    with NftSocket() as kernel:
        kernel.commit([DEFRAGMENT.create(), DEFRAGMENT.delete()])
    # The routes go with the device.
    _change(*(_rule(family, remove=True) for family in _FAMILIES), _remove_message())


def _defragment() -> None:
    """Makes the kernel put fragments together in this namespace, before it routes them: that a rule with `tproxy` exists does it
    (net/netfilter/nft_tproxy.c, nft_tproxy_init), though nothing leads to its chain. Unlike `ct` it asks for no connection tracking;
    unlike a BPF link to netfilter, which holds the namespace, it goes when the namespace goes.

    Where the kernel has no tproxy, fragments that come before their first one are lost; it is said once.
    """
    any_family, port_register = be32(1, socket.AF_UNSPEC), be32(3, _FIRST_REGISTER)
    tproxy = nested(1, text(1, "tproxy"), nested(2, any_family, port_register))
    rule = nft.constant(bytes(2)) + tproxy
    with NftSocket() as kernel:
        if _CHAIN in kernel.chains(DEFRAGMENT.name):
            return
        try:
            kernel.commit([DEFRAGMENT.create(), DEFRAGMENT.chain(_CHAIN), DEFRAGMENT.rule(_CHAIN, rule)])
        except NetlinkError as error:
            log.warning(
                "fragments that come before the first one of their packet will be lost", extra={"reason": str(error)}
            )


def _rule(family: int, *, remove: bool = False) -> Message:
    """``fwmark MARK lookup TABLE``."""
    lookup = 1
    body = struct.pack("=8BI", family, 0, 0, 0, 0, 0, 0, lookup, 0)
    body += (
        u32(6, PRIORITY) + u32(10, MARK) + u32(16, 0xFFFFFFFF) + u32(15, TABLE) + attribute(21, bytes([OUR_PROTOCOL]))
    )
    verb, kind, flags = ("deleting", _DELRULE, 0) if remove else ("adding", _NEWRULE, CREATE | EXCL)
    return Message(kind, flags, body, f"{verb} the rule for marked packets")


def _route(family: int, ifindex: int) -> Message:
    """``default dev NAME table TABLE``; IPv6 wants a metric to know a route again."""
    unicast, link_scope = 1, 253
    body = struct.pack("=8BI", family, 0, 0, 0, 0, OUR_PROTOCOL, link_scope, unicast, 0)
    body += u32(15, TABLE) + u32(6, 1) + u32(4, ifindex)
    return Message(_NEWROUTE, CREATE | REPLACE, body, f"adding the route to {NAME}")


def _change(*messages: Message) -> None:
    """Makes changes; what is there already, or is gone already, is no error."""
    expected = {_DELLINK: _ENODEV, _DELRULE: _ENOENT, _NEWRULE: _EEXIST}
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        errors = [e for e in kernel.change(messages) if expected.get(messages[e.index].kind) != e.errno]
    if errors:
        raise errors[0]


def _header(flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, 0, flags, change)


def _remove_message() -> Message:
    return Message(_DELLINK, 0, _header() + text(3, NAME), f"deleting the device {NAME}")


def _create_message() -> Message:
    veth_info_peer = 1
    peer = attribute(veth_info_peer, _header() + text(3, PEER))
    info = nested(_IFLA_LINKINFO, attribute(1, b"veth"), nested(2, peer))
    return Message(_NEWLINK, CREATE | EXCL, _header() + text(3, NAME) + info, f"making the device {NAME}")


def _furnish_message(name: str) -> Message:
    """No addresses of its own, not even a link-local one: set before the device is up."""
    inet6_addr_gen_mode, none = 8, 1
    spec = nested(_IFLA_AF_SPEC, nested(socket.AF_INET6, attribute(inet6_addr_gen_mode, bytes([none]))))
    return Message(_NEWLINK, 0, _header(_NOARP, _NOARP) + text(3, name) + spec, f"furnishing the device {name}")


def _start_message(name: str, mtu_bytes: int) -> Message:
    body = _header(_UP, _UP) + text(3, name) + u32(_IFLA_MTU, mtu_bytes)
    return Message(_NEWLINK, 0, body, f"starting the device {name}")


def _without_checksum_offload(name: str) -> None:
    """ETHTOOL_STXCSUM 0 (linux/ethtool.h); segmentation offloads go with it."""
    siocethtool, ethtool_stxcsum = 0x8946, 0x17
    value = array.array("I", [ethtool_stxcsum, 0])
    request = struct.pack("16sQ", name.encode(), value.buffer_info()[0]) + bytes(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, siocethtool, request)
        except OSError as error:
            raise DataplaneError(f"turning off the checksum offload of {name}: {error.strerror}") from error
