"""Policy routes of a gateway pod: replies of the VIPs leave by the table that BIRD feeds, and by nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from pathlib import Path
from typing import Final

from core.model import Prefix
from live.rtnetlink import LAST_METRIC, Change, RouteKind, RouteSocket, RouteSpec, RuleSpec, default_of

GATEWAY_TABLE: Final = 4096
GATEWAY_PRIORITY: Final = 20100


class KernelPolicyRoutes:
    """`core.ports.PolicyRoutes`: ``from VIP lookup table`` for every VIP (for neighbours together: each reply walks through the list),
    and below the routes that BIRD puts into the table a blackhole, so that without BGP the packets of a VIP go nowhere instead of to
    the primary network.

    Rules of this priority and this table that carry our protocol number are ours; so are the blackholes. Everything else stays.
    """

    def __init__(
        self, *, table: int = GATEWAY_TABLE, priority: int = GATEWAY_PRIORITY, netns: Path | None = None
    ) -> None:
        self._table = table
        self._priority = priority
        self._netns = netns

    def apply(self, vips: Sequence[Prefix]) -> None:
        """Makes the replies of `vips`, and of no other address, leave by the table and by nothing else.

        Raises RtnetlinkError when the kernel refuses a rule or a route.
        """
        with RouteSocket(self._netns) as kernel:
            kernel.apply(self._difference(kernel, frozenset(vips)))

    def remove(self) -> None:
        """Takes the rules and the blackholes away; routes of others stay."""
        with RouteSocket(self._netns) as kernel:
            kernel.apply(self._difference(kernel, frozenset()))

    def _difference(self, kernel: RouteSocket, vips: frozenset[Prefix]) -> Change:
        rules = {
            RuleSpec(version=source.version, priority=self._priority, table=self._table, source=source)
            for source in joined(vips)
        }
        there = {r for r in kernel.rules() if r.priority == self._priority and r.table == self._table}
        last = {last_resort(self._table, version) for version in (4, 6)} if vips else set()
        last_there = {r for r in kernel.routes(self._table) if r.kind is RouteKind.BLACKHOLE}
        return Change(
            routes=tuple(last - last_there),
            rules=tuple(sorted(rules - there, key=str)),
            old_rules=tuple(sorted(there - rules, key=str)),
            old_routes=tuple(last_there - last),
        )


def joined(prefixes: Collection[Prefix]) -> frozenset[Prefix]:
    """The fewest prefixes that have the same addresses, but two for all addresses: the kernel keeps no rule from a /0."""
    fours = collapse_addresses(prefix for prefix in prefixes if isinstance(prefix, IPv4Network))
    sixes = collapse_addresses(prefix for prefix in prefixes if isinstance(prefix, IPv6Network))
    fewest: tuple[Prefix, ...] = (*fours, *sixes)
    return frozenset(part for prefix in fewest for part in (prefix.subnets() if prefix.prefixlen == 0 else (prefix,)))


def last_resort(table: int, version: int) -> RouteSpec:
    """The blackhole below all other routes of a table."""
    return RouteSpec(destination=default_of(version), table=table, kind=RouteKind.BLACKHOLE, metric=LAST_METRIC)
