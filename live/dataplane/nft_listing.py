"""What the kernel has of our marks: the routes of targets and the rules that lead to them, of the calling thread's namespace.

Read with our own netlink messages: there are as many as targets, each change asks for them, and pyroute2 takes 0.2 s for a thousand.

Source: linux/rtnetlink.h (struct rtmsg), linux/fib_rules.h (struct fib_rule_hdr, FRA_*).
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from core.model import Address
from live.netlink import NETLINK_ROUTE, DumpInterruptedError, Message, NetlinkSocket, attributes, string
from live.rtnetlink import OUR_PROTOCOL, RuleAction, RuleSpec

_FAMILY: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
_GETROUTE, _GETRULE = 26, 34
_HEADER: Final = struct.Struct("=8BI")
"""Of routes and of rules: family, …, protocol or action, flags."""
_RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 4, 5, 15
_IIFNAME, _GOTO, _PRIORITY, _MARK, _TABLE, _MASK, _PROTOCOL = 3, 4, 6, 10, 15, 16, 21
_ATTEMPTS: Final = 10
_EVERYTHING: Final = 0xFFFFFFFF


@dataclass(slots=True)
class Listing:
    """Routes by mark; `leaves`: (version, mark) of each rule that leads packets with a mark to the table of that number; `rules`: all
    others of ours."""

    hops: dict[int, tuple[Address, int]] = field(default_factory=dict)
    """Target and interface of the route in each table, by the table's number, which is the mark."""
    leaves: set[tuple[int, int]] = field(default_factory=set)
    rules: set[RuleSpec] = field(default_factory=set)

    @property
    def marks(self) -> dict[Address, int]:
        """The mark of every target that has a route."""
        return {target: mark for mark, (target, _) in self.hops.items()}


def listing(base: int, mask: int, leaf_priority: range) -> Listing:
    """Routes in the tables `base` under `mask`, and every rule that carries our protocol number."""
    found = Listing()
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        for version, family in _FAMILY.items():
            request = _HEADER.pack(family, 0, 0, 0, 0, OUR_PROTOCOL, 0, 0, 0)
            for body in _dump(kernel, Message(_GETROUTE, 0, request, f"listing routes of targets of IPv{version}")):
                _note_route(found, body, base, mask)
            request = _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for body in _dump(kernel, Message(_GETRULE, 0, request, f"listing policy rules of IPv{version}")):
                _note_rule(found, version, body, leaf_priority)
    return found


def _dump(kernel: NetlinkSocket, message: Message) -> list[bytes]:
    """What the kernel lists, from a moment in which nothing changed."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return [body for _, body in kernel.dump(message)]
        except DumpInterruptedError:
            continue
    return [body for _, body in kernel.dump(message)]


def _note_route(found: Listing, body: bytes, base: int, mask: int) -> None:
    values = attributes(body[12:])
    if body[5] == OUR_PROTOCOL and values.keys() >= {_RTA_TABLE, _RTA_GATEWAY, _RTA_OIF}:
        table = _number(values[_RTA_TABLE])
        if table & mask == base:
            found.hops[table] = ip_address(values[_RTA_GATEWAY]), _number(values[_RTA_OIF])


def _note_rule(found: Listing, version: int, body: bytes, leaf_priority: range) -> None:
    values = attributes(body[12:])
    if values.get(_PROTOCOL) != bytes([OUR_PROTOCOL]) or body[7] not in tuple(RuleAction) or body[2]:
        return
    action = RuleAction(body[7])
    priority, target, mark, bits = (_number(values.get(kind)) for kind in (_PRIORITY, _GOTO, _MARK, _MASK))
    table = _number(values.get(_TABLE)) if action is RuleAction.LOOKUP else 0
    name = string(values.get(_IIFNAME, b""))
    if priority in leaf_priority and table == mark and bits == _EVERYTHING and not name:
        found.leaves.add((version, mark))
        return
    found.rules.add(
        RuleSpec(
            version=version,
            priority=priority,
            table=table,
            action=action,
            target=target,
            mark=mark,
            mask=bits,
            input_interface=name,
        )
    )


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, sys.byteorder) if value else 0
