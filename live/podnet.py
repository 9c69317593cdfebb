"""The network of an application Pod: its VIPs, and the way back for their replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.model import Attachment, Prefix
from live import sysctl
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
    RuleSpec,
    default_of,
    interface_of,
)

POD_TABLE: Final = 4097
POD_PRIORITY: Final = 20110
_METRIC: Final = 100
_LOOPBACK: Final = "lo"


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """Our objects in one namespace: what is there, or what should be."""

    table: frozenset[RouteSpec] = frozenset()
    rules: frozenset[RuleSpec] = frozenset()
    addresses: frozenset[AddressSpec] = frozenset()
    local: frozenset[RouteSpec] = frozenset()


class KernelPodNetwork:
    """`core.ports.PodNetwork` of the Pod whose network namespace the file `netns` stands for.

    Ours are: rules of our priority, routes of our table, local routes of our protocol number, and those addresses of ``lo`` for
    which we have a rule (the rule comes before the address and goes after it). The namespace is entered by a thread for the time of
    a call, and not held open: a Pod that goes away is not kept alive.
    """

    def __init__(self, netns: Path) -> None:
        self._netns = netns

    def apply(self, attachment: Attachment) -> None:
        """VIPs on ``lo``; a rule ``from VIP`` and a multipath default over the next hops for each family, and no others.

        Next hops that are on no network of the Pod are left out. A family without next hops has a blackhole: replies never leak to
        the primary network.

        Raises DataplaneError when the namespace cannot be entered, NetlinkError when the kernel refuses.
        """
        inside(self._netns, lambda: _apply(attachment))

    def observe(self) -> tuple[Prefix, ...]:
        """The VIPs that are truly in place: held by the Pod, with a rule for their replies and at least one next hop. Sorted.

        Raises DataplaneError when the namespace cannot be entered.
        """
        return inside(self._netns, _observe)

    def remove(self) -> None:
        """Takes all of it away; a namespace that is gone has nothing left."""
        if self._netns.exists():
            inside(self._netns, lambda: _apply(Attachment()))


def _apply(attachment: Attachment) -> None:
    with RouteSocket() as kernel:
        addresses = kernel.addresses()
        interfaces = kernel.interfaces()
        present = _present(kernel, addresses)
        wanted = _wanted(attachment, addresses, interfaces[_LOOPBACK])
        if attachment.vips:
            _set_parameters(wanted, {index: name for name, index in interfaces.items()})
        if wanted == present:
            return
        changed = {route.key for route in wanted.table - present.table}
        # The way back first; then the VIPs; what is too much in the opposite order.
        kernel.apply(Change(routes=tuple(wanted.table - present.table), rules=tuple(wanted.rules - present.rules)))
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
                old_rules=tuple(present.rules - wanted.rules),
                old_routes=tuple(route for route in present.table - wanted.table if route.key not in changed),
            )
        )


def _observe() -> tuple[Prefix, ...]:
    with RouteSocket() as kernel:
        present = _present(kernel, kernel.addresses())
    held = {address.network for address in present.addresses} | {route.destination for route in present.local}
    ways_back = {route.destination.version for route in present.table if route.next_hops}
    sources = {rule.source for rule in present.rules}
    placed = [vip for vip in held if vip in sources and vip.version in ways_back]
    return tuple(sorted(placed, key=lambda vip: (vip.version, vip.network_address.packed, vip.prefixlen)))


def _present(kernel: RouteSocket, addresses: Sequence[AddressSpec]) -> _State:
    rules = frozenset(rule for rule in kernel.rules() if rule.priority == POD_PRIORITY)
    routes = kernel.routes()
    sources = {rule.source for rule in rules}
    return _State(
        table=frozenset(route for route in routes if route.table == POD_TABLE),
        rules=rules,
        addresses=frozenset(a for a in addresses if _is_host(a.network) and a.network in sources),
        local=frozenset(route for route in routes if route.table == LOCAL_TABLE and route.kind is RouteKind.LOCAL),
    )


def _wanted(attachment: Attachment, addresses: Sequence[AddressSpec], loopback: int) -> _State:
    vips = frozenset(attachment.vips)
    if not vips:
        return _State()
    table = set()
    for version in (4, 6):
        table.add(last_resort(POD_TABLE, version))
        hops = [
            NextHop(address=hop, interface=index)
            for hop in set(attachment.next_hops)
            if hop.version == version and (index := interface_of(hop, addresses)) is not None
        ]
        if hops:
            default = default_of(version)
            table.add(RouteSpec(destination=default, table=POD_TABLE, metric=_METRIC, next_hops=tuple(sorted(hops))))
    return _State(
        table=frozenset(table),
        rules=frozenset(
            RuleSpec(version=vip.version, priority=POD_PRIORITY, table=POD_TABLE, source=vip) for vip in vips
        ),
        addresses=frozenset(
            AddressSpec(address=vip.network_address, prefix_bits=vip.prefixlen, interface=loopback)
            for vip in vips
            if _is_host(vip)
        ),
        local=frozenset(_local(vip, loopback) for vip in vips if not _is_host(vip)),
    )


def _local(vip: Prefix, loopback: int) -> RouteSpec:
    # IPv6 wants a metric said; in IPv4 the local table has none.
    metric = 0 if vip.version == 4 else _METRIC
    return RouteSpec(destination=vip, table=LOCAL_TABLE, kind=RouteKind.LOCAL, metric=metric, interface=loopback)


def _is_host(prefix: Prefix) -> bool:
    return prefix.prefixlen == prefix.max_prefixlen


def _set_parameters(wanted: _State, names: dict[int, str]) -> None:
    """Replies are spread by 5-tuple, and the VIPs on ``lo`` stay a secret of the Pod on its networks: every Pod holds the same.

    With arp_announce 0 a Pod asks for its gateway's MAC address in the name of the VIP, and with arp_ignore 0 it answers to whoever
    asks for the VIP's. IPv6 does neither: neighbour discovery speaks only for addresses of its own interface.
    Source: Documentation/networking/ip-sysctl.rst.
    """
    for family in ("ipv4", "ipv6"):
        sysctl.ensure(f"net/{family}/fib_multipath_hash_policy", "1")
    if any(rule.version == 6 for rule in wanted.rules):
        sysctl.ensure(f"net/ipv6/conf/{_LOOPBACK}/disable_ipv6", "0")
    for index in {hop.interface for route in wanted.table for hop in route.next_hops if hop.address.version == 4}:
        sysctl.ensure(f"net/ipv4/conf/{names[index]}/arp_ignore", "1")
        sysctl.ensure(f"net/ipv4/conf/{names[index]}/arp_announce", "2")
