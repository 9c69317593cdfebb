"""Where one packet goes, and why not elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from operator import attrgetter

from core.errors import InputError, Problem
from core.lb.classifier import Decision, Packet, byte_match_holds, flow_hash
from core.lb.forwarding import Flow
from core.lb.index import Classifier, PrefixIndex
from core.model import L4Protocol, Prefix
from core.plan import GatewayPlan, Plan

_PACKET = re.compile(
    r"\s*(?P<protocol>[A-Za-z0-9]+)\s+(?P<source>\S+?)\s*(?:->|→)\s*(?P<destination>\S+)\s*",
)
FEW_FLOWS = 100
"""So many flows are all told about; of more, those with the packet's destination."""
EXPECTED = "such as 'TCP 200.100.0.100:40000 -> 20.0.0.1:4000', 'UDP [200:100::100]:5 -> [2000::1]:4100' or 'ICMP 10.0.0.1 -> 20.0.0.1'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """One flow of a gateway, and whether the packet belongs to it."""

    flow: Flow
    chosen: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where a packet goes. Without a gateway no router outside would send it here."""

    packet: Packet
    gateway: GatewayPlan | None
    hash: int | None
    decision: Decision
    considered: tuple[Considered, ...]
    elsewhere: int = 0
    """Flows that were not considered, because they have other destinations."""
    announced: bool = True
    """Whether routers outside are told of the destination."""
    also: tuple[GatewayPlan, ...] = ()
    """Other gateways that announce the destination just so, to other routers outside."""

    @property
    def verdict(self) -> str:
        """The end of it, in one line."""
        if self.gateway is None:
            return "not ours: no gateway has this destination among its virtual addresses"
        if not self.announced:
            return "withdrawn: no router outside has a route, since no backend of this destination is usable"
        if self.decision.flow is None:
            return "dropped silently: no route matches"
        if self.decision.target is None:
            return "rejected actively (TCP RST or ICMP unreachable): no usable backend has this bucket"
        target = self.decision.target
        return f"forwarded to {target.address}, slot {target.slot} of {target.service}" + (
            f", pod {target.pod}" if target.pod else ""
        )


def read_packet(text: str) -> Packet:
    """The packet of ``PROTOCOL SOURCE -> DESTINATION``. Raises InputError."""

    def wrong(what: str, found: str, expected: str = EXPECTED) -> InputError:
        return InputError(Problem(where="packet", what=what, found=repr(found), expected=expected))

    match = _PACKET.fullmatch(text)
    if match is None:
        raise wrong("cannot be read", text)
    name = match["protocol"].upper()
    if name not in (*L4Protocol.__members__, "ICMP", "ICMPV6"):
        raise wrong("unknown protocol", match["protocol"], "one of TCP, UDP, SCTP, ICMP")
    protocol = L4Protocol.__members__.get(name)
    ends = []
    for word in (match["source"], match["destination"]):
        address, port = _end(word, has_port=protocol is not None)
        try:
            ends.append((ip_address(address), int(port)))
        except ValueError:
            raise wrong("no address" + (" and port" if protocol else ""), word) from None
        if int(port) > 65535 or (protocol is not None and int(port) == 0):
            raise wrong("port out of range", word, "a port from 1 to 65535")
    (source, source_port), (destination, destination_port) = ends
    if source.version != destination.version:
        raise wrong("source and destination of two families", text, "both IPv4 or both IPv6")
    return Packet(
        source=source,
        destination=destination,
        protocol=protocol,
        source_port=source_port,
        destination_port=destination_port,
    )


def _end(word: str, *, has_port: bool) -> tuple[str, str]:
    """Address and port as text; what is missing stays ``""``, which is no address and no port."""
    if not has_port:
        return word.strip("[]"), "0"
    match = re.fullmatch(r"\[([^]]*)\]:([0-9]{1,9})|([^:]*):([0-9]{1,9})", word)
    if match is None:
        return "", ""
    return match[1] or match[3] or "", match[2] or match[4]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """A VIP of a gateway; `number` is the gateway's place in the plan."""

    vip: Prefix
    number: int
    gateway: GatewayPlan
    announced: bool


def _best(claims: Iterable[_Claim]) -> list[_Claim]:
    """Those with the longest prefix of those that are announced, or of all when none is; in the order of the plan."""

    def rank(claim: _Claim) -> tuple[bool, int]:
        return (claim.announced, claim.vip.prefixlen)

    claims = sorted(claims, key=attrgetter("number"))
    best = max(map(rank, claims))
    return [claim for claim in claims if rank(claim) == best]


class Explainer:
    """Explains packets against one plan; after the first it takes as long as there are flows with the packet's destination."""

    def __init__(self, plan: Plan) -> None:
        self._claims = [
            _Claim(vip=vip, number=number, gateway=gateway, announced=vip in announced)
            for number, gateway in enumerate(plan.gateways)
            for announced in (frozenset(gateway.announced),)
            for vip in gateway.vips
        ]
        self._vips = PrefixIndex((claim.vip, i) for i, claim in enumerate(self._claims))
        self._classifiers: dict[int, Classifier] = {}

    def explain(self, packet: Packet) -> Explanation:
        """Where `packet` goes, and for the flows of its gateway why each is taken or not: for all of them when they are few, else for
        those with its destination.

        Routers outside send it by the longest prefix that is announced. When several gateways announce that, each to other routers, it
        is the first of them by name, and the others are told.
        """
        found = [self._claims[i] for at in self._vips.at(packet.destination) for i in at]
        if not found:
            return Explanation(packet=packet, gateway=None, hash=None, decision=Decision(), considered=())
        first, *others = _best(found)
        number, gateway = first.number, first.gateway
        if number not in self._classifiers:
            self._classifiers[number] = Classifier(gateway.forwarding)
        classifier = self._classifiers[number]
        flows: Sequence[Flow] = gateway.forwarding.flows
        if len(flows) > FEW_FLOWS:
            flows = classifier.near(packet)
        decision = classifier.decide(packet)
        return Explanation(
            packet=packet,
            gateway=gateway,
            hash=flow_hash(packet, gateway.forwarding.seed),
            decision=decision,
            considered=tuple(_consider(flows, decision.flow, packet)),
            elsewhere=len(gateway.forwarding.flows) - len(flows),
            announced=first.announced,
            also=tuple(claim.gateway for claim in others),
        )


def explain(plan: Plan, packet: Packet) -> Explanation:
    """See `Explainer.explain`."""
    return Explainer(plan).explain(packet)


def _consider(flows: Sequence[Flow], chosen: Flow | None, packet: Packet) -> Iterator[Considered]:
    passed = False
    for flow in flows:
        if flow is chosen:
            passed = True
            yield Considered(flow=flow, chosen=True, why="matches")
        elif reasons := list(mismatches(flow, packet)):
            yield Considered(flow=flow, chosen=False, why="; ".join(reasons))
        else:
            why = f"would match, but {chosen.name if chosen else ''} goes before it" if passed else "matches"
            yield Considered(flow=flow, chosen=False, why=why)


def mismatches(flow: Flow, packet: Packet) -> Iterator[str]:
    """Every dimension of `flow` in which `packet` is not."""
    if packet.destination.version != flow.version:
        yield f"is IPv{flow.version}"
        return
    if not any(packet.destination in prefix for prefix in flow.destinations):
        yield f"destination {packet.destination} is not in {_some(flow.destinations)}"
    if flow.sources and not any(packet.source in prefix for prefix in flow.sources):
        yield f"source {packet.source} is not in {_some(flow.sources)}"
    if packet.protocol is None:
        return
    if packet.protocol not in flow.protocols:
        yield f"protocol {packet.protocol.name} is not {_some(tuple(p.name for p in flow.protocols))}"
    if not any(packet.destination_port in ports for ports in flow.destination_ports):
        yield f"destination port {packet.destination_port} is not in {_some(flow.destination_ports)}"
    if not any(packet.source_port in ports for ports in flow.source_ports):
        yield f"source port {packet.source_port} is not in {_some(flow.source_ports)}"
    for match in flow.byte_matches:
        if not byte_match_holds(match, packet):
            known = " (only the ports of the header are known here)" if match.offset + match.length > 4 else ""
            yield f"{match} does not hold{known}"


def _some(items: tuple[object, ...]) -> str:
    return ", ".join(map(str, items[:4])) + (f" and {len(items) - 4} more" if len(items) > 4 else "")
