"""The slow device: a veth pair of the gateway's own namespace, for what the program cannot do to a packet where it comes in.

    tg-slow0  --->  tg-slow1, with tg_answer and tg_slow at its ingress

* The kernel sends marked packets there (a rule, a table): fragments that came in the wrong order, after it has put them together; and
  IPv4 packets that may be fragmented and have to be. It leaves them on tg-slow0 as fragments of that device's MTU, the first one first.
* The program sends packets there that it is about to answer. The device has no checksum offload, so what comes out is finished.
* This host sends there what it has itself to say to a VIP (fence.py).

Nothing else uses it; whatever arrives and is not for a VIP is dropped.
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
from live.dataplane.egress import Link
from live.dataplane.loop import Loop, change, versions
from live.dataplane.nft_wire import NftSocket, Table
from live.netlink import (
    CREATE,
    EXCL,
    REPLACE,
    Message,
    NetlinkError,
    attribute,
    be32,
    nested,
    text,
    u32,
)

log = logging.getLogger(__name__)

LOOP: Final = Loop("tg-slow0", "tg-slow1")
MARK: Final = 0x7467_0001
"""Of packets that the kernel shall send there."""
ANSWER_MARK: Final = 0x7467_0002
"""Of packets that the program sends there itself."""
TABLE: Final = 0x7467
PRIORITY: Final = 20090
"""Before the rules of replies (live/routes.py): a marked packet is on its way to a target."""
OUR_PROTOCOL: Final = 0x74
"""As live/rtnetlink.py marks routes and rules of ours."""

_FAMILY: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
_NEWROUTE, _NEWRULE, _DELRULE = 24, 32, 33
DEFRAGMENT: Final = Table("tidegate_tc")
_CHAIN: Final = "defragment"
_FIRST_REGISTER: Final = 8  # NFT_REG32_00
_ENOENT, _EEXIST = 2, 17


def ensure(mtu_bytes: int, *, ipv6: bool) -> tuple[Link, Link]:
    """The two ends (where to send to, where it comes out), made if need be, with the MTU of the narrowest network of targets; `ipv6`:
    whether there are VIPs of it.

    Raises DataplaneError when the kernel refuses.
    """
    entrance, exit_ = LOOP.ensure(mtu_bytes, ipv6=ipv6)
    _without_checksum_offload(LOOP.name)
    _defragment()
    change(
        *(_route(_FAMILY[version], entrance.index) for version in LOOP.versions()),
        *(_rule(_FAMILY[version]) for version in LOOP.versions()),
        expected={_NEWRULE: _EEXIST},
    )
    return entrance, exit_


def remove() -> None:
    """Takes device, rules and routes away; what is not there is no error."""
    with NftSocket() as kernel:
        kernel.commit([DEFRAGMENT.create(), DEFRAGMENT.delete()])
    # The routes go with the device.
    change(*(_rule(_FAMILY[version], remove=True) for version in versions()), expected={_DELRULE: _ENOENT})
    LOOP.remove()


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
    """``default dev tg-slow0 table TABLE``; IPv6 wants a metric to know a route again."""
    unicast, link_scope = 1, 253
    body = struct.pack("=8BI", family, 0, 0, 0, 0, OUR_PROTOCOL, link_scope, unicast, 0)
    body += u32(15, TABLE) + u32(6, 1) + u32(4, ifindex)
    return Message(_NEWROUTE, CREATE | REPLACE, body, f"adding the route to {LOOP.name}")


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
