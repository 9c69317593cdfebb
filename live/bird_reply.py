"""What BIRD says on its control socket: reply lines, sessions, BFD sessions and routes. No I/O.

A reply is lines ``CCCC-text`` and a last one ``CCCC text``; a line that starts with a blank continues the code before it. Codes from
8000 on are failures, from 9000 on faults of the command.

Source: BIRD 2 nest/cli.c ("The format of the protocol") and doc/reply_codes; nest/proto.c, proto/bgp/bgp.c (bgp_show_proto_info),
proto/bfd/bfd.c (bfd_show_sessions), nest/rt-show.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IpAddress = IPv4Address | IPv6Address

PROTOCOL_ROW, PROTOCOL_DETAIL, ROUTE_ROW, BFD_ROW = 1002, 1006, 1007, 1020
FIRST_FAILURE = 8000

_TIME = r"\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?)?|\d\d:\d\d:\d\d(?:\.\d+)?|\d+"
_PROTOCOL = re.compile(
    rf"(?P<name>\S+)\s+(?P<proto>\S+)\s+(?P<table>\S+)\s+(?P<state>\S+)\s+(?P<since>{_TIME})\s*(?P<info>.*)"
)
_BFD = re.compile(
    rf"(?P<address>[0-9a-fA-F:.]+)\s+(?P<interface>\S+)\s+(?P<state>\S+)\s+(?P<since>{_TIME})\s+(?P<interval>[\d.]+)\s+(?P<timeout>[\d.]+)"
)
_ROUTE = re.compile(
    rf"(?P<prefix>[0-9a-fA-F:.]+/\d+)?\s+(?P<kind>\w+) \[(?P<protocol>\S+) (?:{_TIME})[^\]]*\](?P<rest>.*)"
)
_VIA = re.compile(r"\s*via (?P<gateway>[0-9a-fA-F:.]+) on (?P<interface>\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyLine:
    """One line of a reply: its code, and its text as BIRD indented it."""

    code: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One address family of a session: whether it is up, and how many routes it took in and gave out."""

    name: str
    up: bool
    imported: int = 0
    exported: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BfdSession:
    """One BFD session; `interface` is empty for multihop, times are in seconds."""

    address: IpAddress
    interface: str
    state: str
    since: str
    interval_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One BGP session. `state` is RFC 4271's (Idle, Connect, Active, OpenSent, OpenConfirm, Established), or Down when disabled.

    `bfd` is None when no BFD session goes to this neighbour. `since` is as BIRD's `timeformat protocol` writes it.
    """

    name: str
    state: str
    since: str
    neighbor: IpAddress | None = None
    neighbor_asn: int | None = None
    last_error: str = ""
    bfd: str | None = None
    channels: tuple[Channel, ...] = ()

    @property
    def established(self) -> bool:
        return self.state == "Established"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route that BIRD holds; `next_hops` are (gateway, interface), none for blackhole and the like."""

    prefix: IPv4Network | IPv6Network
    kind: str
    protocol: str
    best: bool
    next_hops: tuple[tuple[IpAddress, str], ...]


def split_reply(data: bytes) -> tuple[ReplyLine, ...] | None:
    """The lines of the first whole reply in `data`; None while its last line has not come. Lines that BIRD echoes from its log
    (``+``) are left out.

    Raises:
        ValueError: this is not BIRD's control protocol.
    """
    lines: list[ReplyLine] = []
    code = 0
    for raw in data.decode(errors="replace").split("\n")[:-1]:
        if raw.startswith(" "):
            lines.append(ReplyLine(code=code, text=raw[1:]))
        elif raw[:4].isdecimal() and raw[4:5] in ("-", " "):
            code = int(raw[:4])
            lines.append(ReplyLine(code=code, text=raw[5:]))
            if raw[4] == " ":
                return tuple(lines)
        elif not raw.startswith("+"):
            raise ValueError(f"not a reply of BIRD: {raw[:80]!r}")
    return None


def parse_sessions(lines: Iterable[ReplyLine], bfd: Iterable[BfdSession] = ()) -> tuple[Session, ...]:
    """The BGP sessions in a reply to ``show protocols all``, in BIRD's order, each with the state of its BFD session in `bfd`."""
    bfd_states = {session.address: session.state for session in bfd}
    sessions: list[Session] = []
    in_session = False
    for line in lines:
        if line.code == PROTOCOL_ROW and (row := _PROTOCOL.match(line.text)):
            in_session = row["proto"] == "BGP"
            if in_session:
                sessions.append(
                    Session(name=row["name"], state=row["info"].split(" ")[0] or "Down", since=row["since"])
                )
        elif line.code == PROTOCOL_DETAIL and in_session:
            sessions[-1] = _with_detail(sessions[-1], line.text.strip())
    return tuple(
        replace(session, bfd=bfd_states.get(_without_zone(session.neighbor)) if session.neighbor else None)
        for session in sessions
    )


def parse_bfd_sessions(lines: Iterable[ReplyLine]) -> tuple[BfdSession, ...]:
    """The sessions in a reply to ``show bfd sessions``; none when BIRD runs no BFD."""
    return tuple(
        BfdSession(
            address=ip_address(row["address"]),
            interface=row["interface"].strip("-"),
            state=row["state"],
            since=row["since"],
            interval_s=float(row["interval"]),
            timeout_s=float(row["timeout"]),
        )
        for line in lines
        if line.code == BFD_ROW and (row := _BFD.match(line.text))
    )


def parse_routes(lines: Iterable[ReplyLine]) -> tuple[Route, ...]:
    """The routes in a reply to ``show route``, in BIRD's order."""
    return tuple(_routes(lines))


def _routes(lines: Iterable[ReplyLine]) -> Iterator[Route]:
    current: Route | None = None
    prefix = ""
    for line in lines:
        if line.code != ROUTE_ROW:
            continue
        if row := _ROUTE.match(line.text):
            if current is not None:
                yield current
            prefix = row["prefix"] or prefix
            best = " * " in row["rest"]
            current = Route(
                prefix=ip_network(prefix), kind=row["kind"], protocol=row["protocol"], best=best, next_hops=()
            )
        elif current is not None and (via := _VIA.match(line.text)):
            next_hop = (ip_address(via["gateway"]), via["interface"])
            current = replace(current, next_hops=(*current.next_hops, next_hop))
    if current is not None:
        yield current


def _with_detail(session: Session, text: str) -> Session:
    key, _, value = (part.strip() for part in text.partition(":"))
    channels = session.channels
    match key:
        case "BGP state":
            return replace(session, state=value)
        case "Neighbor address":
            # BIRD writes the interface behind 169.254.0.0/16 too, and Python knows zones of IPv6 only.
            return replace(session, neighbor=ip_address(value if ":" in value else value.partition("%")[0]))
        case "Neighbor AS":
            return replace(session, neighbor_asn=int(value))
        case "Last error":
            return replace(session, last_error=value)
        case "State" if channels:
            return replace(session, channels=(*channels[:-1], replace(channels[-1], up=value == "UP")))
        case "Routes" if channels:
            counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", value)}
            channel = replace(channels[-1], imported=counts.get("imported", 0), exported=counts.get("exported", 0))
            return replace(session, channels=(*channels[:-1], channel))
    if text.startswith("Channel "):
        return replace(session, channels=(*channels, Channel(name=text.removeprefix("Channel "), up=False)))
    return session


def _without_zone(address: IpAddress) -> IpAddress:
    """A link-local neighbour is written with its interface, but not in the table of BFD sessions."""
    return ip_address(str(address).partition("%")[0])
