"""plan(): what follows from the objects."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from core import names
from core.kube import Json
from core.lb.classifier import Packet, decide
from core.lb.forwarding import pool_table
from core.manifests import parse, render, workloads
from core.model import Attachment, L4Protocol, ObjectRef
from core.plan import GatewayPlan, Plan, forwarding_of, plan
from core.status import Condition, GatewayStatus, RouteStatus, Status
from tests import objects

V4, V6 = ip_network("20.0.0.1/32"), ip_network("2000::1/128")


def planned(*items: Json) -> Plan:
    return plan(parse(items)[0])


def one_gateway(*items: Json) -> GatewayPlan:
    (found,) = planned(*items).gateways
    return found


def status_of(result: Plan, kind: str, name: str) -> Status:
    (found,) = [s for s in result.statuses if (s.ref.kind, s.ref.name) == (kind, name)]
    return found


def condition(status: Status, type_: str) -> Condition:
    if isinstance(status, RouteStatus):
        (found,) = [c for parent in status.parents for c in parent.conditions if c.type == type_]
    else:
        (found,) = [c for c in status.conditions if c.type == type_]
    return found


def test_everything_follows_from_the_objects() -> None:
    result = planned(*objects.base())
    (gateway,) = result.gateways
    assert gateway.vips == gateway.announced == (V4,)
    assert [peer.address for peer in gateway.peers] == [ip_address("169.254.100.150")]
    assert gateway.next_hops == (ip_address("10.2.0.200"), ip_address("10.2.0.201"))
    (slice_,) = result.slices
    assert [(e.pod, e.slot, e.ready) for e in slice_.endpoints] == [(f"app-{i}", i, True) for i in range(4)]
    assert result.attachments[ObjectRef(kind="Pod", namespace="default", name="app-0")] == (
        Attachment(vips=(V4,), next_hops=gateway.next_hops),
    )
    status = status_of(result, "Gateway", "gw")
    assert isinstance(status, GatewayStatus)
    assert status.addresses == (V4.network_address,)
    assert condition(status, "Programmed").status
    assert condition(status_of(result, "L34Route", "route"), "Accepted").status
    assert status.listeners[0].attached_routes == 1


def test_a_vip_without_usable_targets_is_not_announced() -> None:
    """Fault 11 of the proof-of-concept."""
    gateway = one_gateway(*objects.base(targets=0))
    assert gateway.vips == (V4,)
    assert gateway.announced == ()


def test_an_endpoint_is_ready_only_when_its_pod_holds_the_vip() -> None:
    """Fault 14 of the proof-of-concept."""
    items = [*objects.base(targets=1), objects.pod(5, attached=())]
    (slice_,) = planned(*items).slices
    assert {e.pod: e.ready for e in slice_.endpoints} == {"app-0": True, "app-5": False}


def test_a_new_vip_waits_for_its_pods_and_the_old_one_does_not() -> None:
    new = ip_network("40.0.0.1/32")
    items = [
        objects.gateway(),
        objects.l34_route(destinationCIDRs=[str(V4), str(new)]),
        objects.service(),
        objects.pod(0, attached=(str(V4), str(new))),
        objects.pod(1),
    ]
    result = planned(*items)
    assert result.gateways[0].announced == (V4, new)
    forwarding = result.gateways[0].forwarding
    pods = {flow.destinations: {t.pod for t in forwarding.pool_of(flow).targets} for flow in forwarding.flows}
    assert pods == {(V4,): {"app-0", "app-1"}, (new,): {"app-0"}}
    (slice_,) = result.slices
    assert [e.pending_vips for e in slice_.endpoints] == [(), (new,)]


def test_a_load_balancer_that_sees_a_route_before_its_slice_does_not_believe_that_anybody_holds_the_new_vip() -> None:
    """Fault 14 of the proof-of-concept, in the moment between the change of a route and the controller's turn."""
    before = planned(*objects.base())
    stored = json.loads(json.dumps(render.endpoint_slice(before.slices[0], parse(objects.base())[0].services[0].meta)))
    updated = [
        objects.l34_route(destinationCIDRs=["20.0.0.1/32", "40.0.0.1/32"]) if item["kind"] == "L34Route" else item
        for item in objects.base()
        if item["kind"] != "Pod"
    ]
    forwarding = forwarding_of(parse([*updated, stored])[0], "default", "gw")
    assert forwarding is not None
    assert list(forwarding.usable_destinations()) == [V4]
    assert forwarding.flows[0].pool == before.gateways[0].forwarding.flows[0].pool


def test_what_a_load_balancer_reads_back_is_what_was_planned() -> None:
    items = [*objects.base(), objects.pod(7, attached=()), objects.service("other"), objects.tcp_route()]
    first = planned(*items)
    services = {s.meta.name: s.meta for s in parse(items)[0].services}
    stored = [json.loads(json.dumps(render.endpoint_slice(s, services[s.service]))) for s in first.slices]
    without_pods = [item for item in items if item["kind"] != "Pod"]
    read_back = forwarding_of(parse([*without_pods, *stored])[0], "default", "gw")
    assert read_back == first.gateways[0].forwarding
    assert planned(*items, *stored).slices == first.slices


def test_the_order_of_the_objects_does_not_count() -> None:
    items = [*objects.base(), objects.l34_route("b", priority=1), objects.l34_route("a", priority=1)]
    assert planned(*items) == planned(*reversed(items))


def test_both_families_keep_their_peers_and_next_hops() -> None:
    """Fault 5 of the proof-of-concept."""
    items = [
        objects.gateway(),
        objects.router("v4"),
        objects.router("v6", address="100:100::150"),
        objects.l34_route(destinationCIDRs=[str(V4), str(V6)]),
        objects.service(),
        objects.pod(0, addresses=("10.2.0.1", "fd02::1"), attached=(str(V4), str(V6))),
        objects.gateway_pod(0),
    ]
    items[-1]["metadata"]["annotations"][names.NETWORK_STATUS] = json.dumps(
        [{"name": "default/nad-2", "ips": ["10.2.0.200", "fd02::200"]}]
    )
    result = planned(*items)
    (gateway,) = result.gateways
    assert gateway.announced == (V4, V6)
    assert [peer.address.version for peer in gateway.peers] == [4, 6]
    assert [slice_.version for slice_ in result.slices] == [4, 6]
    (attached,) = result.attachments[ObjectRef(kind="Pod", namespace="default", name="app-0")]
    assert attached.next_hops == (ip_address("10.2.0.200"), ip_address("fd02::200"))


def test_next_hops_are_the_ready_gateway_pods() -> None:
    """Fault 12 of the proof-of-concept: they follow when gateway pods come, go or move."""
    items = [*objects.base()[:-1], objects.gateway_pod(1, ready=False)]
    assert one_gateway(*items).next_hops == (ip_address("10.2.0.200"),)


def test_objects_of_other_namespaces_do_not_mix() -> None:
    """Fault 13 of the proof-of-concept."""
    items = [
        *objects.base(),
        objects.gateway("gw", namespace="other"),
        objects.service(namespace="other"),
        objects.router(namespace="other", address="9.9.9.9"),
        objects.pod(9, namespace="other"),
    ]
    result = planned(*items)
    mine, theirs = result.gateways
    assert mine.peers[0].address != theirs.peers[0].address
    assert theirs.vips == ()
    assert [e.pod for s in result.slices if s.meta.namespace == "default" for e in s.endpoints] == [
        f"app-{i}" for i in range(4)
    ]


def test_a_gateway_without_infrastructure_and_with_many_vips() -> None:
    """Fault 10 of the proof-of-concept."""
    bare = objects.gateway(infrastructure=None)
    status = status_of(planned(bare), "Gateway", "gw")
    assert condition(status, "Accepted").reason == "Invalid"
    many = [f"20.0.{i}.1/32" for i in range(40)]
    result = planned(objects.gateway(), objects.l34_route(destinationCIDRs=many), objects.gateway_pod(0))
    status = status_of(result, "Gateway", "gw")
    assert isinstance(status, GatewayStatus)
    assert len(result.gateways[0].vips) == 40
    assert len(status.addresses) == 16
    assert "40 addresses" in condition(status, "Programmed").message


def test_a_prefix_is_a_vip_like_a_host() -> None:
    """Fault 8 of the proof-of-concept."""
    items = [objects.gateway(), objects.l34_route(destinationCIDRs=["20.0.0.0/24"]), objects.service()]
    gateway = one_gateway(*items, objects.pod(0, attached=("20.0.0.0/24",)))
    assert gateway.announced == (ip_network("20.0.0.0/24"),)
    packet = Packet(
        source=ip_address("1.1.1.1"),
        destination=ip_address("20.0.0.77"),
        protocol=L4Protocol.TCP,
        source_port=1,
        destination_port=4000,
    )
    assert decide(gateway.forwarding, packet).target is not None


def test_a_service_with_max_endpoints() -> None:
    """Fault 7 of the proof-of-concept."""
    limited = objects.service()
    limited["metadata"]["annotations"] = {names.MAX_ENDPOINTS: "2"}
    items = [item if item["kind"] != "Service" else limited for item in objects.base()]
    made = planned(*items)
    assert [e.slot for e in made.slices[0].endpoints] == [0, 1]
    assert len(made.gateways[0].forwarding.pools[0].targets) == 2


def test_a_service_without_selector_selects_nothing() -> None:
    """Fault 21 of the proof-of-concept."""
    items = [item if item["kind"] != "Service" else objects.service(app=None) for item in objects.base()]
    assert planned(*items).slices == ()


def test_a_rolling_update_keeps_the_slots_of_those_who_stay() -> None:
    before = planned(*objects.base())
    stored = render.endpoint_slice(before.slices[0], parse(objects.base())[0].services[0].meta)
    items = [item for item in objects.base() if item["metadata"]["name"] != "app-1"] + [objects.pod(30), stored]
    after = planned(*items)
    assert {e.pod: e.slot for e in after.slices[0].endpoints} == {"app-0": 0, "app-30": 1, "app-2": 2, "app-3": 3}
    old, new = (pool_table(p.gateways[0].forwarding.pools[0]) for p in (before, after))
    assert (old == new).all()


def test_a_pod_has_its_slot_before_it_has_an_address() -> None:
    waiting = objects.pod(1)
    waiting["metadata"]["annotations"] = {}
    items = [objects.gateway(), objects.l34_route(), objects.service(), objects.pod(0), waiting, objects.pod(2)]
    (slice_,) = planned(*items).slices
    assert {e.pod: e.slot for e in slice_.endpoints} == {"app-0": 0, "app-2": 2}
    assert slice_.reserved == {"uid-app-0": 0, "uid-app-1": 1, "uid-app-2": 2}


def test_slots_of_the_seeds_slices_are_read() -> None:
    stored: Json = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "svc-ipv4", "namespace": "default", "labels": {names.SERVICE_NAME: "svc"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.2.0.1"], "zone": "7", "targetRef": {"name": "app-0", "uid": "uid-app-0"}}],
    }
    (slice_,) = planned(*objects.base(targets=2), stored).slices
    assert {e.pod: e.slot for e in slice_.endpoints} == {"app-0": 7, "app-1": 0}


def test_a_bad_object_takes_no_good_one_down() -> None:
    good = planned(*objects.base())
    bad: list[Any] = [
        objects.l34_route("bad", priority="x"),
        objects.router("bad", address="nowhere"),
        objects.gateway("bad", listeners="none"),
        {"apiVersion": "v1", "kind": "Service", "metadata": None},
    ]
    result = planned(*objects.base(), *bad)
    assert result.gateways == good.gateways
    assert [s for s in result.statuses if s.ref.name != "bad"] == list(good.statuses)
    assert condition(status_of(result, "L34Route", "bad"), "Accepted").reason == "UnsupportedValue"


def test_statuses_keep_the_time_of_their_last_change() -> None:
    """Fault 23 of the proof-of-concept: unchanged input writes nothing."""
    first = status_of(planned(*objects.base()), "Gateway", "gw")
    stored = render.status_object(first, None, "2026-01-01T00:00:00Z")
    again = render.status_object(first, stored, "2026-06-01T00:00:00Z")
    assert again == stored
    assert stored["status"]["conditions"][0]["observedGeneration"] == 3
    assert isinstance(first, GatewayStatus)
    worse = replace(first, conditions=tuple(replace(c, status=False) for c in first.conditions))
    changed = render.status_object(worse, stored, "2026-06-01T00:00:00Z")
    assert {c["lastTransitionTime"] for c in changed["status"]["conditions"]} == {"2026-06-01T00:00:00Z"}


def test_other_controllers_entries_stay_in_a_routes_status() -> None:
    theirs = {"parentRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []}
    status = status_of(planned(*objects.base()), "L34Route", "route")
    body = render.status_object(status, {"status": {"parents": [theirs]}}, "2026-01-01T00:00:00Z")
    assert [p["controllerName"] for p in body["status"]["parents"]] == ["example.com/other", objects.STATELESS]


def test_classes_by_name_and_by_controller() -> None:
    class_: Json = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "fast"},
        "spec": {"controllerName": objects.STATELESS},
    }
    result = planned(class_, objects.gateway(class_name="fast"), objects.gateway("not-ours", class_name="nginx"))
    assert [g.gateway.meta.name for g in result.gateways] == ["gw"]
    assert condition(status_of(result, "GatewayClass", "fast"), "Accepted").status


def test_the_workload_of_a_gateway() -> None:
    gateway = one_gateway(objects.gateway())
    body = workloads.workload(gateway.gateway, gateway.class_, workloads.Build(image="tidegate:1", dataplane="nft"))
    assert body is not None
    assert body["metadata"]["name"] == "stateless-load-balancer-gw"
    pod = body["spec"]["template"]
    assert body["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert [c["name"] for c in pod["spec"]["containers"]] == ["load-balancer", "router"]
    assert all(c["securityContext"]["capabilities"]["drop"] == ["ALL"] for c in pod["spec"]["containers"])


@pytest.mark.parametrize(("older", "younger"), [("a", "z"), ("z", "a")])
def test_of_two_gateways_with_one_vip_and_one_router_the_older_has_it(older: str, younger: str) -> None:
    items = [
        objects.aged(objects.gateway(younger), "2026-02-01T00:00:00Z"),
        objects.aged(objects.gateway(older), "2026-01-01T00:00:00Z"),
        objects.router("a", gateway_name="a"),
        objects.router("z", gateway_name="z"),
        objects.l34_route("a", gateway_name=younger, destinationCIDRs=["20.0.0.1/32", "40.0.0.1/32"]),
        objects.l34_route("b", gateway_name=older),
    ]
    result = planned(*items)
    assert {g.gateway.meta.name: [str(v) for v in g.vips] for g in result.gateways} == {
        older: ["20.0.0.1/32"],
        younger: ["40.0.0.1/32"],
    }
    assert condition(status_of(result, "Gateway", older), "Programmed").reason != "AddressNotUsable"
    programmed = condition(status_of(result, "Gateway", younger), "Programmed")
    assert (programmed.status, programmed.reason) == (False, "AddressNotUsable")
    assert f"Gateway default/{older}" in programmed.message


def test_two_gateways_that_meet_different_routers_may_have_one_vip() -> None:
    items = [
        objects.gateway("one"),
        objects.gateway("two"),
        objects.router("a", gateway_name="one"),
        objects.router("b", gateway_name="two", address="169.254.100.151"),
        objects.l34_route("a", gateway_name="one"),
        objects.l34_route("b", gateway_name="two"),
    ]
    assert [g.vips for g in planned(*items).gateways] == [(V4,), (V4,)]
