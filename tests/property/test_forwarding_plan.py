"""The forwarding set made from changes is the one made from all objects, and what did not change is the same object."""

from __future__ import annotations

import copy
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from core import names
from core.forwarding_plan import ForwardingPlanner
from core.kube import Json
from core.manifests import parse_object
from core.model import Endpoint, EndpointSlice, KubeObject, Meta, ObjectRef
from core.objects import Objects, Rejected
from core.plan import forwarding_of
from tests import objects

VIPS = [ip_network("20.0.0.1/32"), ip_network("20.0.0.9/32")]


def model_of(obj: Json) -> KubeObject | Rejected:
    model = parse_object(obj)
    assert model is not None
    return model


def broken(obj: Json) -> Json:
    """Another generation of the object that cannot be understood, or means nothing."""
    changed = copy.deepcopy(obj)
    changed["spec"] = {"ports": 7}
    return changed


WRITTEN = [
    objects.gateway(),
    objects.gateway(addresses=[{"type": "IPAddress", "value": "20.0.0.9"}]),
    objects.gateway(class_name="somebody.else"),
    objects.gateway("other"),
    objects.router(),
    objects.service(),
    objects.service("svc2"),
    objects.l34_route(),
    objects.l34_route(destinationCIDRs=[str(vip) for vip in VIPS]),
    objects.l34_route("narrow", parentRefs=[{"name": "gw", "sectionName": "all"}, {"name": "gw"}, {"name": "other"}]),
    objects.l34_route("second", service_name="svc2"),
    objects.tcp_route(),
    objects.tcp_route(service_name="svc2"),
    objects.pod(0),
]
VARIANTS = [model_of(obj) for obj in (*WRITTEN, *map(broken, WRITTEN))]


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    version = draw(st.sampled_from([4, 4, 6]))
    service = draw(st.sampled_from(["svc", "svc2"]))
    slots = draw(st.lists(st.integers(0, 12), unique=True, max_size=5))
    endpoints = tuple(
        Endpoint(
            address=ip_address(f"169.111.100.{slot}" if version == 4 else f"fd00::{slot + 1:x}"),
            pod=f"pod-{slot}{draw(st.sampled_from(['', 'x']))}",
            pod_uid=f"uid-{slot}",
            slot=slot,
            ready=draw(st.booleans()),
            serving=True,
            terminating=False,
            pending_vips=tuple(draw(st.sampled_from([(), (), (VIPS[0],)]))),
        )
        for slot in sorted(slots)
    )
    name = f"{service}-ipv{version}{draw(st.sampled_from(['', '-1', '-2']))}"
    return EndpointSlice(
        meta=Meta(ref=ObjectRef(kind="EndpointSlice", namespace="default", name=name)),
        service=service,
        version=version,
        endpoints=endpoints,
        reserved={endpoint.pod_uid: endpoint.slot for endpoint in endpoints},
        managed_by=draw(st.sampled_from([names.SLICE_MANAGER] * 4 + ["somebody"])),
        vips=draw(st.sampled_from([None, tuple(VIPS[:1]), tuple(VIPS)])),
    )


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_changes_give_what_all_objects_give_whatever_the_history(data: st.DataObject) -> None:
    planner = ForwardingPlanner("default", "gw")
    items: dict[ObjectRef, KubeObject | Rejected] = {}
    for model in VARIANTS[: data.draw(st.sampled_from([0, len(WRITTEN)]))]:
        planner.put(model)
        items[model.meta.ref] = model
    for _ in range(data.draw(st.integers(1, 8))):
        # Turns in which only slices change are those that a planner saves work on.
        choice: st.SearchStrategy[KubeObject | Rejected] = data.draw(
            st.sampled_from([st.sampled_from(VARIANTS), slices(), slices()])
        )
        for _ in range(data.draw(st.integers(1, 4))):
            model = data.draw(choice)
            if data.draw(st.integers(0, 4)):
                planner.put(model)
                items[model.meta.ref] = model
            else:
                planner.remove(model.meta.ref)
                items.pop(model.meta.ref, None)
        found = planner.forwarding()
        assert found == forwarding_of(Objects.of(items.values()), "default", "gw")
        assert planner.forwarding() is found


def endpoint(slot: int) -> Endpoint:
    return Endpoint(
        address=ip_address(f"169.111.100.{slot}"),
        pod=f"pod-{slot}",
        pod_uid=f"uid-{slot}",
        slot=slot,
        ready=True,
        serving=True,
        terminating=False,
    )


def slice_of(service: str, *endpoints: Endpoint, number: int = 0) -> EndpointSlice:
    return EndpointSlice(
        meta=Meta(ref=ObjectRef(kind="EndpointSlice", namespace="default", name=f"{service}-ipv4-{number}")),
        service=service,
        version=4,
        endpoints=endpoints,
        reserved={each.pod_uid: each.slot for each in endpoints},
        managed_by=names.SLICE_MANAGER,
    )


def test_one_endpoint_that_changes_leaves_every_other_object_as_it_was() -> None:
    planner = ForwardingPlanner("default", "gw")
    written = [
        objects.gateway(),
        objects.service(),
        objects.service("svc2"),
        objects.l34_route(),
        objects.l34_route("second", service_name="svc2"),
    ]
    for obj in written:
        planner.put(model_of(obj))
    first, second = slice_of("svc", endpoint(1), endpoint(2)), slice_of("svc", endpoint(3), number=1)
    for slice_ in (first, second, slice_of("svc2", endpoint(7))):
        planner.put(slice_)
    before = planner.forwarding()
    assert before is not None
    planner.put(replace(first, endpoints=(endpoint(1), replace(endpoint(2), ready=False))))
    after = planner.forwarding()
    assert after is not None
    assert after.flows is before.flows
    pools = {pool.name: pool for pool in before.pools}
    changed = [pool for pool in after.pools if pool is not pools[pool.name]]
    assert [backend.service for pool in changed for backend in pool.backends] == ["default/svc"]
    old = {target.slot: target for target in pools[changed[0].name].targets}
    assert [target.slot for target in changed[0].targets] == [1, 3]
    assert all(target is old[target.slot] for target in changed[0].targets)


def test_an_object_of_which_only_its_status_changed_changes_nothing() -> None:
    planner = ForwardingPlanner("default", "gw")
    for obj in (objects.gateway(), objects.service(), objects.l34_route()):
        planner.put(model_of(obj))
    before = planner.forwarding()
    planner.put(model_of({**objects.gateway(), "status": {"conditions": []}}))
    assert planner.forwarding() is before
    assert before is not None
