"""That a route gets nothing of its own is said of it exactly if some packet shows it: packets are tried one by one on random routes."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.kube import Json
from core.lb.classifier import Packet, matches
from core.manifests import parse
from core.model import L4Protocol
from core.plan import plan
from core.status import RouteStatus
from tests import objects

DESTINATIONS = ("20.0.0.0/24", "20.0.0.0/31", "20.0.0.1/32", "20.0.0.2/32", "2000::/64", "2000::1/128")
SOURCES = ("1.0.0.0/8", "1.2.0.0/16", "2.0.0.0/8", "1::/16")
PORTS = ("any", "1", "2-3", "0-2", "4", "3-9")
BYTE_MATCHES = ("tcp[2:2] = 2", "tcp[3:1] & 0x01 = 1", "tcp[13:1] & 0x02 = 2", "tcp[12:2] & 0x0003 = 1", "udp[0:2] = 3")


def some(values: tuple[str, ...], smallest: int, largest: int = 2) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=smallest, max_size=largest, unique=True)


ROUTE = st.fixed_dictionaries(
    {
        "priority": st.sampled_from((-1, 1)),
        "destinationCIDRs": some(DESTINATIONS, 1),
        "destinationPorts": some(PORTS, 1),
        "protocols": some(("TCP", "UDP"), 1),
        "sourceCIDRs": some(SOURCES, 0),
        "sourcePorts": some(("any", "3", "0-4"), 0, 1),
        "byteMatches": some(BYTE_MATCHES, 0),
    }
)


def header(protocol: L4Protocol, source_port: int, port: int, flags: int) -> bytes:
    rest = bytes(8) + bytes([0x50, flags]) + bytes(6) if protocol is L4Protocol.TCP else bytes(4)
    return source_port.to_bytes(2, "big") + port.to_bytes(2, "big") + rest


# One address of each piece that the prefixes cut the addresses into, and so for ports.
PACKETS = [
    Packet(
        source=ip_address(source),
        destination=ip_address(destination),
        protocol=protocol,
        source_port=source_port,
        destination_port=port,
        header=header(protocol, source_port, port, flags),
    )
    for source, destination in [
        *product(("1.2.0.1", "1.3.0.1", "2.0.0.1", "3.0.0.1"), ("20.0.0.0", "20.0.0.1", "20.0.0.2", "20.0.0.3")),
        *product(("1::1", "2::1"), ("2000::1", "2000::2")),
    ]
    for protocol, flags in [*product((L4Protocol.TCP,), range(4)), (L4Protocol.UDP, 0)]
    for source_port, port in product((2, 3, 5), (0, 1, 2, 3, 4, 5, 10, 11))
]


@settings(max_examples=80, deadline=None)
@given(specs=st.lists(ROUTE, min_size=2, max_size=4))
def test_a_route_is_said_to_be_overtaken_if_a_packet_shows_it(specs: list[dict[str, Any]]) -> None:
    # The last in the alphabet is the oldest.
    routes: list[Json] = [objects.l34_route(f"r{9 - n}", **spec) for n, spec in enumerate(specs)]
    for n, route in enumerate(routes):
        route["metadata"]["creationTimestamp"] = f"2026-01-0{n + 1}T00:00:00Z"
    result = plan(parse([objects.gateway(), objects.service(), *routes])[0])
    flows = result.gateways[0].forwarding.flows
    shown: dict[str, set[str]] = {}
    for packet in PACKETS:
        found = [(flow.priority, flow.name.split("/")[2]) for flow in flows if matches(flow, packet)]
        for i, (priority, name) in enumerate(found):
            shown.setdefault(name, set()).update(older for p, older in found[:i] if p == priority)
    said = {s.ref.name: s.overtaken_by for s in result.statuses if isinstance(s, RouteStatus)}
    for name, older in said.items():
        by_age = sorted(shown.get(name, set()), reverse=True)
        assert (older.name if older else None) == (by_age[0] if by_age else None)
