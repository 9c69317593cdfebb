"""What the statuses of a Gateway and of what belongs to it say when it cannot be what it should."""

from __future__ import annotations

from typing import Any

import pytest

from core import names
from core.kube import Json
from core.manifests import events, parse, render
from core.plan import Plan, plan
from core.status import Condition, GatewayStatus, RouterStatus, RouteStatus
from tests import objects


def planned(*items: Json) -> Plan:
    return plan(parse(items)[0])


def with_gateway(gateway: Json) -> list[Json]:
    """All of a gateway at work, with another Gateway object."""
    return [gateway if item["kind"] == "Gateway" else item for item in objects.base()]


def of_gateway(*items: Json) -> tuple[GatewayStatus, dict[str, Condition]]:
    (found,) = (s for s in planned(*items).statuses if isinstance(s, GatewayStatus))
    return found, {condition.type: condition for condition in found.conditions}


def unreadable() -> Json:
    gateway = objects.gateway()
    gateway["metadata"]["annotations"] = {names.REPLICAS: "two"}
    return gateway


def no_endpoint_networks() -> Json:
    gateway = objects.gateway()
    del gateway["spec"]["infrastructure"]["annotations"][names.ENDPOINT_NETWORKS]
    return gateway


def with_parameters(class_name: str = names.STATELESS_LOAD_BALANCER) -> Json:
    gateway = objects.gateway(class_name=class_name)
    gateway["spec"]["infrastructure"]["parametersRef"] = {"group": "", "kind": "ConfigMap", "name": "nope"}
    return gateway


def test_parameters_that_a_class_does_not_take_are_told_and_packets_go_on() -> None:
    _, conditions = of_gateway(*with_gateway(with_parameters()))
    assert "ConfigMap nope: this class takes no parameters" in conditions["Accepted"].message
    assert (
        planned(*with_gateway(with_parameters())).gateways[0].announced
        == planned(*objects.base()).gateways[0].announced
    )
    _, istio = of_gateway(*with_gateway(with_parameters(names.ISTIO)))
    assert istio["Accepted"].status


@pytest.mark.parametrize(
    ("gateway", "reason"),
    [
        (with_parameters(), "InvalidParameters"),
        (no_endpoint_networks(), "Invalid"),
        (objects.gateway(listeners=[{"name": "web", "port": 80, "protocol": "HTTP"}]), "ListenersNotValid"),
        (unreadable(), "Invalid"),
    ],
    ids=["parameters", "no endpoint networks", "no listener of ours", "unreadable"],
)
def test_what_is_not_accepted_is_not_programmed(gateway: Json, reason: str) -> None:
    status, conditions = of_gateway(*with_gateway(gateway))
    assert (conditions["Accepted"].status, conditions["Accepted"].reason) == (False, reason)
    assert (conditions["Programmed"].status, conditions["Programmed"].reason) == (False, "Invalid")
    for listener in status.listeners:
        (programmed,) = (c for c in listener.conditions if c.type == "Programmed")
        assert (programmed.status, programmed.reason) == (False, "Invalid")
    _, good = of_gateway(*objects.base())
    assert good["Accepted"].status
    assert good["Programmed"].status


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ([{"type": "Hostname", "value": "gw.example"}], "UnsupportedAddress"),
        ([{"value": "20.0.0.1"}, {"type": "example.com/pool", "value": "a"}], "UnsupportedAddress"),
        ([{"value": "20.0.0.300"}], "Invalid"),
    ],
)
def test_addresses_of_a_type_that_nobody_can_give_have_a_reason_of_their_own(
    addresses: list[dict[str, Any]], reason: str
) -> None:
    _, conditions = of_gateway(*with_gateway(objects.gateway(addresses=addresses)))
    assert (conditions["Accepted"].status, conditions["Accepted"].reason) == (False, reason)
    assert "spec.addresses" in conditions["Accepted"].message


@pytest.mark.parametrize(
    ("addresses", "missing"),
    [(["20.0.0.9"], "20.0.0.9"), (["20.0.0.1", "20.0.0.9", "2000::9"], "20.0.0.9, 2000::9"), (["20.0.0.1"], "")],
)
def test_an_address_that_was_asked_for_and_no_route_carries_is_told(addresses: list[str], missing: str) -> None:
    gateway = objects.gateway(addresses=[{"value": address} for address in addresses])
    status, conditions = of_gateway(*with_gateway(gateway))
    assert conditions["Accepted"].status
    assert [str(address) for address in status.addresses] == ["20.0.0.1"]
    programmed = conditions["Programmed"]
    if missing:
        assert (programmed.status, programmed.reason) == (False, "AddressNotAssigned")
        assert f"no accepted route gives this Gateway {missing} of spec.addresses" in programmed.message
    else:
        assert programmed.status


def test_an_address_within_a_wider_vip_is_carried() -> None:
    items = with_gateway(objects.gateway(addresses=[{"value": "20.0.0.9"}]))
    items = [objects.l34_route(destinationCIDRs=["20.0.0.0/24"]) if i["kind"] == "L34Route" else i for i in items]
    _, conditions = of_gateway(*items)
    assert conditions["Programmed"].reason != "AddressNotAssigned"


@pytest.mark.parametrize(
    "route",
    [objects.l34_route(), objects.tcp_route("route"), objects.l34_route(destinationPorts=["70000"])],
    ids=["L34Route", "TCPRoute", "unreadable itself"],
)
def test_a_gateway_that_cannot_be_read_keeps_its_elements_in_the_statuses_of_routes(route: Json) -> None:
    result = planned(unreadable(), objects.service(), route)
    (status,) = (s for s in result.statuses if isinstance(s, RouteStatus))
    (parent,) = status.parents
    (before,) = (
        s.parents[0].controller
        for s in planned(objects.gateway(), objects.service(), route).statuses
        if isinstance(s, RouteStatus)
    )
    accepted = parent.conditions[0]
    assert (accepted.type, accepted.status, parent.controller) == ("Accepted", False, before)
    if route["spec"].get("destinationPorts") == ["70000"]:
        assert "spec.destinationPorts" in accepted.message
    else:
        assert accepted.reason == "NoMatchingParent"
        assert accepted.message.startswith("Gateway default/gw cannot be used: metadata.annotations")
    assert status.nowhere == ()
    written = render.status_object(status, route, "2026-01-01T00:00:00Z")["status"]
    assert [item["parentRef"]["name"] for item in written["parents"]] == ["gw"]
    (event,) = (event for event in events.news(status, route) if event.reason == accepted.reason)
    assert event.warning


def test_a_gateway_of_another_controller_that_cannot_be_read_is_none_of_our_business() -> None:
    class_: Json = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "nginx"},
        "spec": {"controllerName": "example.com/nginx"},
    }
    theirs = unreadable()
    theirs["spec"]["gatewayClassName"] = "nginx"
    result = planned(class_, theirs, objects.l34_route(), objects.service())
    (status,) = (s for s in result.statuses if isinstance(s, RouteStatus))
    assert (status.parents, status.nowhere) == ((), ())
    assert not any(isinstance(s, GatewayStatus) for s in result.statuses)


@pytest.mark.parametrize(
    ("gateways", "said"),
    [
        ([unreadable()], "Gateway default/gw cannot be used: metadata.annotations"),
        ([objects.gateway(class_name="nginx")], "no Gateway default/gw of a class of ours: correct its label"),
        ([], "no Gateway default/gw of a class of ours: correct its label"),
    ],
    ids=["unreadable", "of another class", "missing"],
)
def test_a_router_is_told_why_its_gateway_is_none(gateways: list[Json], said: str) -> None:
    (status,) = (s for s in planned(*gateways, objects.router()).statuses if isinstance(s, RouterStatus))
    (accepted,) = status.conditions
    assert (accepted.status, accepted.reason) == (False, "NoMatchingParent")
    assert accepted.message.startswith(said)
