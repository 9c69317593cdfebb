"""What L34Routes, TCPRoutes and UDPRoutes have in common, and what each of them takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core import names
from core.kube import Json
from core.lb.forwarding import REJECT, pool_table
from core.manifests import parse
from core.model import L4Protocol
from core.plan import Plan, plan
from core.status import Condition, RouteStatus
from tests import objects

KINDS = ("L34Route", "TCPRoute", "UDPRoute")
VIPS = ("20.0.0.1/32", "2000::1/128")
LISTENERS = [
    {"name": "tcp", "port": 4000, "protocol": "TCP"},
    {"name": "udp", "port": 4001, "protocol": "UDP"},
    {"name": "more-tcp", "port": 5000, "protocol": "TCP"},
]


def gateway(name: str = "gw") -> Json:
    addresses = [{"type": "IPAddress", "value": vip.split("/")[0]} for vip in VIPS]
    return objects.gateway(name, addresses=addresses, listeners=LISTENERS)


def route(kind: str, *, backends: list[Json] | None = None, **spec: Any) -> Json:
    backends = backends or [{"name": "svc", "port": 4000}]
    if kind == "L34Route":
        return objects.l34_route("l34", destinationCIDRs=list(VIPS), **{"backendRefs": backends} | spec)
    return objects.tcp_route(kind[:3].lower(), **{"rules": [{"backendRefs": backends}]} | spec) | {"kind": kind}


def planned(*items: Json) -> Plan:
    return plan(parse(items)[0])


def conditions(result: Plan, kind: str, type_: str) -> dict[str, Condition]:
    """By parent."""
    (status,) = [s for s in result.statuses if isinstance(s, RouteStatus) and s.ref.kind == kind]
    return {p.parent.name: c for p in status.parents for c in p.conditions if c.type == type_}


@pytest.mark.parametrize(
    ("taken", "protocols", "ports"),
    [
        (route("TCPRoute"), ["TCP"], ["4000", "5000"]),
        (route("UDPRoute"), ["UDP"], ["4001"]),
        (route("TCPRoute", parentRefs=[{"name": "gw", "sectionName": "more-tcp"}]), ["TCP"], ["5000"]),
        (route("UDPRoute", parentRefs=[{"name": "gw", "port": 4001}]), ["UDP"], ["4001"]),
        (route("L34Route", protocols=["UDP", "SCTP"], destinationPorts=["any"]), ["UDP", "SCTP"], ["0-65535"]),
        (
            route("L34Route", parentRefs=[{"name": "gw", "sectionName": "udp"}], protocols=["TCP", "UDP"], destinationPorts=["any"]),
            ["UDP"],
            ["4001"],
        ),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_route_takes_the_protocol_and_the_ports_that_are_its_own(
    taken: Json, protocols: list[str], ports: list[str]
) -> None:
    (found,) = planned(gateway(), taken, objects.service()).gateways
    assert [str(vip) for flow in found.forwarding.flows for vip in flow.destinations] == list(VIPS)
    for flow in found.forwarding.flows:
        assert [p.name for p in flow.protocols] == protocols
        assert sorted(str(p) for p in flow.destination_ports) == ports
        assert (flow.sources, [str(p) for p in flow.source_ports], flow.byte_matches) == ((), ["0-65535"], ())


@pytest.mark.parametrize(("kind", "listener"), [("TCPRoute", "udp"), ("UDPRoute", "tcp")])
def test_a_route_attaches_to_no_listener_of_another_protocol(kind: str, listener: str) -> None:
    result = planned(gateway(), route(kind, parentRefs=[{"name": "gw", "sectionName": listener}]), objects.service())
    assert conditions(result, kind, "Accepted")["gw"].reason == "NotAllowedByListeners"
    assert result.gateways[0].forwarding.flows == ()


def test_tcp_and_l34_routes_share_one_flow_model() -> None:
    """Fault 6 of the proof-of-concept, negative priorities: behind TCPRoutes and UDPRoutes, whose priority is 0."""
    items = [gateway(), objects.service(), *map(route, ("TCPRoute", "UDPRoute"))]
    everything: Json = {"protocols": ["TCP", "UDP"], "destinationPorts": ["any"], "destinationCIDRs": list(VIPS)}
    items += [
        objects.l34_route(f"p{priority}", priority=priority, **everything) for priority in (-1, 1, -2147483648, 7)
    ]
    flows = planned(*items).gateways[0].forwarding.flows
    order = ["p7", "p1", "tcp", "udp", "p-1", "p-2147483648"]
    assert [f.name.split("/")[2] for f in flows if f.version == 4] == order
    assert [f.name.split("/")[2] for f in flows if f.version == 6] == order
    assert [f.priority for f in flows if f.version == 4] == [7, 1, 0, 0, -1, -2147483648]
    assert {f.protocols for f in flows if f.name.startswith("UDPRoute")} == {(L4Protocol.UDP,)}


def test_more_than_32_vips_and_sources_are_in_the_plan() -> None:
    """Fault 6 of the proof-of-concept."""
    vips = [f"20.{i // 250}.{i % 250}.1/32" for i in range(5000)]
    sources = [f"30.{i // 250}.{i % 250}.0/24" for i in range(5000)]
    items = [objects.gateway(), objects.service(), objects.l34_route(destinationCIDRs=vips, sourceCIDRs=sources)]
    (found,) = planned(*items).gateways
    assert len(found.vips) == 5000
    assert [str(vip) for flow in found.forwarding.flows for vip in flow.destinations] == vips
    assert [str(source) for source in found.forwarding.flows[0].sources] == sources


@pytest.mark.parametrize("kind", KINDS)
def test_several_parents_and_weighted_backends(kind: str) -> None:
    """Fault 3 of the proof-of-concept."""
    backends = [{"name": "svc", "port": 1, "weight": 3}, {"name": "gone", "port": 1, "weight": 1}]
    items = [
        gateway("one"),
        gateway("two"),
        route(kind, parentRefs=[{"name": "one"}, {"name": "two"}, {"name": "absent"}], backends=backends),
        objects.service(gateway_name="one"),
        objects.pod(0, attached=VIPS, addresses=("10.2.0.1", "fd02::1")),
    ]
    result = planned(*items)
    assert [[str(vip) for vip in g.vips] for g in result.gateways] == [list(VIPS)] * 2
    for found in result.gateways:
        assert len(found.forwarding.pools) == 2
        for pool in found.forwarding.pools:
            assert abs((pool_table(pool) == REJECT).mean() - 0.25) < 1e-4
    resolved = conditions(result, kind, "ResolvedRefs")
    assert list(resolved) == ["one", "two"]
    assert {(c.status, c.reason) for c in resolved.values()} == {(False, "BackendNotFound")}


def grant(kind: str, **changed: Any) -> Json:
    """A ReferenceGrant that lets routes of a kind refer to the Service `far`, or not quite."""
    group = names.L34_GROUP if kind == "L34Route" else names.GATEWAY_GROUP
    source = {"group": group, "kind": kind, "namespace": "default"}
    target = {"group": "", "kind": "Service", "name": "far"}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "let", "namespace": changed.get("namespace", "other")},
        "spec": {"from": [source | changed.get("source", {})], "to": [target | changed.get("target", {})]},
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changed", "permitted"),
    [
        ({}, True),
        ({"target": {"name": ""}}, True),
        ({"target": {"name": "near"}}, False),
        ({"target": {"kind": "Secret"}}, False),
        ({"source": {"namespace": "other"}}, False),
        ({"source": {"kind": "HTTPRoute"}}, False),
        ({"source": {"group": "example.com"}}, False),
        ({"namespace": "default"}, False),
        (None, False),
    ],
    ids=str,
)
def test_a_backend_of_another_namespace_needs_a_grant(kind: str, changed: Json | None, permitted: bool) -> None:
    pod = objects.pod(0, namespace="other", attached=VIPS)
    pod["metadata"]["annotations"][names.NETWORK_STATUS] = json.dumps([{"name": "default/nad-2", "ips": ["10.2.0.9"]}])
    items = [
        gateway(),
        route(kind, backends=[{"name": "far", "namespace": "other", "port": 1}]),
        objects.service("far", namespace="other", gateway_name=""),
        pod,
        # One for every other kind of route permits this one nothing.
        *(
            grant(other) | {"metadata": {"name": other.lower(), "namespace": "other"}}
            for other in KINDS
            if other != kind
        ),
        *([] if changed is None else [grant(kind, **changed)]),
    ]
    result = planned(*items)
    resolved = conditions(result, kind, "ResolvedRefs")["gw"]
    assert (resolved.status, resolved.reason) == ((True, "ResolvedRefs") if permitted else (False, "RefNotPermitted"))
    assert [str(vip) for vip in result.gateways[0].announced] == (["20.0.0.1/32"] if permitted else [])
