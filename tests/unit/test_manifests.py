"""Kubernetes JSON to the model: what is read, and what is said of what cannot be."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from core import names
from core.kube import Json
from core.manifests import parse, parse_object
from core.manifests.fields import UnreadableError, byte_match, duration_ms, port_range
from core.model import (
    ANY_PORT,
    Bfd,
    Bgp,
    ByteMatch,
    GatewayRouter,
    L4Protocol,
    PortRange,
    Route,
    SecretKey,
    Service,
    Static,
)
from core.objects import Rejected
from tests import objects


def route(**spec: Any) -> Route:
    found = parse_object(objects.l34_route(**spec))
    assert isinstance(found, Route), found
    return found


def router(**spec: Any) -> GatewayRouter:
    found = parse_object(objects.router(**spec))
    assert isinstance(found, GatewayRouter), found
    return found


def problems(obj: Json) -> list[str]:
    found = parse_object(obj)
    assert isinstance(found, Rejected)
    return [str(problem) for problem in found.problems]


def test_a_route_says_everything_of_its_packets() -> None:
    match = route(
        priority=-5,
        destinationCIDRs=["20.0.0.1/32", "2000::/64"],
        sourceCIDRs=["0.0.0.0/0"],
        sourcePorts=["0-65535"],
        destinationPorts=["80", "90-100", "443"],
        protocols=["TCP", "udp", "SCTP"],
        byteMatches=["tcp[2:2] = 5001"],
    ).match
    assert match is not None
    assert match.priority == -5
    assert match.destinations == (ip_network("20.0.0.1/32"), ip_network("2000::/64"))
    assert match.destination_ports == (
        PortRange(first=80, last=80),
        PortRange(first=90, last=100),
        PortRange(first=443, last=443),
    )
    assert match.source_ports == (ANY_PORT,)
    assert match.protocols == (L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP)


def test_ports_left_out_are_any_and_overlaps_are_merged() -> None:
    match = route(destinationPorts=["10-20", "15-30", "any"]).match
    assert match is not None
    assert match.destination_ports == (ANY_PORT,)
    assert match.source_ports == (ANY_PORT,)


def test_more_than_32_cidrs() -> None:
    """Fault 6 of the proof-of-concept."""
    cidrs = [f"10.{i // 256}.{i % 256}.1/32" for i in range(5000)]
    match = route(destinationCIDRs=cidrs).match
    assert match is not None
    assert len(match.destinations) == 5000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("any", ANY_PORT),
        ("ANY", ANY_PORT),
        ("0-65535", ANY_PORT),
        ("0", PortRange(first=0, last=0)),
        ("80-90", PortRange(first=80, last=90)),
    ],
)
def test_port_ranges(text: str, expected: PortRange) -> None:
    """Fault 6 of the proof-of-concept: ``any`` and ``0-N``."""
    assert port_range(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "65536", "70000", "90-80", "1-2-3", "80,90"])
def test_what_is_no_port_range(text: str) -> None:
    with pytest.raises(UnreadableError):
        port_range(text)


def test_byte_matches_in_any_case() -> None:
    """Fault 6 of the proof-of-concept: upper case."""
    tcp = ByteMatch(protocol=L4Protocol.TCP, offset=0, length=4, mask=0x0000FFFF, value=5001)
    assert byte_match("TCP[0:4] & 0X0000FFFF = 5001") == tcp
    assert byte_match("tcp[0:4]&0x0000ffff=0x1389") == tcp
    assert byte_match(str(tcp)) == tcp
    assert byte_match("udp[2:2] = 5001").mask == 0xFFFF


@pytest.mark.parametrize(
    "text", ["tcp[2:3] = 1", "icmp[0:1] = 8", "tcp[2:2]", "tcp[58:4] = 1", "tcp[0:1] = 256", "tcp[0:1] & 0x1ff = 1"]
)
def test_what_is_no_byte_match(text: str) -> None:
    with pytest.raises(UnreadableError):
        byte_match(text)


@pytest.mark.parametrize(
    ("text", "ms"), [("300ms", 300), ("24s", 24000), ("1m30s", 90000), ("1.5s", 1500), ("1h", 3600000)]
)
def test_durations(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "24", "24 s", "s", "-3s", "3 sec", "24sx"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UnreadableError):
        duration_ms(text)


def test_hold_time_and_asns_are_read_whatever_else_is_set() -> None:
    """Faults 1 and 18 of the proof-of-concept."""
    routing = router(bgp={"holdTime": "24s", "remoteASN": 4248829953, "localASN": 8103}).routing
    assert isinstance(routing, Bgp)
    assert (routing.hold_time_s, routing.remote_asn, routing.local_asn) == (24, 4248829953, 8103)
    assert (routing.local_port, routing.remote_port) == (10179, 10179)


def test_defaults_of_a_router() -> None:
    routing = router().routing
    assert routing == Bgp(local_asn=8103, remote_asn=4248829953, local_port=10179, remote_port=10179, hold_time_s=3)


def test_static_routers_read_bfd_from_static_and_bgp_reads_auth() -> None:
    """Fault 2 of the proof-of-concept."""
    bfd = {"switch": True, "minTx": "300ms", "minRx": "200ms", "multiplier": 4}
    static = router(protocol="static", static={"bfd": bfd}).routing
    assert static == Static(bfd=Bfd(min_tx_ms=300, min_rx_ms=200, multiplier=4))
    secured = router(bgp={"auth": {"keyName": "password", "keySource": "bgp"}}).routing
    assert isinstance(secured, Bgp)
    assert secured.auth == SecretKey(secret="bgp", key="password")


@pytest.mark.parametrize("hold", ["1s", "2s", "1.6s"])
def test_a_hold_time_that_bgp_forbids(hold: str) -> None:
    assert problems(objects.router(bgp={"holdTime": hold})) == [
        (
            f"GatewayRouter default/router-v4: spec.bgp.holdTime: hold time out of range: found '{hold}', "
            "expected 0s, or 3s to 65535s (RFC 4271)"
        )
    ]
    assert isinstance(router(bgp={"holdTime": "0s"}).routing, Bgp)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"destinationCIDRs": ["20.0.0.1"]}, "spec.destinationCIDRs[0]: not a CIDR: the prefix length is missing"),
        ({"destinationCIDRs": ["20.0.0.1/33"]}, "spec.destinationCIDRs[0]: not a CIDR"),
        ({"destinationCIDRs": []}, "spec.destinationCIDRs: required field is missing or empty"),
        ({"destinationPorts": ["70000"]}, "spec.destinationPorts[0]: port out of range: found '70000'"),
        (
            {"destinationPorts": [4000]},
            "spec.destinationPorts[0]: wrong type: found 4000, expected a string (quote it)",
        ),
        ({"sourcePorts": ["90-80"]}, "spec.sourcePorts[0]: reversed port range: found '90-80', expected 80-90"),
        ({"protocols": ["TPC"]}, "spec.protocols[0]: unknown protocol (did you mean 'TCP'?): found 'TPC'"),
        ({"priority": "high"}, "spec.priority: not a valid number: found 'high', expected an integer"),
        ({"priority": 1.5}, "spec.priority: not a valid number: found 1.5"),
        ({"priority": None}, "spec.priority: required field is missing"),
        ({"backendRefs": [{"name": "a", "weight": -1}]}, "spec.backendRefs[0].weight: not a valid number: found -1"),
        ({"backendRefs": ["a"]}, "spec.backendRefs[0]: wrong type: found 'a', expected an object"),
        ({"byteMatches": ["tcp[1:3] = 1"]}, "spec.byteMatches[0]: length of a byte match"),
        ({"parentRefs": [{}]}, "spec.parentRefs[0].name: required field is missing"),
    ],
)
def test_what_is_wrong_with_a_route(spec: Json, message: str) -> None:
    found = problems(objects.l34_route(**spec))
    assert len(found) == 1
    assert found[0].startswith(f"L34Route default/route: {message}")


@pytest.mark.parametrize(
    "address",
    ["0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "::ffff:20.0.0.1", "fe80::1", "ff02::1"],
)
def test_what_can_never_be_a_vip(address: str) -> None:
    """Wherever VIPs come from."""
    for obj in (
        objects.l34_route(destinationCIDRs=[str(ip_network(address))]),
        objects.gateway(addresses=[{"type": "IPAddress", "value": address}]),
        objects.service(externalIPs=[address]),
    ):
        (said,) = problems(obj)
        assert "cannot be a virtual address" in said


def test_all_problems_are_found_at_once() -> None:
    found = problems(objects.l34_route(protocols=["X"], priority="y", destinationPorts=["99999"]))
    assert len(found) == 3


def test_the_dummy_selects_nothing() -> None:
    """Fault 21 of the proof-of-concept: an empty selector."""
    found = parse_object(objects.service(app=None))
    assert isinstance(found, Service)
    assert not found.selector


def test_other_peoples_broken_annotations_reject_no_pod() -> None:
    obj = objects.pod(0)
    obj["metadata"]["annotations"] = {names.NETWORK_STATUS: "{", names.ATTACHED: "[1]"}
    found, wrong = parse([obj])
    assert wrong == ()
    assert found.pods[0].networks == ()


def test_kinds_that_a_plan_does_not_read_are_no_problem() -> None:
    assert parse_object({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}) is None


def test_both_versions_of_gateway_and_two_rules() -> None:
    old = objects.gateway() | {"apiVersion": "gateway.networking.k8s.io/v1beta1"}
    assert parse([old])[0].gateways == parse([objects.gateway()])[0].gateways
    two = objects.tcp_route(rules=[{"backendRefs": [{"name": "a"}]}, {"backendRefs": [{"name": "b"}]}])
    assert "too many rules" in problems(two)[0]


LONG = "9" * 5000
"""More digits than int() takes (sys.int_info.str_digits_check_threshold)."""


@pytest.mark.parametrize(
    "obj",
    [
        objects.l34_route(destinationPorts=[LONG]),
        objects.l34_route(destinationPorts=[f"1-{LONG}"]),
        objects.l34_route(byteMatches=[f"tcp[{LONG}:1] = 1"]),
        objects.l34_route(byteMatches=[f"tcp[0:1] = {LONG}"]),
        objects.router(bgp={"holdTime": f"{LONG}s"}),
        objects.router(interface='x"; } evil'),
        objects.router(interface="a-name-that-is-too-long"),
        objects.router(address="fe80::1%x; } evil"),
        objects.router(bgp={"holdTime": "400ms"}),
        objects.l34_route(destinationCIDRs=["20.0.0.0/255.255.255.0"]),
        objects.l34_route() | {"metadata": {"name": 5}},
        objects.l34_route() | {"metadata": {"name": "x", "namespace": 5}},
    ],
)
def test_hostile_values_are_problems(obj: Json) -> None:
    assert problems(obj)


def test_numbers_in_annotations_that_are_too_long() -> None:
    for name, obj in ((names.MAX_ENDPOINTS, objects.service()), (names.REPLICAS, objects.gateway())):
        obj["metadata"]["annotations"] = {name: LONG}
        assert problems(obj)
    pod = objects.pod(0)
    pod["metadata"]["annotations"] = {names.NETWORK_STATUS: LONG, names.ATTACHED: f"[{LONG}]"}
    assert parse([pod])[0].pods[0].networks == ()
