"""The network of an application Pod: its VIPs, and the way back for their replies."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from core.errors import DataplaneError
from core.model import Address, Attachment, Prefix
from live import neighbours, sysctl
from live.namespaces import inside
from live.routes import last_resort
from live.rtnetlink import (
    LOCAL_TABLE,
    AddressSpec,
    Change,
    NextHop,
    RouteKind,
    RouteSocket,
    RouteSpec,
    RuleAction,
    RuleSpec,
    default_of,
    interface_of,
)

POD_TABLE: Final = 4097
"""The first of the tables of attachments."""
_TABLES: Final = range(POD_TABLE, 1 << 16)
POD_PRIORITY: Final = 20110
FORMER_PRIORITY: Final = 20120
FORMER_VIPS: Final = 32
"""So many that a Pod once held are remembered: rules are tried one after the other."""
_METRIC: Final = 100
_LOOPBACK: Final = "lo"


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """Our objects in one namespace: what is there, or what should be."""

    routes: frozenset[RouteSpec] = frozenset()
    """Of the attachments' tables."""
    rules: frozenset[RuleSpec] = frozenset()
    addresses: frozenset[AddressSpec] = frozenset()
    local: frozenset[RouteSpec] = frozenset()
    former: frozenset[RuleSpec] = frozenset()
    """What keeps packets of VIPs that are held no longer in the Pod."""

    def in_place(self) -> tuple[Prefix, ...]:
        """VIPs that are held, with a rule for their replies and at least one next hop in its table. Sorted."""
        held = {address.network for address in self.addresses} | {route.destination for route in self.local}
        ways_back = {(route.table, route.destination.version) for route in self.routes if route.next_hops}
        answered = {rule.source for rule in self.rules if (rule.table, rule.version) in ways_back}
        placed = [vip for vip in held if vip in answered]
        return tuple(sorted(placed, key=lambda vip: (vip.version, vip.network_address.packed, vip.prefixlen)))


class KernelPodNetwork:
    """`core.ports.PodNetwork` of the Pod whose network namespace the file `netns` stands for.

    Ours are: rules of our priorities, routes of the tables from `POD_TABLE` to 65535, and local routes, all with our protocol number;
    and those addresses of ``lo`` for which we have a rule (the rule comes before the address and goes after it). The namespace is
    entered by a thread for the time of a call, and not held open: a Pod that goes away is not kept alive.
    """

    def __init__(self, netns: Path) -> None:
        self._netns = netns

    def apply(self, attachments: Sequence[Attachment]) -> tuple[Prefix, ...]:
        """VIPs on ``lo``; for each attachment rules ``from VIP`` to a table of its own, in it a multipath default over the next hops
        for each family; and no others. Nothing is written when nothing differs.

        A VIP that goes leaves two rules behind, until it comes back or too many others have gone after it: packets from it and to
        it go nowhere. Without them, sockets that still have the address (IPv6 lets them send) and a Pod that forwards would lead its
        last packets to the primary network.

        A VIP of two attachments goes to the first one. An attachment keeps its table as long as one of its VIPs stays. Next hops
        that are on no network of the Pod are left out. A family without next hops has a blackhole: replies never leak to the
        primary network.

        Returns the VIPs that are in place, each part of which the kernel has listed or acknowledged: held, with a rule for their
        replies and at least one next hop. Sorted, none twice.

        Raises DataplaneError when the namespace cannot be entered, RtnetlinkError when the kernel refuses.
        """
        return inside(self._netns, lambda: _apply(attachments))

    def remove(self) -> None:
        """Takes all of it away; a namespace that is gone has nothing left."""
        if self._netns.exists():
            inside(self._netns, lambda: _apply((), remember=False))


def _apply(attachments: Sequence[Attachment], *, remember: bool = True) -> tuple[Prefix, ...]:
    with RouteSocket() as kernel:
        addresses = kernel.addresses()
        present = _present(kernel, addresses)
        wanted = _wanted(tables(attachments, present.rules, present.routes), addresses)
        if remember:
            wanted = replace(wanted, former=_former(present, wanted))
        if wanted.rules:
            _set_parameters(wanted)
        neighbours.forget(_hops(wanted) - _hops(present))
        # Returns when the kernel has acknowledged every change.
        _change(kernel, present, wanted)
        return wanted.in_place()


def _hops(state: _State) -> set[Address]:
    return {hop.address for route in state.routes for hop in route.next_hops}


def _change(kernel: RouteSocket, present: _State, wanted: _State) -> None:
    replaced = {route.key for route in wanted.routes - present.routes}
    # The way back first; then the VIPs; what is too much in the opposite order.
    rules = wanted.rules - present.rules | wanted.former - present.former
    kernel.apply(Change(routes=tuple(wanted.routes - present.routes), rules=tuple(rules)))
    kernel.apply(
        Change(
            routes=tuple(wanted.local - present.local),
            addresses=tuple(wanted.addresses - present.addresses),
            old_addresses=tuple(present.addresses - wanted.addresses),
            old_routes=tuple(present.local - wanted.local),
        )
    )
    kernel.apply(
        Change(
            old_rules=tuple(present.rules - wanted.rules | present.former - wanted.former),
            old_routes=tuple(route for route in present.routes - wanted.routes if route.key not in replaced),
        )
    )


def tables(
    attachments: Sequence[Attachment], rules: Collection[RuleSpec], routes: Collection[RouteSpec]
) -> Mapping[int, Attachment]:
    """The table of each attachment that has a VIP which no earlier one has, with only such VIPs left in it.

    An attachment gets the table to which `rules` send most of its VIPs; of two that claim one table, the one with more VIPs there
    does, then the earlier. Another gets the lowest table that neither `rules` nor `routes` use, so that what an old table still does
    for VIPs that go is not disturbed.
    """
    own = _without_repetition(attachments)
    table_of = {rule.source: rule.table for rule in sorted(rules, key=lambda rule: rule.table)}
    claims = Counter((n, table_of[vip]) for n, each in enumerate(own) for vip in each.vips if vip in table_of)
    chosen: dict[int, int] = {}
    for (n, table), _ in claims.most_common():
        if n not in chosen and table not in chosen.values():
            chosen[n] = table
    used = {rule.table for rule in rules} | {route.table for route in routes}
    free = (table for table in _TABLES if table not in used)
    return {chosen[n] if n in chosen else next(free): each for n, each in enumerate(own)}


def _without_repetition(attachments: Sequence[Attachment]) -> list[Attachment]:
    taken: set[Prefix] = set()
    own = []
    for each in attachments:
        vips = tuple(vip for vip in dict.fromkeys(each.vips) if vip not in taken)
        taken.update(vips)
        if vips:
            own.append(Attachment(vips=vips, next_hops=each.next_hops))
    return own


def _present(kernel: RouteSocket, addresses: Sequence[AddressSpec]) -> _State:
    loopback = socket.if_nametoindex(_LOOPBACK)
    listed = kernel.rules()
    rules = frozenset(rule for rule in listed if rule.priority == POD_PRIORITY and rule.table in _TABLES)
    routes = kernel.routes()
    sources = {rule.source for rule in rules}
    return _State(
        routes=frozenset(route for route in routes if route.table in _TABLES),
        rules=rules,
        addresses=frozenset(
            a for a in addresses if a.interface == loopback and _is_host(a.network) and a.network in sources
        ),
        local=frozenset(route for route in routes if route.table == LOCAL_TABLE and route.kind is RouteKind.LOCAL),
        former=frozenset(rule for rule in listed if rule.priority == FORMER_PRIORITY),
    )


def _wanted(by_table: Mapping[int, Attachment], addresses: Sequence[AddressSpec]) -> _State:
    loopback = socket.if_nametoindex(_LOOPBACK)
    vips = [vip for attachment in by_table.values() for vip in attachment.vips]
    return _State(
        routes=frozenset(
            route
            for table, attachment in by_table.items()
            for version in (4, 6)
            for route in _ways_back(table, version, attachment.next_hops, addresses)
        ),
        rules=frozenset(
            RuleSpec(version=vip.version, priority=POD_PRIORITY, table=table, source=vip)
            for table, attachment in by_table.items()
            for vip in attachment.vips
        ),
        addresses=frozenset(
            AddressSpec(address=vip.network_address, prefix_bits=vip.prefixlen, interface=loopback)
            for vip in vips
            if _is_host(vip)
        ),
        # The kernel's own local route of an IPv6 address comes a moment after the address (addrconf_dad_start: a workqueue). Until then
        # a Pod that forwards would send the VIP's packets on.
        local=frozenset(_local(vip, loopback) for vip in vips if vip.version == 6 or not _is_host(vip)),
    )


def _former(present: _State, wanted: _State) -> frozenset[RuleSpec]:
    """The rules of VIPs that are held no longer: those that go now first."""
    held = {rule.source for rule in wanted.rules}
    known = {vip for rule in present.former if (vip := rule.source or rule.destination)} - held
    going = {rule.source for rule in present.rules if rule.source} - held - known
    remembered = [*sorted(going, key=str), *sorted(known, key=str)][:FORMER_VIPS]
    return frozenset(rule for vip in remembered for rule in _nowhere(vip))


def _nowhere(vip: Prefix) -> tuple[RuleSpec, RuleSpec]:
    """Packets of a VIP that this Pod does not hold any more."""
    end = RuleSpec(version=vip.version, priority=FORMER_PRIORITY, action=RuleAction.BLACKHOLE)
    return replace(end, source=vip), replace(end, destination=vip)


def _ways_back(
    table: int, version: int, next_hops: Sequence[Address], addresses: Sequence[AddressSpec]
) -> list[RouteSpec]:
    """The routes of one family in a table: the last resort, and above it a default over the next hops that can be reached."""
    hops = [
        NextHop(address=hop, interface=index)
        for hop in set(next_hops)
        if hop.version == version and (index := interface_of(hop, addresses)) is not None
    ]
    routes = [last_resort(table, version)]
    if hops:
        default = default_of(version)
        routes.append(RouteSpec(destination=default, table=table, metric=_METRIC, next_hops=tuple(sorted(hops))))
    return routes


def _local(vip: Prefix, loopback: int) -> RouteSpec:
    # IPv6 wants a metric said; in IPv4 the local table has none.
    metric = 0 if vip.version == 4 else _METRIC
    return RouteSpec(destination=vip, table=LOCAL_TABLE, kind=RouteKind.LOCAL, metric=metric, interface=loopback)


def _is_host(prefix: Prefix) -> bool:
    return prefix.prefixlen == prefix.max_prefixlen


def _set_parameters(wanted: _State) -> None:
    """Replies are spread by 5-tuple, and the VIPs on ``lo`` stay a secret of the Pod on its networks: every Pod holds the same.

    With arp_announce 0 a Pod asks for its gateway's MAC address in the name of the VIP, and with arp_ignore 0 it answers to whoever
    asks for the VIP's. IPv6 does neither: neighbour discovery speaks only for addresses of its own interface.
    Source: Documentation/networking/ip-sysctl.rst.
    """
    for family in ("ipv4", "ipv6"):
        sysctl.ensure(f"net/{family}/fib_multipath_hash_policy", "1")
    if any(rule.version == 6 for rule in wanted.rules):
        sysctl.ensure(f"net/ipv6/conf/{_LOOPBACK}/disable_ipv6", "0")
    for index in {hop.interface for route in wanted.routes for hop in route.next_hops if hop.address.version == 4}:
        try:
            name = socket.if_indextoname(index)
        except OSError as error:
            raise DataplaneError(f"interface {index} of the next hops has gone meanwhile: {error.strerror}") from error
        sysctl.ensure(f"net/ipv4/conf/{name}/arp_ignore", "1")
        sysctl.ensure(f"net/ipv4/conf/{name}/arp_announce", "2")
