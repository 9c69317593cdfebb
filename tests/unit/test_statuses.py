"""Statuses as Gateway API wants them: who is told, of what, by which reason, and whose elements stay."""

from __future__ import annotations

from typing import Any

import pytest

from core import names
from core.kube import Json
from core.manifests import events, parse, render
from core.plan import Plan, plan
from core.status import GatewayStatus, RouterStatus, RouteStatus, Status
from tests import objects

T1, T2 = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"


def planned(*items: Json) -> Plan:
    return plan(parse(items)[0])


def status_of(result: Plan, kind: str, name: str) -> Status:
    (found,) = [s for s in result.statuses if (s.ref.kind, s.ref.name) == (kind, name)]
    return found


def route_status(*items: Json, name: str = "route") -> RouteStatus:
    (found,) = [s for s in planned(*items).statuses if isinstance(s, RouteStatus) and s.ref.name == name]
    return found


def gateway_status(*items: Json) -> GatewayStatus:
    (found,) = [s for s in planned(*items).statuses if isinstance(s, GatewayStatus)]
    return found


def stored(obj: Json, status: Status, at: str = T1) -> Json:
    """The object as it is once the status is written."""
    return obj | {"status": render.status_object(status, obj, at)["status"]}


def conditions_of(value: Any) -> list[Json]:
    """Every condition in a JSON tree."""
    if isinstance(value, list):
        return [found for item in value for found in conditions_of(item)]
    if not isinstance(value, dict):
        return []
    here = value.get("conditions") or []
    return [*here, *(found for key, item in value.items() if key != "conditions" for found in conditions_of(item))]


# --- who is told ------------------------------------------------------------------------------------------------------------


def test_a_gateway_that_cannot_be_read_says_why() -> None:
    bad = objects.gateway()
    bad["spec"]["infrastructure"]["annotations"][names.ENDPOINT_NETWORKS] = "[nonsense"
    status = gateway_status(bad, objects.l34_route())
    said = {c.type: (c.status, c.reason) for c in status.conditions}
    assert said == {"Accepted": (False, "Invalid"), "Programmed": (False, "Invalid")}
    assert names.ENDPOINT_NETWORKS in status.conditions[0].message
    assert status.generation == 3
    somebody_elses = objects.gateway(class_name="nginx", listeners="none")
    assert planned(somebody_elses).statuses == ()


def test_a_router_that_cannot_be_read_says_why() -> None:
    (status,) = [
        s for s in planned(objects.gateway(), objects.router(address="x")).statuses if s.ref.kind == "GatewayRouter"
    ]
    assert isinstance(status, RouterStatus)
    (accepted,) = status.conditions
    assert (accepted.type, accepted.status, accepted.reason) == ("Accepted", False, "UnsupportedValue")
    assert accepted.message.startswith("spec.address: not an IP address: found 'x'")


def test_a_route_with_many_fields_that_cannot_be_read_names_three_and_counts_the_others() -> None:
    wrong: Json = {
        "destinationCIDRs": ["a"],
        "sourceCIDRs": ["b"],
        "destinationPorts": ["c"],
        "protocols": ["d"],
        "priority": "e",
    }
    ((accepted,),) = [p.conditions for p in route_status(objects.gateway(), objects.l34_route(**wrong)).parents]
    assert (accepted.type, accepted.status, accepted.reason) == ("Accepted", False, "UnsupportedValue")
    assert sum(f"spec.{field}" in accepted.message for field in wrong) == 3
    assert accepted.message.endswith("; and 2 more")


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "Gateway default/gw does not exist"),
        ([objects.gateway(class_name="statless")], "Gateway default/gw is of class 'statless', which does not exist"),
        ([objects.gateway(listeners=[{"name": "x"}])], "Gateway default/gw cannot be used: spec.listeners[0].protocol"),
    ],
    ids=["missing", "unknown class", "unreadable"],
)
def test_a_route_that_leads_nowhere_has_no_parent_and_an_event(items: list[Json], said: str) -> None:
    """RouteStatus.parents: references that cannot be resolved are not added to the list."""
    route = objects.l34_route()
    status = route_status(*items, route)
    assert status.parents == ()
    (event,) = events.news(status, route)
    assert (event.warning, event.reason) == (True, "NoMatchingParent")
    assert event.message.startswith(said)


def test_a_route_of_another_controller_is_left_alone() -> None:
    class_: Json = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "nginx"},
        "spec": {"controllerName": "example.com/nginx"},
    }
    theirs = {"parentRef": {"name": "gw"}, "controllerName": "example.com/nginx", "conditions": []}
    route = objects.tcp_route() | {"status": {"parents": [theirs]}}
    status = route_status(class_, objects.gateway(class_name="nginx"), route, name="tcp")
    assert events.news(status, route) == ()
    assert not render.concerns(status, route)
    assert render.concerns(status, route | {"status": {"parents": [theirs, theirs | {"controllerName": names.KPNG}]}})
    assert render.concerns(route_status(objects.gateway(), route, name="tcp"), route)


def test_a_service_that_cannot_be_read_is_not_said_to_be_missing() -> None:
    items = [item if item["kind"] != "Service" else objects.service(externalIPs="x") for item in objects.base()]
    resolved = route_status(*items).parents[0].conditions[1]
    assert (resolved.type, resolved.status, resolved.reason) == ("ResolvedRefs", False, "BackendNotFound")
    assert resolved.message.startswith("Service default/svc cannot be used: spec.externalIPs")


# --- what is said -----------------------------------------------------------------------------------------------------------


def test_only_accepted_routes_count_as_attached() -> None:
    """ListenerStatus.attachedRoutes: routes with any other value for the Accepted condition must not be included."""
    narrowed_to_nothing = objects.l34_route("b", protocols=["UDP"], parentRefs=[{"name": "gw", "sectionName": "all"}])
    items = [objects.gateway(), objects.service(), objects.l34_route("a"), narrowed_to_nothing]
    assert [listener.attached_routes for listener in gateway_status(*items).listeners] == [1]
    assert route_status(*items, name="b").parents[0].conditions[0].reason == "UnsupportedValue"
    # A TCPRoute to a Gateway without addresses matches nothing.
    assert gateway_status(objects.gateway(), objects.tcp_route()).listeners[0].attached_routes == 0


@pytest.mark.parametrize(
    ("listener", "kinds", "accepted", "resolved"),
    [
        ({"protocol": "TCP"}, ["TCPRoute", "L34Route"], "Accepted", "ResolvedRefs"),
        ({"protocol": "UDP"}, ["UDPRoute", "L34Route"], "Accepted", "ResolvedRefs"),
        ({"protocol": names.ALL_PORTS_PROTOCOL}, ["L34Route"], "Accepted", "ResolvedRefs"),
        ({"protocol": "HTTP"}, [], "UnsupportedProtocol", "ResolvedRefs"),
        (
            {"protocol": "TCP", "allowedRoutes": {"kinds": [{"kind": "TCPRoute"}, {"kind": "HTTPRoute"}]}},
            ["TCPRoute"],
            "Accepted",
            "InvalidRouteKinds",
        ),
    ],
)
def test_listeners_name_the_kinds_that_they_take(
    listener: Json, kinds: list[str], accepted: str, resolved: str
) -> None:
    gateway = objects.gateway(listeners=[{"name": "l", "port": 4000} | listener])
    body = render.status_object(gateway_status(gateway), gateway, T1)["status"]["listeners"][0]
    assert [kind["kind"] for kind in body["supportedKinds"]] == kinds
    reasons = {c["type"]: c["reason"] for c in body["conditions"]}
    assert (reasons["Accepted"], reasons["ResolvedRefs"]) == (accepted, resolved)


def test_each_parent_has_its_own_conditions() -> None:
    parents: list[Json] = [{"name": "gw"}, {"name": "gw", "sectionName": "nix"}, {"name": "gw", "port": 4000}]
    route = objects.l34_route(parentRefs=[*parents, {"name": "gw"}])
    body = stored(route, route_status(objects.gateway(), objects.service(), route))
    found = [
        (p["parentRef"].get("sectionName"), p["parentRef"].get("port"), p["conditions"][0]["reason"])
        for p in body["status"]["parents"]
    ]
    assert found == [(None, None, "Accepted"), ("nix", None, "NoMatchingParent"), (None, 4000, "Accepted")]


def test_every_condition_says_of_which_generation_it_speaks() -> None:
    items = [
        *objects.base(),
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": {"name": "fast"},
            "spec": {"controllerName": names.STATELESS_LOAD_BALANCER},
        },
        objects.l34_route("unreadable", priority="high"),
        objects.router("unreadable", address="x"),
        objects.gateway("unreadable", listeners="x"),
    ]
    for item in items:
        item["metadata"]["generation"] = 17
    result = planned(*items)
    assert {s.ref.kind for s in result.statuses} == {"Gateway", "GatewayClass", "GatewayRouter", "L34Route"}
    for status in result.statuses:
        found = conditions_of(render.status_object(status, None, T1))
        assert found
        assert {c["observedGeneration"] for c in found} == {17}


# --- whose elements stay, and what changes when -----------------------------------------------------------------------------


def test_parents_that_are_gone_leave_the_status_and_those_of_others_stay() -> None:
    theirs = {"parentRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []}
    both = objects.l34_route(parentRefs=[{"name": "gw"}, {"name": "gw2"}]) | {"status": {"parents": [theirs]}}
    gateways = [objects.gateway(), objects.gateway("gw2")]
    now = stored(both, route_status(*gateways, both))
    assert [p["parentRef"]["name"] for p in now["status"]["parents"]] == ["x", "gw", "gw2"]
    one = now | {"spec": objects.l34_route()["spec"]}
    assert [p["parentRef"]["name"] for p in stored(one, route_status(*gateways, one))["status"]["parents"]] == [
        "x",
        "gw",
    ]
    assert stored(one, route_status(gateways[1], one))["status"]["parents"] == [theirs]


def test_a_status_that_others_write_too_is_written_only_over_what_was_read() -> None:
    theirs = {"parentRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []}
    route = objects.l34_route()
    route["metadata"]["resourceVersion"] = "7"
    status = route_status(*objects.base())
    assert "resourceVersion" not in render.status_object(status, route, T1)["metadata"]
    shared = route | {"status": {"parents": [theirs]}}
    assert render.status_object(status, shared, T1)["metadata"]["resourceVersion"] == "7"


def test_a_status_never_has_more_parents_than_the_api_takes() -> None:
    theirs = [{"parentRef": {"name": f"x{i}"}, "controllerName": "example.com/o", "conditions": []} for i in range(30)]
    names_ = [f"gw{i}" for i in range(5)]
    route = objects.l34_route(parentRefs=[{"name": name} for name in names_]) | {"status": {"parents": theirs}}
    body = stored(route, route_status(*map(objects.gateway, names_), route))
    assert len(body["status"]["parents"]) == 32


def test_a_time_changes_with_the_condition_that_turns_and_with_no_other() -> None:
    good = stored(objects.l34_route(), route_status(*objects.base()), T1)
    without = [item for item in objects.base() if item["kind"] != "Service"]
    bad = stored(good, route_status(*without), T2)
    times = {c["type"]: c["lastTransitionTime"] for c in bad["status"]["parents"][0]["conditions"]}
    assert times == {"Accepted": T1, "ResolvedRefs": T2}
    # Another reason or message is no transition.
    elsewhere = objects.l34_route(backendRefs=[{"name": "svc", "namespace": "other", "port": 1}])
    still = stored(bad, route_status(objects.gateway(), elsewhere), "2026-03-03T00:00:00Z")
    (resolved,) = [c for c in still["status"]["parents"][0]["conditions"] if c["type"] == "ResolvedRefs"]
    assert (resolved["reason"], resolved["lastTransitionTime"]) == ("RefNotPermitted", T2)


def test_a_status_that_makes_no_sense_is_written_anew() -> None:
    status = gateway_status(*objects.base())
    garbage: Json = {"status": {"conditions": [{"type": []}, {"type": "Accepted"}, 7], "listeners": [{"name": {}}, 7]}}
    body = render.status_object(status, garbage, T1)["status"]
    assert {condition["lastTransitionTime"] for condition in conditions_of(body)} == {T1}
    assert [condition["type"] for condition in body["conditions"]] == [c.type for c in status.conditions]
    assert events.news(status, garbage) == events.news(status, {})
