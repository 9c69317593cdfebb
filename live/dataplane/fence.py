"""Nothing of a VIP may use the primary network, to which the main table's default route leads: the gateway's rules against it.

    iif lo              lookup OWN_TABLE   what this host itself sends to a VIP, above all ICMP errors about replies (path MTU):
                                           to a loop (loop.py), where it comes in again and the data plane treats it like any packet
    iif INTERFACE       lookup main, but not its default route
    iif INTERFACE       blackhole          what came from the gateway's networks and is no packet of ours, or not any more

Both data planes have these; rules stand behind those of `live.routes` and of the marks, so that only what is left meets them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from core.model import Prefix
from live.dataplane.egress import MAIN_TABLE, dump, routes_of
from live.dataplane.loop import change, versions
from live.netlink import (
    CREATE,
    EXCL,
    REPLACE,
    Message,
    attribute,
    attributes,
    string,
    text,
    u32,
)

OWN_TABLE: Final = 0x7468
OWN_PRIORITY: Final = 20095
"""Before the rules of replies (20100): what this host sends to a VIP goes to it, whatever its source."""
KNOWN_PRIORITY: Final = 20110
BLACKHOLE_PRIORITY: Final = 20111
OUR_PROTOCOL: Final = 0x74
"""As live/rtnetlink.py marks routes and rules of ours."""

_FAMILY: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
_NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 32, 33, 34
_FRA_IIFNAME, _FRA_PRIORITY, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_PROTOCOL = 3, 6, 14, 15, 21
_LOOKUP, _BLACKHOLE = 1, 6
_ENOENT, _ESRCH, _EEXIST = 2, 3, 17
_RULE_HEADER: Final = struct.Struct("=8BI")
_PRIORITIES: Final = (OWN_PRIORITY, KNOWN_PRIORITY, BLACKHOLE_PRIORITY)

_Rule = tuple[int, int, str]
"""(version, priority, input interface)."""


class Fence:
    """The rules and routes in the calling thread's namespace. What is there from an earlier process is found and used."""

    def __init__(self) -> None:
        self._vips: frozenset[Prefix] | None = None
        self._interfaces: frozenset[str] | None = None
        self._loop: int | None = None

    def look_again(self) -> None:
        """What is known of the kernel may have changed: the next `extend` lists it."""
        self._vips = self._interfaces = None

    def extend(self, vips: Collection[Prefix], interfaces: Sequence[str], loop: int) -> None:
        """Adds what is missing; `loop`: index of the device to which packets of this host are sent. Before packets of them may come.

        Raises NetlinkError when the kernel refuses.
        """
        wanted, from_ = frozenset(vips), frozenset(interfaces)
        if self._vips is None or self._interfaces is None or self._loop != loop:
            self._vips, self._interfaces, self._loop = _vips_in(loop), None, loop
        there = _rules() if self._interfaces != from_ else _rules_for(from_)
        messages = [_route(vip, loop) for vip in wanted - self._vips]
        messages += [_rule(rule) for rule in sorted(_rules_for(from_) - there)]
        change(*messages, expected={_NEWRULE: _EEXIST})
        self._vips |= wanted

    def narrow(self, vips: Collection[Prefix], interfaces: Sequence[str]) -> None:
        """Takes away what is too much, after `extend` and when no packet of the others comes any more.

        Raises NetlinkError when the kernel refuses.
        """
        assert self._vips is not None
        assert self._loop is not None
        wanted, from_ = frozenset(vips), frozenset(interfaces)
        there = _rules() if self._interfaces != from_ else _rules_for(from_)
        messages = [_rule(rule, remove=True) for rule in sorted(there - _rules_for(from_))]
        messages += [_route(vip, self._loop, remove=True) for vip in self._vips - wanted]
        change(*messages, expected={_DELRULE: _ENOENT, _DELROUTE: _ESRCH})
        self._vips, self._interfaces = wanted, from_

    def remove(self) -> None:
        """Takes the rules away; the routes go with the loop."""
        change(*(_rule(rule, remove=True) for rule in sorted(_rules())), expected={_DELRULE: _ENOENT})
        self._vips = self._interfaces = self._loop = None


def _rules_for(interfaces: Iterable[str]) -> set[_Rule]:
    found = {(version, OWN_PRIORITY, "lo") for version in versions()}
    for name in interfaces:
        found |= {
            (version, priority, name) for version in versions() for priority in (KNOWN_PRIORITY, BLACKHOLE_PRIORITY)
        }
    return found


def _rules() -> set[_Rule]:
    """Those of ours that the kernel has."""
    found = set()
    for version in versions():
        for body in dump(
            Message(_GETRULE, 0, _RULE_HEADER.pack(_FAMILY[version], 0, 0, 0, 0, 0, 0, 0, 0), "listing rules")
        ):
            values = attributes(body[_RULE_HEADER.size :])
            priority = struct.unpack("=I", values.get(_FRA_PRIORITY, bytes(4)))[0]
            ours = values.get(_FRA_PROTOCOL, b"\0")[0] == OUR_PROTOCOL
            if ours and priority in _PRIORITIES and _FRA_IIFNAME in values:
                found.add((version, priority, string(values[_FRA_IIFNAME])))
    return found


def _vips_in(loop: int) -> frozenset[Prefix]:
    found = [route for version in versions() for route in routes_of(version, OWN_TABLE)]
    return frozenset(route.network for route in found if route.interface == loop)


def _rule(rule: _Rule, *, remove: bool = False) -> Message:
    version, priority, interface = rule
    action, table = (_BLACKHOLE, 0) if priority == BLACKHOLE_PRIORITY else (_LOOKUP, MAIN_TABLE)
    table = OWN_TABLE if priority == OWN_PRIORITY else table
    body = _RULE_HEADER.pack(_FAMILY[version], 0, 0, 0, 0, 0, 0, action, 0)
    body += u32(_FRA_PRIORITY, priority) + text(_FRA_IIFNAME, interface)
    body += attribute(_FRA_PROTOCOL, bytes([OUR_PROTOCOL]))
    if table:
        body += u32(_FRA_TABLE, table)
    if priority == KNOWN_PRIORITY:
        body += u32(_FRA_SUPPRESS_PREFIXLEN, 0)
    verb, kind, flags = ("deleting", _DELRULE, 0) if remove else ("adding", _NEWRULE, CREATE | EXCL)
    return Message(kind, flags, body, f"{verb} the IPv{version} rule {priority} for {interface}")


def _route(vip: Prefix, loop: int, *, remove: bool = False) -> Message:
    """``VIP dev LOOP table OWN_TABLE``; IPv6 wants a metric to know a route again."""
    unicast, link_scope, destination, oif, metric, table = 1, 253, 1, 4, 6, 15
    body = _RULE_HEADER.pack(_FAMILY[vip.version], vip.prefixlen, 0, 0, 0, OUR_PROTOCOL, link_scope, unicast, 0)
    body += attribute(destination, vip.network_address.packed)
    body += u32(table, OWN_TABLE) + u32(metric, 1) + u32(oif, loop)
    verb, kind, flags = ("deleting", _DELROUTE, 0) if remove else ("adding", _NEWROUTE, CREATE | REPLACE)
    return Message(kind, flags, body, f"{verb} the route to {vip} for this host")
