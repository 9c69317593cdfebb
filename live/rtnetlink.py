"""Routes, policy rules and addresses of one network namespace, over rtnetlink.

Values in, values out: `RouteSpec`, `RuleSpec`, `AddressSpec` describe what should be there, and the same types describe what is.

Source: linux/rtnetlink.h, linux/fib_rules.h, linux/if_addr.h; rtnetlink(7).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final, Self

from core.model import Address, Prefix
from live.namespaces import inside
from live.netlink import (
    CREATE,
    EXCL,
    NETLINK_ROUTE,
    REPLACE,
    DumpInterruptedError,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    string,
    text,
    u32,
)

OUR_PROTOCOL: Final = 0x74
"""Marks routes and rules as ours (rtm_protocol, FRA_PROTOCOL); free in iproute2's rt_protos. Only what carries it is ever removed."""

MAIN_TABLE: Final = 254
LOCAL_TABLE: Final = 255
LAST_METRIC: Final = 0xFFFFFFFF

_FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_VERSION: Final = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}
_NEWLINK, _GETLINK, _NEWADDR, _DELADDR, _GETADDR = 16, 18, 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 26, 32, 33, 34
_BYTES8_FLAGS: Final = struct.Struct("=8BI")
_ADDRESS_HEADER: Final = struct.Struct("=4BI")
_LINK_HEADER: Final = struct.Struct("=BxHiII")
_NEXT_HOP: Final = struct.Struct("=HBBi")
_ONLINK: Final = 4
_HOST_SCOPE: Final = 254


class RouteKind(IntEnum):
    """rtm_type."""

    UNICAST = 1
    LOCAL = 2
    BLACKHOLE = 6
    UNREACHABLE = 7


class RuleAction(IntEnum):
    """FR_ACT_*."""

    LOOKUP = 1
    BLACKHOLE = 6
    UNREACHABLE = 7


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class NextHop:
    """`address` over the interface with index `interface`; onlink: not checked against the routing tables."""

    address: Address
    interface: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """One route of one table. `interface` is only for routes without next hops; next hops are sorted."""

    destination: Prefix
    table: int
    kind: RouteKind = RouteKind.UNICAST
    metric: int = 0
    """The kernel takes 1024 for 0 in IPv6, so say a number there."""
    next_hops: tuple[NextHop, ...] = ()
    interface: int | None = None

    @property
    def key(self) -> tuple[int, Prefix, int, bool]:
        """Two routes with the same key replace each other."""
        return self.table, self.destination, self.metric, self.kind is RouteKind.UNICAST

    def __str__(self) -> str:
        return f"{self.kind.name.lower()} route {self.destination} table {self.table} metric {self.metric}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSpec:
    """``from source fwmark mark/mask iif NAME lookup table``."""

    version: int
    priority: int
    table: int = 0
    action: RuleAction = RuleAction.LOOKUP
    source: Prefix | None = None
    mark: int = 0
    mask: int = 0
    input_interface: str = ""

    def __str__(self) -> str:
        source = f" from {self.source}" if self.source else ""
        mark = f" fwmark {self.mark:#x}/{self.mask:#x}" if self.mask else ""
        return f"IPv{self.version} rule {self.priority}{source}{mark} {self.action.name.lower()} {self.table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressSpec:
    """An address of an interface with the prefix length of its network."""

    address: Address
    prefix_bits: int
    interface: int

    @property
    def network(self) -> Prefix:
        return ip_network((self.address, self.prefix_bits), strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to add or replace first, then what to delete: no moment in which a packet finds neither."""

    routes: Sequence[RouteSpec] = ()
    rules: Sequence[RuleSpec] = ()
    addresses: Sequence[AddressSpec] = ()
    old_addresses: Sequence[AddressSpec] = ()
    old_rules: Sequence[RuleSpec] = ()
    old_routes: Sequence[RouteSpec] = ()


class RouteSocket:
    """rtnetlink of one network namespace: the calling thread's, or the one that the file `netns` stands for."""

    def __init__(self, netns: Path | None = None) -> None:
        self._netlink = inside(netns, lambda: NetlinkSocket(NETLINK_ROUTE))

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def interfaces(self) -> dict[str, int]:
        """Index of every interface by its name."""
        message = Message(_GETLINK, 0, _LINK_HEADER.pack(0, 0, 0, 0, 0), "listing interfaces")
        return {
            string(attributes(body[16:]).get(3, b"")): _LINK_HEADER.unpack_from(body)[2] for body in self._dump(message)
        }

    def addresses(self) -> list[AddressSpec]:
        """Addresses of all interfaces, both families."""
        message = Message(_GETADDR, 0, _ADDRESS_HEADER.pack(0, 0, 0, 0, 0), "listing addresses")
        found = []
        for body in self._dump(message):
            family, prefix_bits, _, _, interface = _ADDRESS_HEADER.unpack_from(body)
            values = attributes(body[8:])
            # IFA_LOCAL is the address, IFA_ADDRESS the other end of a point-to-point link; IPv6 has only the latter.
            raw = values.get(2) or values.get(1)
            if family in _VERSION and raw is not None:
                found.append(AddressSpec(address=ip_address(raw), prefix_bits=prefix_bits, interface=interface))
        return found

    def rules(self, *, protocol: int = OUR_PROTOCOL) -> list[RuleSpec]:
        """Rules of `protocol`, both families, in order of priority."""
        found = []
        for family in _FAMILY.values():
            message = Message(_GETRULE, 0, _BYTES8_FLAGS.pack(family, *[0] * 7, 0), "listing policy rules")
            found += [rule for body in self._dump(message) if (rule := _rule_of(body, protocol))]
        return found

    def routes(self, table: int | None = None, *, protocol: int | None = OUR_PROTOCOL) -> list[RouteSpec]:
        """Routes of `table` (None: of all tables) and `protocol` (None: of all protocols), both families."""
        found = []
        for family in _FAMILY.values():
            body = _BYTES8_FLAGS.pack(family, 0, 0, 0, 0, protocol or 0, 0, 0, 0)
            body += b"" if table is None else u32(15, table)
            try:
                answers = list(self._dump(Message(_GETROUTE, 0, body, f"listing routes of table {table}")))
            except NetlinkError as error:
                if error.errno == 2:  # ENOENT: a table that has never had a route
                    continue
                raise
            routes = (_route_of(answer, protocol) for answer in answers)
            found += [route for route in routes if route and table in (None, route.table)]
        return found

    def apply(self, change: Change) -> None:
        """Adds and replaces, then deletes. What is there already, or is gone already, is no error.

        Raises NetlinkError, the first one, after everything else has been tried.
        """
        exists, no_such = (17,), (2, 3, 19, 99)  # EEXIST; ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL
        errors = self._change([_new_route(route) for route in change.routes], ())
        errors += self._change([_rule(rule, _NEWRULE, CREATE | EXCL) for rule in change.rules], exists)
        errors += self._change([_address(address, _NEWADDR) for address in change.addresses], exists)
        errors += self._change([_address(address, _DELADDR) for address in change.old_addresses], no_such)
        errors += self._change([_rule(rule, _DELRULE, 0) for rule in change.old_rules], no_such)
        errors += self._change([_route(route, _DELROUTE, 0) for route in change.old_routes], no_such)
        if errors:
            raise errors[0]

    def _change(self, messages: list[Message], expected: tuple[int, ...]) -> list[NetlinkError]:
        return [error for error in self._netlink.change(messages) if error.errno not in expected]

    def _dump(self, message: Message) -> Iterator[bytes]:
        attempts = 10
        for attempt in range(attempts):
            try:
                yield from [body for _, body in self._netlink.dump(message)]
            except DumpInterruptedError:
                if attempt == attempts - 1:
                    raise
            else:
                return


def interface_of(address: Address, addresses: Sequence[AddressSpec]) -> int | None:
    """The index of the interface whose network holds `address`, the longest prefix first; None: it is on no network here."""
    holding = [a for a in addresses if a.address.version == address.version and address in a.network]
    return max(holding, key=lambda a: a.prefix_bits).interface if holding else None


def default_of(version: int) -> Prefix:
    """The default destination of a family."""
    return ip_network("0.0.0.0/0") if version == 4 else ip_network("::/0")


# --- messages --------------------------------------------------------------------------------------------------------------


def _new_route(route: RouteSpec) -> Message:
    return _route(route, _NEWROUTE, CREATE | REPLACE)


def _route(route: RouteSpec, kind: int, flags: int) -> Message:
    # A route is deleted whole, whatever next hops it has by now.
    next_hops = route.next_hops if kind == _NEWROUTE else ()
    body = _BYTES8_FLAGS.pack(
        _FAMILY[route.destination.version],
        route.destination.prefixlen,
        0,
        0,
        route.table if route.table < 256 else 0,
        OUR_PROTOCOL,
        _HOST_SCOPE if route.kind is RouteKind.LOCAL else 0,
        route.kind,
        _ONLINK if len(next_hops) == 1 else 0,
    )
    body += u32(15, route.table) + u32(6, route.metric)
    if route.destination.prefixlen:
        body += attribute(1, route.destination.network_address.packed)
    if route.interface is not None:
        body += u32(4, route.interface)
    if len(next_hops) > 1:
        body += attribute(9, b"".join(_next_hop(hop) for hop in next_hops))
    elif next_hops:
        body += attribute(5, next_hops[0].address.packed) + u32(4, next_hops[0].interface)
    verb = "adding" if kind == _NEWROUTE else "deleting"
    return Message(kind, flags, body, f"{verb} {route}")


def _next_hop(hop: NextHop) -> bytes:
    gateway = attribute(5, hop.address.packed)
    return _NEXT_HOP.pack(8 + len(gateway), _ONLINK, 0, hop.interface) + gateway


def _route_of(body: bytes, protocol: int | None) -> RouteSpec | None:
    family, bits, _, _, table8, its_protocol, _, kind, flags = _BYTES8_FLAGS.unpack_from(body)
    cached_clone = 0x200  # RTM_F_CLONED: an exception, not a route
    if family not in _VERSION or protocol not in (None, its_protocol) or flags & cached_clone:
        return None
    try:
        known_kind = RouteKind(kind)
    except ValueError:
        return None
    values = attributes(body[12:])
    width = 4 if family == socket.AF_INET else 16
    interface = struct.unpack("=i", values[4])[0] if 4 in values else None
    hops = []
    if 5 in values and interface is not None:
        hops.append(NextHop(address=ip_address(values[5]), interface=interface))
    offset, multipath = 0, values.get(9, b"")
    while offset + 8 <= len(multipath):
        length, _, _, index = _NEXT_HOP.unpack_from(multipath, offset)
        hop = attributes(multipath[offset + 8 : offset + length])
        if 5 in hop:
            hops.append(NextHop(address=ip_address(hop[5]), interface=index))
        offset += (length + 3) & ~3
    return RouteSpec(
        destination=ip_network((values.get(1, bytes(width)), bits)),
        table=struct.unpack("=I", values[15])[0] if 15 in values else table8,
        kind=known_kind,
        metric=struct.unpack("=I", values[6])[0] if 6 in values else 0,
        next_hops=tuple(sorted(hops)),
        # IPv6 names lo for its blackholes, which says nothing.
        interface=None if hops or known_kind in (RouteKind.BLACKHOLE, RouteKind.UNREACHABLE) else interface,
    )


def _rule(rule: RuleSpec, kind: int, flags: int) -> Message:
    bits = rule.source.prefixlen if rule.source else 0
    body = _BYTES8_FLAGS.pack(_FAMILY[rule.version], 0, bits, 0, 0, 0, 0, rule.action, 0)
    body += u32(6, rule.priority) + attribute(21, bytes([OUR_PROTOCOL]))
    if rule.table:
        body += u32(15, rule.table)
    if rule.source and bits:
        body += attribute(2, rule.source.network_address.packed)
    if rule.mask:
        body += u32(10, rule.mark) + u32(16, rule.mask)
    if rule.input_interface:
        body += text(3, rule.input_interface)
    return Message(kind, flags, body, f"{'adding' if kind == _NEWRULE else 'deleting'} {rule}")


def _rule_of(body: bytes, protocol: int) -> RuleSpec | None:
    family, _, source_bits, _, table8, _, _, action, _ = _BYTES8_FLAGS.unpack_from(body)
    values = attributes(body[12:])
    if family not in _VERSION or values.get(21, b"\0")[0] != protocol:
        return None

    def number(kind: int, default: int = 0) -> int:
        return int(struct.unpack("=I", values[kind])[0]) if kind in values else default

    looks_up = action == RuleAction.LOOKUP
    return RuleSpec(
        version=_VERSION[family],
        priority=number(6),
        table=number(15, table8) if looks_up else 0,
        action=RuleAction(action),
        source=ip_network((values[2], source_bits)) if 2 in values else None,
        mark=number(10),
        mask=number(16),
        input_interface=string(values.get(3, b"")),
    )


def _address(address: AddressSpec, kind: int) -> Message:
    """Without duplicate address detection: a VIP is on many Pods at once, on purpose."""
    no_dad = 0x02
    body = _ADDRESS_HEADER.pack(_FAMILY[address.address.version], address.prefix_bits, no_dad, 0, address.interface)
    body += attribute(2, address.address.packed) + attribute(1, address.address.packed)
    verb = "adding" if kind == _NEWADDR else "deleting"
    flags = CREATE | EXCL if kind == _NEWADDR else 0
    return Message(kind, flags, body, f"{verb} address {address.address}/{address.prefix_bits}")
