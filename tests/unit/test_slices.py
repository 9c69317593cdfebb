"""Several EndpointSlices of one Service: what a load balancer reads from them."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network

from core import names
from core.endpoints import told_once
from core.flows import joined, usable_of
from core.lb.forwarding import Forwarding
from core.manifests import parse
from core.model import Endpoint, EndpointSlice, Meta, ObjectRef, Prefix
from core.objects import Objects
from core.plan import forwarding_of
from tests import objects

OLD, NEW = ip_network("20.0.0.1/32"), ip_network("40.0.0.1/32")


def endpoint(slot: int, *, ready: bool = True, pending: tuple[Prefix, ...] = (), pod: str = "") -> Endpoint:
    name = pod or f"pod-{slot}"
    address = ip_address("10.2.0.0") + slot
    return Endpoint(
        address=address,
        pod=name,
        pod_uid=f"uid-{name}",
        slot=slot,
        ready=ready,
        serving=ready,
        terminating=False,
        pending_vips=pending,
    )


def slice_of(name: str, *endpoints: Endpoint, vips: tuple[Prefix, ...] | None = (OLD,)) -> EndpointSlice:
    return EndpointSlice(
        meta=Meta(ref=ObjectRef(kind="EndpointSlice", namespace="default", name=name)),
        service="svc",
        version=4,
        endpoints=endpoints,
        reserved={e.pod_uid: e.slot for e in endpoints},
        managed_by=names.SLICE_MANAGER,
        vips=vips,
    )


def balanced(*slices: EndpointSlice) -> Forwarding:
    """What a load balancer of a route to two VIPs does."""
    written = [objects.gateway(), objects.service(), objects.l34_route(destinationCIDRs=[str(OLD), str(NEW)])]
    found = forwarding_of(Objects.of([*parse(written)[0].all(), *slices]), "default", "gw")
    assert found is not None
    return found


def targets(forwarding: Forwarding) -> dict[Prefix, list[tuple[int, str]]]:
    return {
        vip: [(target.slot, target.pod) for target in forwarding.pool_of(flow).targets]
        for flow in forwarding.flows
        for vip in flow.destinations
    }


def test_while_one_slice_speaks_of_a_new_vip_and_another_does_not_yet_each_is_believed_for_its_own_endpoints() -> None:
    new = slice_of("svc-ipv4", endpoint(0), endpoint(1, pending=(NEW,)), endpoint(2), vips=(OLD, NEW))
    old = slice_of("svc-ipv4-1", endpoint(100), endpoint(101))
    every = [(slot, f"pod-{slot}") for slot in (0, 1, 2, 100, 101)]
    assert targets(balanced(new, old)) == {OLD: every, NEW: [(0, "pod-0"), (2, "pod-2")]}
    assert targets(balanced(replace(new, vips=(OLD,)), old)) == {OLD: every, NEW: []}
    both = targets(balanced(new, replace(old, vips=(OLD, NEW))))
    assert both == {OLD: every, NEW: [one for one in every if one[0] != 1]}


def test_what_is_usable_does_not_depend_on_how_endpoints_are_spread_over_slices() -> None:
    draw = random.Random(1)
    for _ in range(50):
        found = [
            endpoint(slot, ready=draw.random() < 0.8, pending=(NEW,) if draw.random() < 0.3 else ())
            for slot in draw.sample(range(300), 30)
        ]
        whole = usable_of(slice_of("all", *found, vips=(OLD, NEW)))
        parts: list[list[Endpoint]] = [[], [], [], []]
        for one in found:
            draw.choice(parts).append(one)
        spread = [slice_of(f"part-{i}", *part, vips=(OLD, NEW)) for i, part in enumerate(parts)]
        assert joined([usable_of(slice_) for slice_ in spread]) == whole


def test_endpoints_that_two_slices_tell_of_count_once_while_the_single_slice_of_an_older_version_is_replaced() -> None:
    single = slice_of("svc-ipv4", *(endpoint(slot) for slot in (0, 1, 100, 101, 200)))
    # Slot 101 is another Pod's meanwhile, 100 is no longer ready, and the single slice is written last.
    first = slice_of("svc-ipv4-1", endpoint(100, ready=False), endpoint(101, pod="young"))
    second = slice_of("svc-ipv4-2", endpoint(200))
    here = [(0, "pod-0"), (1, "pod-1")]
    assert targets(balanced(single, second))[OLD] == [*here, (100, "pod-100"), (101, "pod-101"), (200, "pod-200")]
    assert targets(balanced(single, second, first))[OLD] == [*here, (101, "young"), (200, "pod-200")]


def test_an_endpoint_that_moves_to_a_lower_slot_counts_once() -> None:
    low, high = slice_of("svc-ipv4", endpoint(5, pod="a")), slice_of("svc-ipv4-1", endpoint(150, pod="a"))
    assert targets(balanced(low, high))[OLD] == [(150, "a")]


def test_slices_that_share_nothing_are_the_same_objects() -> None:
    low, high = slice_of("svc-ipv4", endpoint(5)), slice_of("svc-ipv4-1", endpoint(105))
    assert all(one is other for one, other in zip(told_once([high, low]), (low, high), strict=True))
