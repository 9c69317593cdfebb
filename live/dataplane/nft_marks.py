"""Targets as packet marks: a mark, a rule and a table with one default route for each target address.

    mark 0x54470000 | n  --rules-->  table 0x54470000 | n  --default-->  the target

The kernel tries policy rules one after the other, so they are a tree of two levels: one of 16 rules leads on to those of the marks with
the same last four bits. Packets without a mark of ours go past all of them, to the rules of the fence.

The allocation lives in the kernel and nowhere else: an agent that starts anew reads it from the routes. Below stands a blackhole for
all our marks: what has a mark and no route is lost, never sent to the primary network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from core.errors import DataplaneError
from core.model import Address, Prefix
from live.dataplane.fence import OWN_PRIORITY
from live.dataplane.nft_listing import Listing, listing
from live.rtnetlink import (
    AddressSpec,
    Change,
    NextHop,
    RouteSocket,
    RouteSpec,
    RuleAction,
    RuleSpec,
    default_of,
)

MARK_BASE: Final = 0x5447_0000
MARK_MASK: Final = 0xFFFF_0000
REJECT_MARK: Final = MARK_BASE | 0xFFFF
"""Packets that are rejected: they set out on the way of the VIPs' replies, and are refused in the forward hook."""
LOST_MARK: Final = MARK_BASE | 0xFFFE
"""Packets to targets on no network of this namespace: the mark that never has a route."""

_FIRST, _LAST = 1, 0xFFFD
_METRIC: Final = 100

OTHERS: Final = 19999
OWN_ANSWERS: Final = 20000
NO_LEAK: Final = 20001
GROUPS: Final = 20002
REJECTED: Final = 20003
TARGETS: Final = range(20010, 20026)
"""By group: the last bits of a mark."""
NO_ROUTE: Final = 20030
_PRIORITIES: Final = frozenset((OTHERS, OWN_ANSWERS, NO_LEAK, GROUPS, REJECTED, *TARGETS, NO_ROUTE))
_IN_GROUP: Final = len(TARGETS) - 1


class MarkRoutes:
    """Marks of targets, with their rules and routes. Methods take the socket of the namespace they work on."""

    def __init__(self, *, reply_table: int) -> None:
        """`reply_table`: by which the gateway's own answers about VIP packets (TCP reset, ICMP errors) leave."""
        self._reply_table = reply_table
        self._there: Listing | None = None
        """What the kernel has, as it was listed last, with what was added and taken away since; None: to be listed."""
        self._marks: dict[Address, int] = {}
        """By target, of `_there`."""

    def marks(self) -> dict[Address, int]:
        """The mark of every target that the kernel has a route for."""
        return self._list().marks

    def _list(self) -> Listing:
        return listing(MARK_BASE, MARK_MASK, TARGETS)

    def acquire(
        self, kernel: RouteSocket, targets: Collection[Address], versions: Iterable[int], *, look: bool = True
    ) -> dict[Address, int]:
        """A mark for each of `targets`, old ones unchanged; when this returns, packets that have one of them reach the target, or go
        nowhere when it is on no network of this namespace. `look`: whether what is known of the kernel may have changed.

        Raises DataplaneError when there are too many.
        """
        there, self._there = None if look else self._there, None
        if there is None:
            there, look = self._list(), True
            self._marks = there.marks
        result, new = {}, []
        for target in targets:
            mark = self._marks.get(target)
            if look or mark is None:
                new.append(target)
            else:
                result[target] = mark
        networks = _on_link(kernel.addresses()) if new else []
        free = (mark for n in range(_FIRST, _LAST + 1) if (mark := MARK_BASE | n) not in there.hops)
        routes = []
        wanted = set()
        for target in sorted(new, key=lambda address: (address.version, address.packed)):
            interface = _interface_of(target, networks)
            if interface is None:
                result[target] = LOST_MARK
                continue
            if (mark := self._marks.get(target) or next(free, 0)) == 0:
                raise DataplaneError(f"{len(targets)} targets; the nft plane has marks for {_LAST - _FIRST + 1}")
            result[target] = mark
            wanted.add((target.version, mark))
            if there.hops.get(mark) != (target, interface):
                routes.append(_route(target, mark, interface))
        rules = {_to_group(*one) for one in wanted} | {rule for v in versions for rule in self._fixed_rules(v)}
        added = (rules - there.rules) | {_leaf(*one) for one in wanted - there.leaves}
        kernel.apply(
            Change(routes=tuple(routes), rules=tuple(sorted(added, key=lambda rule: (rule.priority, str(rule)))))
        )
        there.hops |= {route.table: (route.next_hops[0].address, route.next_hops[0].interface) for route in routes}
        there.leaves |= wanted
        there.rules |= rules
        self._marks |= {route.next_hops[0].address: route.table for route in routes}
        self._there = there
        return result

    def hops(self) -> Mapping[int, tuple[Address, int]]:
        """Target and interface behind each mark, as `acquire` has left them."""
        return (self._there or self._list()).hops

    def release(self, kernel: RouteSocket, in_use: Mapping[Address, int]) -> None:
        """Takes the routes of all marks but `in_use` away, and the rules that lead to them; no packet has them any more.

        What is there is what `acquire` has found and added.
        """
        there, self._there = self._there or self._list(), None
        used = frozenset(in_use.values())
        old = {(v, mark) for v, mark in there.leaves if mark not in used}
        unused = {mark: hop for mark, (hop, _) in there.hops.items() if mark not in used}
        groups = {(v, mark & _IN_GROUP) for v, mark in there.leaves - old}
        rest = {_to_group(*one) for one in groups}
        no_group = {rule for rule in there.rules if rule.priority == GROUPS} - rest
        kernel.apply(
            Change(
                old_rules=tuple(sorted({_leaf(*one) for one in old} | no_group, key=str)),
                old_routes=tuple(_route(hop, mark, 0) for mark, hop in unused.items()),
            )
        )
        there.leaves -= old
        there.rules -= no_group
        for mark, hop in unused.items():
            del there.hops[mark]
            if self._marks.get(hop) == mark:
                del self._marks[hop]
        self._there = there

    def remove(self, kernel: RouteSocket) -> None:
        """Takes all rules and routes away."""
        kernel.apply(Change(old_rules=tuple(rule for rule in kernel.rules() if rule.priority in _PRIORITIES)))
        ours = tuple(route for route in kernel.routes() if _is_target(route.table))
        kernel.apply(Change(old_routes=ours))
        self._there = None

    def _fixed_rules(self, version: int) -> list[RuleSpec]:
        def rule(priority: int, mark: int, mask: int, **more: object) -> RuleSpec:
            return RuleSpec(version=version, priority=priority, mark=mark, mask=mask, **more)  # type: ignore[arg-type]

        # The kernel reflects the mark of a packet in what it answers (fwmark_reflect); what it sends itself comes from "lo".
        everything, exactly = MARK_MASK, 0xFFFFFFFF
        return [
            rule(OTHERS, 0, everything, action=RuleAction.GOTO, target=OWN_PRIORITY),
            rule(OWN_ANSWERS, MARK_BASE, everything, input_interface="lo", table=self._reply_table),
            rule(NO_LEAK, MARK_BASE, everything, input_interface="lo", action=RuleAction.UNREACHABLE),
            rule(REJECTED, REJECT_MARK, exactly, table=self._reply_table),
            rule(NO_ROUTE, MARK_BASE, everything, action=RuleAction.BLACKHOLE),
        ]


def _is_target(mark: int) -> bool:
    return mark & MARK_MASK == MARK_BASE


def _leaf(version: int, mark: int) -> RuleSpec:
    """The rule that leads packets with the mark to its table."""
    return RuleSpec(version=version, priority=TARGETS[mark & _IN_GROUP], mark=mark, mask=0xFFFFFFFF, table=mark)


def _to_group(version: int, mark: int) -> RuleSpec:
    """The rule that leads to the rules of the mark's group."""
    group = mark & _IN_GROUP
    return RuleSpec(
        version=version,
        priority=GROUPS,
        mark=MARK_BASE | group,
        mask=MARK_MASK | _IN_GROUP,
        action=RuleAction.GOTO,
        target=TARGETS[group],
    )


def _on_link(addresses: Iterable[AddressSpec]) -> list[tuple[Prefix, int]]:
    """Networks with their interfaces, the longest prefixes first."""
    found = {(address.network, address.interface) for address in addresses}
    return sorted(
        found, key=lambda entry: (entry[0].version, -entry[0].prefixlen, entry[0].network_address.packed, entry[1])
    )


def _interface_of(target: Address, networks: Sequence[tuple[Prefix, int]]) -> int | None:
    """Over which interface the target is reached; None: it is on no network here."""
    return next((at for network, at in networks if network.version == target.version and target in network), None)


def _route(target: Address, mark: int, interface: int) -> RouteSpec:
    hop = NextHop(address=target, interface=interface)
    return RouteSpec(destination=default_of(target.version), table=mark, metric=_METRIC, next_hops=(hop,))
