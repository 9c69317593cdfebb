"""What a cluster and the routers outside lack to be as the plan says; each thing that is missing is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from core import names
from core.kube import Json
from core.manifests import render
from core.model import Address, ObjectRef, Prefix
from scenarios.assumed import with_assumed_pods
from scenarios.convergence import (
    View,
    expected_fingerprint,
    missing_in_api,
    missing_in_kernels,
    missing_in_pods,
    missing_in_router,
)
from scenarios.load import load_scenario
from scenarios.manifests import desired, read_manifests

LOADED = load_scenario("poc2-dualstack")
(ROUTER,) = LOADED.scenario.topology.routers
GATEWAYS = [f"169.254.100.{i}" for i in (1, 2)] + [f"100:100::{i}" for i in (1, 2)]


@pytest.fixture
def cluster() -> list[Json]:
    return converged(desired(read_manifests(LOADED.manifests)))


def converged(manifests: list[Json]) -> list[Json]:
    """The objects of a cluster in which everything has happened."""
    objects = copy.deepcopy(with_assumed_pods(manifests)[0])
    for obj in objects:
        obj["metadata"].setdefault("namespace", "default")
        if obj["kind"] == "Deployment":
            obj["metadata"]["generation"] = 1
            obj["status"] = {"observedGeneration": 1, "replicas": 4, "updatedReplicas": 4, "readyReplicas": 4}
    view = View.of(objects)
    services = {s.meta.name: s.meta for s in view.objects.services}
    objects += [render.endpoint_slice(slice_, services[slice_.service]) for slice_ in view.plan.slices]
    for obj in objects:
        wanted = view.plan.attachments.get(
            ObjectRef(kind=obj["kind"], namespace="default", name=obj["metadata"]["name"])
        )
        if wanted:
            obj["metadata"]["annotations"][names.ATTACHMENT] = render.attachment_text(wanted)
    return objects


def of_kind(objects: list[Json], kind: str) -> Iterator[Json]:
    return (obj for obj in objects if obj["kind"] == kind)


class Known:
    """A router that has learned everything, unless told otherwise."""

    def __init__(self, **changes: Any) -> None:
        self.routes: dict[Prefix, set[str]] = {
            ip_network("20.0.0.1/32"): set(GATEWAYS[:2]),
            ip_network("2000::1/128"): set(GATEWAYS[2:]),
        } | changes.get("routes", {})
        self.sessions: list[str] = changes.get("sessions", GATEWAYS)
        self.bfd: list[str] = changes.get("bfd", GATEWAYS)

    def next_hops(self, prefix: Prefix) -> frozenset[Address]:
        return frozenset(map(ip_address, self.routes.get(prefix, set())))

    def prefixes(self) -> frozenset[Prefix]:
        return frozenset(self.routes)

    def established(self) -> frozenset[Address]:
        return frozenset(map(ip_address, self.sessions))

    def bfd_up(self) -> frozenset[Address]:
        return frozenset(map(ip_address, self.bfd))


def test_nothing_is_missing_when_all_has_happened(cluster: list[Json]) -> None:
    view = View.of(cluster)
    assert list(missing_in_api(view)) == []
    assert list(missing_in_router(view, ROUTER, Known())) == []
    ((planned, pods),) = view.balancers()
    programmed = {pod.meta.name: expected_fingerprint(view, planned) for pod in pods}
    assert len(programmed) == 2
    assert list(missing_in_kernels(view, programmed)) == []


def test_a_load_balancer_with_another_table_is_named(cluster: list[Json]) -> None:
    view = View.of(cluster)
    ((planned, _),) = view.balancers()
    found = list(missing_in_kernels(view, {"gateway-b-1": expected_fingerprint(view, planned), "gateway-b-2": "old"}))
    assert found == ["Pod default/gateway-b-2 has not programmed Gateway default/gateway-b yet"]


def test_a_pod_with_the_ways_back_of_before_is_named(cluster: list[Json]) -> None:
    """Its VIPs are the same, and nothing in the API says that it is behind."""
    view = View.of(cluster)
    pods = {pod.meta.uid: pod.meta.name for pod in view.objects.pods}
    assert list(missing_in_pods(view, lambda _uid, _wanted: True)) == []
    found = list(missing_in_pods(view, lambda uid, _wanted: pods[uid] != "example-target-application-b-2"))
    assert found == ["Pod default/example-target-application-b-2 does not have its ways back yet"]


def test_a_fingerprint_follows_the_endpoints(cluster: list[Json]) -> None:
    view = View.of(cluster)
    ((planned, _),) = view.balancers()
    before = expected_fingerprint(view, planned)
    assert expected_fingerprint(View.of(cluster), planned) == before
    next(of_kind(cluster, "EndpointSlice"))["endpoints"].pop()
    assert expected_fingerprint(View.of(cluster), planned) != before


def test_endpoints_that_no_vip_leads_to_are_not_waited_for() -> None:
    """Nothing can make them ready: there is nothing that their Pods could hold."""
    manifests = copy.deepcopy(desired(read_manifests(LOADED.manifests)))
    (route,) = of_kind(manifests, "L34Route")
    route["spec"]["destinationCIDRs"].remove("2000::1/128")
    route["spec"]["sourceCIDRs"].remove("::/0")
    view = View.of(converged(manifests))
    ready = {s.meta.name: [endpoint.ready for endpoint in s.endpoints] for s in view.plan.slices}
    assert ready == {"service-b-ipv4": [True] * 4, "service-b-ipv6": [False] * 4}
    assert list(missing_in_api(view)) == []


def without_pod(objects: list[Json]) -> None:
    objects.remove(next(obj for obj in of_kind(objects, "Pod") if obj["metadata"]["name"] == "gateway-b-2"))


def unready_target(objects: list[Json]) -> None:
    next(of_kind(objects, "Deployment"))["status"]["readyReplicas"] = 3


def unseen_deployment(objects: list[Json]) -> None:
    next(of_kind(objects, "Deployment"))["metadata"]["generation"] = 2


def deleting(objects: list[Json]) -> None:
    next(of_kind(objects, "Pod"))["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"


def without_slice(objects: list[Json]) -> None:
    objects.remove(next(of_kind(objects, "EndpointSlice")))


def old_attachment(objects: list[Json]) -> None:
    next(of_kind(objects, "Pod"))["metadata"]["annotations"][names.ATTACHMENT] = "[]"


def not_attached(objects: list[Json]) -> None:
    next(of_kind(objects, "Pod"))["metadata"]["annotations"][names.ATTACHED] = json.dumps(["20.0.0.1/32"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without_pod, "1 of 2 pods of Gateway default/gateway-b are ready"),
        (unready_target, "3 of 4 pods of Deployment default/example-target-application-b are ready"),
        (unseen_deployment, "Deployment default/example-target-application-b has not been looked at"),
        (deleting, "Pod default/example-target-application-b-1 is being deleted"),
        (without_slice, "EndpointSlice default/service-b-ipv4 is not as the plan says"),
        (old_attachment, "the attachment of Pod default/example-target-application-b-1 is not written"),
        (not_attached, "Pod default/example-target-application-b-1 is not attached to"),
    ],
)
def test_what_the_api_lacks_is_named(cluster: list[Json], change: Any, expected: str) -> None:
    change(cluster)
    assert any(text.startswith(expected) for text in missing_in_api(View.of(cluster)))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (
            Known(routes={ip_network("20.0.0.1/32"): {GATEWAYS[0]}}),
            "vpn-b reaches 20.0.0.1/32 over 1 of 2 gateway pods",
        ),
        (Known(routes={ip_network("2000::1/128"): set()}), "vpn-b reaches 2000::1/128 over 0 of 2 gateway pods"),
        (Known(routes={ip_network("40.0.0.1/32"): set(GATEWAYS[:2])}), "vpn-b still has a route to 40.0.0.1/32"),
        (Known(sessions=GATEWAYS[1:]), "BGP between vpn-b and 169.254.100.1 is not established"),
        (Known(bfd=GATEWAYS[1:]), "BFD between vpn-b and 169.254.100.1 is not up"),
    ],
)
def test_what_a_router_lacks_is_named(cluster: list[Json], known: Known, expected: str) -> None:
    assert list(missing_in_router(View.of(cluster), ROUTER, known)) == [expected]
