"""Targets as packet marks: a mark, a rule and a table with one default route for each target address.

    mark 0x54470000 | n  --rule-->  table 0x54470000 | n  --default-->  the target

The allocation lives in the kernel and nowhere else: an agent that starts anew reads it from the routes. Below stands a blackhole for
all our marks: what has a mark and no route is lost, never sent to the primary network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from core.errors import DataplaneError
from core.model import Address
from live.rtnetlink import (
    Change,
    NextHop,
    RouteSocket,
    RouteSpec,
    RuleAction,
    RuleSpec,
    default_of,
    interface_of,
)

MARK_BASE: Final = 0x5447_0000
MARK_MASK: Final = 0xFFFF_0000
REJECT_MARK: Final = MARK_BASE | 0xFFFF
"""Packets that are rejected: they set out on the way of the VIPs' replies, and are refused in the forward hook."""
LOST_MARK: Final = MARK_BASE | 0xFFFE
"""Packets to targets on no network of this namespace: the mark that never has a route."""

_FIRST, _LAST = 1, 0xFFFD
_METRIC: Final = 100

OWN_ANSWERS: Final = 20000
NO_LEAK: Final = 20001
REJECTED: Final = 20002
TARGETS: Final = 20003
NO_ROUTE: Final = 20004
_PRIORITIES: Final = frozenset((OWN_ANSWERS, NO_LEAK, REJECTED, TARGETS, NO_ROUTE))


class MarkRoutes:
    """Marks of targets, with their rules and routes. Methods take the socket of the namespace they work on."""

    def __init__(self, *, reply_table: int) -> None:
        """`reply_table`: by which the gateway's own answers about VIP packets (TCP reset, ICMP errors) leave."""
        self._reply_table = reply_table

    def marks(self, kernel: RouteSocket) -> dict[Address, int]:
        """The mark of every target that the kernel has a route for."""
        return {
            hop.address: route.table for route in kernel.routes() if _is_target(route.table) for hop in route.next_hops
        }

    def acquire(self, kernel: RouteSocket, targets: Collection[Address], versions: Iterable[int]) -> dict[Address, int]:
        """A mark for each of `targets`, old ones unchanged; when this returns, packets that have one of them reach the target, or go
        nowhere when it is on no network of this namespace.

        Raises DataplaneError when there are too many.
        """
        known = self.marks(kernel)
        addresses = kernel.addresses()
        taken = frozenset(known.values())
        free = (mark for n in range(_FIRST, _LAST + 1) if (mark := MARK_BASE | n) not in taken)
        result, routes = {}, []
        for target in sorted(targets, key=lambda address: (address.version, address.packed)):
            interface = interface_of(target, addresses)
            if interface is None:
                result[target] = LOST_MARK
                continue
            if (mark := known.get(target) or next(free, 0)) == 0:
                raise DataplaneError(f"{len(targets)} targets; the nft plane has marks for {_LAST - _FIRST + 1}")
            result[target] = mark
            routes.append(_route(target, mark, interface))
        wanted_rules = {_rule(target, mark) for target, mark in result.items() if mark != LOST_MARK}
        wanted_rules |= {rule for version in versions for rule in self._fixed_rules(version)}
        there = {rule for rule in kernel.rules() if rule.priority in _PRIORITIES}
        kernel.apply(
            Change(
                routes=tuple(set(routes) - set(kernel.routes())),
                rules=tuple(sorted(wanted_rules - there, key=lambda rule: (rule.priority, str(rule)))),
            )
        )
        return result

    def release(self, kernel: RouteSocket, in_use: Mapping[Address, int]) -> None:
        """Takes the routes of all marks but `in_use` away; no packet has them any more."""
        used = frozenset(in_use.values())
        old = {target: mark for target, mark in self.marks(kernel).items() if mark not in used}
        kernel.apply(
            Change(
                old_rules=tuple(_rule(target, mark) for target, mark in old.items()),
                old_routes=tuple(_route(target, mark, 0) for target, mark in old.items()),
            )
        )

    def remove(self, kernel: RouteSocket) -> None:
        """Takes all rules and routes away."""
        kernel.apply(Change(old_rules=tuple(rule for rule in kernel.rules() if rule.priority in _PRIORITIES)))
        ours = tuple(route for route in kernel.routes() if _is_target(route.table))
        kernel.apply(Change(old_routes=ours))

    def _fixed_rules(self, version: int) -> list[RuleSpec]:
        def rule(priority: int, mark: int, mask: int, **more: object) -> RuleSpec:
            return RuleSpec(version=version, priority=priority, mark=mark, mask=mask, **more)  # type: ignore[arg-type]

        # The kernel reflects the mark of a packet in what it answers (fwmark_reflect); what it sends itself comes from "lo".
        everything, exactly = MARK_MASK, 0xFFFFFFFF
        return [
            rule(OWN_ANSWERS, MARK_BASE, everything, input_interface="lo", table=self._reply_table),
            rule(NO_LEAK, MARK_BASE, everything, input_interface="lo", action=RuleAction.UNREACHABLE),
            rule(REJECTED, REJECT_MARK, exactly, table=self._reply_table),
            rule(NO_ROUTE, MARK_BASE, everything, action=RuleAction.BLACKHOLE),
        ]


def _is_target(mark: int) -> bool:
    return mark & MARK_MASK == MARK_BASE


def _rule(target: Address, mark: int) -> RuleSpec:
    return RuleSpec(version=target.version, priority=TARGETS, mark=mark, mask=0xFFFFFFFF, table=mark)


def _route(target: Address, mark: int, interface: int) -> RouteSpec:
    hop = NextHop(address=target, interface=interface)
    return RouteSpec(destination=default_of(target.version), table=mark, metric=_METRIC, next_hops=(hop,))
