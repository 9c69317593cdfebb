"""Which listeners a route attaches to, and what each of them makes of it."""

from __future__ import annotations

import pytest

from core.kube import Json
from core.lb.forwarding import Flow
from core.manifests import parse
from core.plan import Plan, plan
from core.status import Condition, RouteStatus
from tests import objects


def planned(*items: Json) -> Plan:
    return plan(parse(items)[0])


def flows_of(*items: Json) -> tuple[Flow, ...]:
    (gateway,) = planned(*items).gateways
    return gateway.forwarding.flows


def accepted(result: Plan) -> Condition:
    (status,) = [status for status in result.statuses if isinstance(status, RouteStatus)]
    (found,) = [c for parent in status.parents for c in parent.conditions if c.type == "Accepted"]
    return found


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (objects.l34_route(parentRefs=[{"name": "gw", "sectionName": "none"}]), "NoMatchingParent"),
        (objects.l34_route(parentRefs=[{"name": "gw", "port": 9}]), "NoMatchingParent"),
        (
            objects.l34_route(namespace="other", parentRefs=[{"name": "gw", "namespace": "default"}]),
            "NotAllowedByListeners",
        ),
        (objects.l34_route(protocols=["UDP"], parentRefs=[{"name": "gw", "sectionName": "all"}]), "UnsupportedValue"),
        (objects.l34_route(protocols=["UDPX"]), "UnsupportedValue"),
    ],
)
def test_why_a_route_is_not_accepted(route: Json, reason: str) -> None:
    result = planned(objects.gateway(), objects.service(), route)
    found = accepted(result)
    assert (found.status, found.reason) == (False, reason)
    assert found.message
    assert result.gateways[0].vips == ()


def test_a_named_listener_narrows_a_route() -> None:
    route = objects.l34_route(destinationPorts=["any"], parentRefs=[{"name": "gw", "sectionName": "all"}])
    (flow,) = flows_of(objects.gateway(), objects.service(), route)
    assert [str(ports) for ports in flow.destination_ports] == ["4000"]


def test_a_route_to_several_named_listeners_gets_the_ports_of_each() -> None:
    listeners = [{"name": f"tcp-{port}", "port": port, "protocol": "TCP"} for port in (4000, 5000, 6000)]
    gateway = objects.gateway(addresses=[{"type": "IPAddress", "value": "20.0.0.1"}], listeners=listeners)
    parents = [{"name": "gw", "sectionName": "tcp-4000"}, {"name": "gw", "port": 6000}]
    for route in (
        objects.tcp_route(parentRefs=parents),
        objects.l34_route(parentRefs=parents, destinationPorts=["any"]),
    ):
        flows = flows_of(gateway, objects.service(), objects.pod(0), route)
        assert [str(ports) for flow in flows for ports in flow.destination_ports] == ["4000", "6000"]
        assert len({flow.name for flow in flows}) == 2


def namespace(name: str, **labels: str) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


@pytest.mark.parametrize(
    ("allowed", "attached"),
    [
        (None, "default"),
        ({"from": "Same"}, "default"),
        ({"from": "All"}, "default blue red bare"),
        ({"from": "Selector"}, ""),
        ({"from": "Selector", "selector": {}}, "default blue red bare"),
        ({"from": "Selector", "selector": {"matchLabels": {"team": "blue"}}}, "blue"),
        (
            {"from": "Selector", "selector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["red", "x"]}]}},
            "red",
        ),
        ({"from": "Selector", "selector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}}, "blue red"),
        (
            {"from": "Selector", "selector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["red"]}]}},
            "default blue bare",
        ),
        (
            {
                "from": "Selector",
                "selector": {"matchLabels": {"team": "red"}, "matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]},
            },
            "",
        ),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["L34Route", "TCPRoute"])
def test_a_listener_takes_routes_of_the_namespaces_that_it_allows(
    kind: str, allowed: Json | None, attached: str
) -> None:
    """A namespace whose object is not known has no labels."""
    listener = {"name": "l", "port": 4000, "protocol": "TCP"}
    if allowed is not None:
        listener["allowedRoutes"] = {"namespaces": allowed}
    items = [
        objects.gateway(listeners=[listener], addresses=[{"type": "IPAddress", "value": "20.0.0.1"}]),
        namespace("default"),
        namespace("blue", team="blue"),
        namespace("red", team="red"),
    ]
    for where in ("default", "blue", "red", "bare"):
        make = objects.l34_route if kind == "L34Route" else objects.tcp_route
        route = make(parentRefs=[{"name": "gw", "namespace": "default"}])
        route["metadata"]["namespace"] = where
        items.append(route)
    result = planned(*items)
    reasons = {
        status.ref.namespace: next(c.reason for c in status.parents[0].conditions if c.type == "Accepted")
        for status in result.statuses
        if isinstance(status, RouteStatus)
    }
    assert reasons == {where: "Accepted" if where in attached.split() else "NotAllowedByListeners" for where in reasons}
    assert len(reasons) == 4
    assert {flow.name.split("/")[1] for flow in result.gateways[0].forwarding.flows} == set(attached.split())
