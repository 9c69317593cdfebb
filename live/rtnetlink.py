"""Routes, policy rules and addresses of one network namespace, over rtnetlink.

Values in, values out: `RouteSpec`, `RuleSpec`, `AddressSpec` describe what should be there, and the same types describe what is.
The wire is pyroute2's (docs/decisions/0019): its message classes encode and decode, its blocking `IPRSocket` sends and receives.

Source: linux/rtnetlink.h, linux/fib_rules.h, linux/if_addr.h; rtnetlink(7).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final, Self

from core.errors import DataplaneError
from core.model import Address, Prefix
from live.namespaces import inside

OUR_PROTOCOL: Final = 0x74
"""Marks routes and rules as ours (rtm_protocol, FRA_PROTOCOL); free in iproute2's rt_protos. Only what carries it is ever removed."""

MAIN_TABLE: Final = 254
LOCAL_TABLE: Final = 255
LAST_METRIC: Final = 0xFFFFFFFF
ANSWER_DEADLINE_S: Final = 10.0
"""The kernel answers at once; a socket that stays silent so long is broken."""

_FAMILY: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
_VERSION: Final = {family: version for version, family in _FAMILY.items()}
_GETLINK, _NEWADDR, _DELADDR, _GETADDR = 18, 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 26, 32, 33, 34
_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE, _DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
_ERROR, _DONE, _DUMP_INTERRUPTED = 2, 3, 0x10
_ONLINK: Final = 4
_CLONED: Final = 0x200
_HOST_SCOPE: Final = 254
_DUMP_ATTEMPTS: Final = 10


class RtnetlinkError(DataplaneError):
    """The kernel refused a message, with `errno`."""

    def __init__(self, what: str, errno: int, text: str = "") -> None:
        why = os.strerror(errno)
        super().__init__(f"{what}: {why}" + (f" ({text})" if text not in ("", why) else ""))
        self.errno = errno


class _DumpInterruptedError(RtnetlinkError):
    """Objects changed while they were listed: list again."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A message in the form of pyroute2's message classes: fields and ``attrs``. `what` names it in errors."""

    kind: int
    flags: int
    body: dict[str, Any]
    what: str


class RouteKind(IntEnum):
    """rtm_type."""

    UNICAST = 1
    LOCAL = 2
    BLACKHOLE = 6
    UNREACHABLE = 7


class RuleAction(IntEnum):
    """FR_ACT_*."""

    LOOKUP = 1
    GOTO = 2
    NOTHING = 3
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
    """``from source to destination fwmark mark/mask iif NAME lookup table``."""

    version: int
    priority: int
    table: int = 0
    action: RuleAction = RuleAction.LOOKUP
    target: int = 0
    """Of GOTO: the priority, above one's own, at whose first rule the kernel goes on; while there is none, at the next rule."""
    source: Prefix | None = None
    destination: Prefix | None = None
    mark: int = 0
    mask: int = 0
    input_interface: str = ""

    def __str__(self) -> str:
        source = f" from {self.source}" if self.source else ""
        source += f" to {self.destination}" if self.destination else ""
        mark = f" fwmark {self.mark:#x}/{self.mask:#x}" if self.mask else ""
        return f"IPv{self.version} rule {self.priority}{source}{mark} {self.action.name.lower()} {self.target or self.table}"


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
    """rtnetlink of one network namespace: the calling thread's, or the one that the file `netns` stands for.

    Not for several threads at once. The first one in a process imports pyroute2 (0.1 s).

    Raises DataplaneError when the namespace cannot be entered, RtnetlinkError when no socket can be had.
    """

    def __init__(self, netns: Path | None = None, *, connection: socket.socket | None = None) -> None:
        """`connection`: a datagram socket to speak over instead of a new one."""
        from pyroute2 import IPRSocket

        def connect() -> Any:
            made = IPRSocket(strict_check=True, ext_ack=True, use_socket=connection)
            # pyroute2 opens its socket when it is first asked for; it must be this thread that asks.
            made.socket.settimeout(ANSWER_DEADLINE_S)
            return made

        try:
            self._socket = inside(netns, connect)
        except OSError as error:
            raise RtnetlinkError("opening an rtnetlink socket", error.errno or 0) from error
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def interfaces(self) -> dict[str, int]:
        """Index of every interface by its name."""
        answers = self._list(_Request(_GETLINK, _DUMP, {"family": 0}, "listing interfaces"))
        return {answer.get_attr("IFLA_IFNAME"): answer["index"] for answer in answers}

    def addresses(self) -> list[AddressSpec]:
        """Addresses of all interfaces, both families."""
        answers = self._list(_Request(_GETADDR, _DUMP, {"family": 0}, "listing addresses"))
        return [address for answer in answers if (address := _address_of(answer))]

    def rules(self) -> list[RuleSpec]:
        """Our rules, both families, in order of priority."""
        found = []
        for family in _FAMILY.values():
            answers = self._list(_Request(_GETRULE, _DUMP, {"family": family}, "listing policy rules"))
            found += [rule for answer in answers if (rule := _rule_of(answer))]
        return found

    def routes(self, table: int | None = None, *, protocol: int | None = OUR_PROTOCOL) -> list[RouteSpec]:
        """Routes of `table` (None: of all tables) and `protocol` (None: of all protocols), both families."""
        found = []
        for family in _FAMILY.values():
            attributes = [] if table is None else [("RTA_TABLE", table)]
            body = {"family": family, "proto": protocol or 0, "attrs": attributes}
            try:
                answers = self._list(_Request(_GETROUTE, _DUMP, body, f"listing routes of table {table}"))
            except RtnetlinkError as error:
                if error.errno == 2:  # ENOENT: a table that has never had a route
                    continue
                raise
            routes = (_route_of(answer, protocol) for answer in answers)
            found += [route for route in routes if route and table in (None, route.table)]
        return found

    def apply(self, change: Change) -> None:
        """Adds and replaces, then deletes. What is there already, or is gone already, is no error.

        Raises RtnetlinkError, the first one, after everything else has been tried.
        """
        exists, no_such = (17,), (2, 3, 19, 99)  # EEXIST; ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL
        create = _CREATE | _EXCL
        errors = self._change([_route(route, _NEWROUTE, _CREATE | _REPLACE) for route in change.routes], ())
        errors += self._change([_rule(rule, _NEWRULE, create) for rule in change.rules], exists)
        errors += self._change([_address(address, _NEWADDR, create) for address in change.addresses], exists)
        errors += self._change([_address(address, _DELADDR, 0) for address in change.old_addresses], no_such)
        errors += self._change([_rule(rule, _DELRULE, 0) for rule in change.old_rules], no_such)
        errors += self._change([_route(route, _DELROUTE, 0) for route in change.old_routes], no_such)
        if errors:
            raise errors[0]

    def _change(self, requests: Sequence[_Request], expected: tuple[int, ...]) -> list[RtnetlinkError]:
        errors = []
        for request in requests:
            try:
                self._ask(request)
            except RtnetlinkError as error:
                if error.errno not in expected:
                    errors.append(error)
        return errors

    def _list(self, request: _Request) -> list[Any]:
        for _ in range(_DUMP_ATTEMPTS - 1):
            try:
                return self._ask(request)
            except _DumpInterruptedError:
                continue
        return self._ask(request)

    def _ask(self, request: _Request) -> list[Any]:
        """The objects that the kernel answers with, none to a change. Raises RtnetlinkError."""
        self._sequence += 1
        message = self._socket.marshal.msg_map[request.kind]()
        message.setvalue(request.body)
        flags = _REQUEST | (request.flags if request.flags & _DUMP == _DUMP else request.flags | _ACK)
        try:
            self._socket.put(message, msg_type=request.kind, msg_flags=flags, msg_seq=self._sequence)
            return self._answers(request.what)
        except OSError as error:
            text = "no answer from the kernel" if error.errno is None else ""
            raise RtnetlinkError(request.what, error.errno or 110, text) from error

    def _answers(self, what: str) -> list[Any]:
        """Reads to the end of the answer. pyroute2 alone would not tell that a listing was interrupted, or failed without words."""
        found: list[Any] = []
        interrupted = 0
        while True:
            for answer in self._socket.get():
                header = answer["header"]
                if header["sequence_number"] != self._sequence:
                    continue
                if (error := header["error"]) is not None:
                    raise error if isinstance(error, OSError) else RtnetlinkError(what, error.code, error.args[1])
                interrupted |= header["flags"] & _DUMP_INTERRUPTED
                if header["type"] == _ERROR:
                    return found
                if header["type"] == _DONE:
                    (code,) = struct.unpack_from("=i", answer.data, answer.offset + 16)
                    if code < 0:
                        raise RtnetlinkError(what, -code)
                    if interrupted:
                        raise _DumpInterruptedError(what, 4, "it keeps changing while it is listed; try again")
                    return found
                found.append(answer)


def interface_of(address: Address, addresses: Sequence[AddressSpec]) -> int | None:
    """The index of the interface whose network holds `address`, the longest prefix first; None: it is on no network here."""
    holding = [a for a in addresses if a.address.version == address.version and address in a.network]
    return max(holding, key=lambda a: a.prefix_bits).interface if holding else None


def default_of(version: int) -> Prefix:
    """The default destination of a family."""
    return ip_network("0.0.0.0/0") if version == 4 else ip_network("::/0")


# --- messages --------------------------------------------------------------------------------------------------------------


def _route(route: RouteSpec, kind: int, flags: int) -> _Request:
    # A route is deleted whole, whatever next hops it has by now.
    next_hops = route.next_hops if kind == _NEWROUTE else ()
    attributes: list[tuple[str, Any]] = [("RTA_TABLE", route.table), ("RTA_PRIORITY", route.metric)]
    if route.destination.prefixlen:
        attributes.append(("RTA_DST", str(route.destination.network_address)))
    if route.interface is not None:
        attributes.append(("RTA_OIF", route.interface))
    if len(next_hops) > 1:
        attributes.append(("RTA_MULTIPATH", [_next_hop(hop) for hop in next_hops]))
    elif next_hops:
        attributes += [("RTA_GATEWAY", str(next_hops[0].address)), ("RTA_OIF", next_hops[0].interface)]
    body = {
        "family": _FAMILY[route.destination.version],
        "dst_len": route.destination.prefixlen,
        "table": route.table if route.table < 256 else 0,
        "proto": OUR_PROTOCOL,
        "scope": _HOST_SCOPE if route.kind is RouteKind.LOCAL else 0,
        "type": int(route.kind),
        "flags": _ONLINK if len(next_hops) == 1 else 0,
        "attrs": attributes,
    }
    return _Request(kind, flags, body, f"{'adding' if kind == _NEWROUTE else 'deleting'} {route}")


def _next_hop(hop: NextHop) -> dict[str, Any]:
    return {"flags": _ONLINK, "hops": 0, "oif": hop.interface, "attrs": [("RTA_GATEWAY", str(hop.address))]}


def _route_of(answer: Any, protocol: int | None) -> RouteSpec | None:
    if answer["family"] not in _VERSION or protocol not in (None, answer["proto"]) or answer["flags"] & _CLONED:
        return None
    if answer["type"] not in tuple(RouteKind):
        return None
    kind = RouteKind(answer["type"])
    interface = answer.get_attr("RTA_OIF")
    # pairs of gateway and interface; a single next hop stands in the route itself
    pairs = [(hop.get_attr("RTA_GATEWAY"), hop["oif"]) for hop in answer.get_attr("RTA_MULTIPATH") or ()]
    pairs.append((answer.get_attr("RTA_GATEWAY"), interface))
    hops = [NextHop(address=ip_address(gateway), interface=index) for gateway, index in pairs if gateway and index]
    anywhere = "0.0.0.0" if answer["family"] == socket.AF_INET else "::"
    return RouteSpec(
        destination=ip_network((answer.get_attr("RTA_DST") or anywhere, answer["dst_len"])),
        table=answer.get_attr("RTA_TABLE") or answer["table"],
        kind=kind,
        metric=answer.get_attr("RTA_PRIORITY") or 0,
        next_hops=tuple(sorted(hops)),
        # IPv6 names lo for its blackholes, which says nothing.
        interface=None if hops or kind in (RouteKind.BLACKHOLE, RouteKind.UNREACHABLE) else interface,
    )


def _rule(rule: RuleSpec, kind: int, flags: int) -> _Request:
    bits = rule.source.prefixlen if rule.source else 0
    to_bits = rule.destination.prefixlen if rule.destination else 0
    attributes: list[tuple[str, Any]] = [("FRA_PRIORITY", rule.priority), ("FRA_PROTOCOL", OUR_PROTOCOL)]
    if rule.table:
        attributes.append(("FRA_TABLE", rule.table))
    if rule.source and bits:
        attributes.append(("FRA_SRC", str(rule.source.network_address)))
    if rule.destination and to_bits:
        attributes.append(("FRA_DST", str(rule.destination.network_address)))
    if rule.mask:
        attributes += [("FRA_FWMARK", rule.mark), ("FRA_FWMASK", rule.mask)]
    if rule.target:
        attributes.append(("FRA_GOTO", rule.target))
    if rule.input_interface:
        attributes.append(("FRA_IIFNAME", rule.input_interface))
    body = {
        "family": _FAMILY[rule.version],
        "src_len": bits,
        "dst_len": to_bits,
        "action": int(rule.action),
        "attrs": attributes,
    }
    return _Request(kind, flags, body, f"{'adding' if kind == _NEWRULE else 'deleting'} {rule}")


def _rule_of(answer: Any) -> RuleSpec | None:
    ours = answer["family"] in _VERSION and answer.get_attr("FRA_PROTOCOL") == OUR_PROTOCOL
    if not ours or answer["action"] not in tuple(RuleAction):
        return None
    action = RuleAction(answer["action"])
    source, destination = answer.get_attr("FRA_SRC"), answer.get_attr("FRA_DST")
    return RuleSpec(
        version=_VERSION[answer["family"]],
        priority=answer.get_attr("FRA_PRIORITY") or 0,
        table=(answer.get_attr("FRA_TABLE") or answer["table"]) if action is RuleAction.LOOKUP else 0,
        action=action,
        target=answer.get_attr("FRA_GOTO") or 0,
        source=ip_network((source, answer["src_len"])) if source else None,
        destination=ip_network((destination, answer["dst_len"])) if destination else None,
        mark=answer.get_attr("FRA_FWMARK") or 0,
        mask=answer.get_attr("FRA_FWMASK") or 0,
        input_interface=answer.get_attr("FRA_IIFNAME") or "",
    )


def _address(address: AddressSpec, kind: int, flags: int) -> _Request:
    """Without duplicate address detection: a VIP is on many Pods at once, on purpose."""
    no_dad = 0x02
    text = str(address.address)
    body = {
        "family": _FAMILY[address.address.version],
        "prefixlen": address.prefix_bits,
        "flags": no_dad,
        "index": address.interface,
        "attrs": [("IFA_LOCAL", text), ("IFA_ADDRESS", text)],
    }
    verb = "adding" if kind == _NEWADDR else "deleting"
    return _Request(kind, flags, body, f"{verb} address {text}/{address.prefix_bits}")


def _address_of(answer: Any) -> AddressSpec | None:
    # IFA_LOCAL is the address, IFA_ADDRESS the other end of a point-to-point link; IPv6 has only the latter.
    text = answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS")
    if answer["family"] not in _VERSION or text is None:
        return None
    return AddressSpec(address=ip_address(text), prefix_bits=answer["prefixlen"], interface=answer["index"])
