"""A turn of the controller with much to write makes way for what packets wait for."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from core import kube, names
from core.kube import Resource
from core.manifests import workloads
from live.controller import LEAST_REQUESTS, Controller
from tests import objects
from tests.fakes import FakeApi

RESOURCES = {(resource.api_version, resource.kind): resource for resource in kube.ALL_RESOURCES}
PODS = 3 * LEAST_REQUESTS


class Busy(FakeApi):
    """Remembers what kinds were applied, in order; `news` is what the controller is told when it asks."""

    def __init__(self) -> None:
        super().__init__()
        self.applied: list[str] = []
        self.news = True
        self.refuse = self._ask

    def _ask(self, verb: str, resource: Resource, _name: str) -> None:
        if verb == "apply":
            self.applied.append(resource.kind)

    def applied_since(self) -> list[str]:
        applied, self.applied = self.applied, []
        return applied

    def attached(self) -> int:
        pods = self.snapshot(kube.PODS).values()
        return sum(names.ATTACHMENT in (pod["metadata"].get("annotations") or {}) for pod in pods)


@pytest.fixture
def api() -> Iterator[Busy]:
    made = Busy()
    for obj in (objects.gateway(), objects.l34_route(), objects.service(), *map(objects.pod, range(PODS))):
        made.create(RESOURCES[obj["apiVersion"], obj["kind"]], obj)
    yield made
    made.close()


def controller_of(api: Busy) -> Controller:
    informers = {
        resource.kind: api.watch(resource, lambda _: None) for resource in (*kube.PLANNED_FROM, kube.DEPLOYMENTS)
    }
    build = workloads.Build(image="tidegate", dataplane="nft")
    return Controller(api, dict(informers), build, lambda: "2026-01-01T00:00:00Z", lambda: api.news)


def test_an_endpoint_that_changes_while_many_pods_are_written_to_is_in_its_slice_before_the_rest_of_them(
    api: Busy,
) -> None:
    controller = controller_of(api)
    controller.reconcile()
    first = api.applied_since()
    assert first[0] == "EndpointSlice"
    assert first.count("EndpointSlice") == 1
    assert len(first) == 1 + LEAST_REQUESTS
    api.merge_patch(
        kube.PODS, "default", "app-1", {"status": objects.pod(1, ready=False)["status"]}, subresource="status"
    )
    controller.reconcile()
    assert api.applied_since()[0] == "EndpointSlice"
    assert 0 < api.attached() < PODS


def test_turns_that_are_cut_short_get_everything_done_and_nothing_twice(api: Busy) -> None:
    controller = controller_of(api)
    written: list[str] = []
    for _ in range(PODS):
        controller.reconcile()
        turn = api.applied_since()
        assert len(turn) <= LEAST_REQUESTS + 1
        written += turn
        if not turn:
            break
    assert written.count("Pod") == api.attached() == PODS


def test_without_news_a_turn_writes_everything(api: Busy) -> None:
    api.news = False
    controller_of(api).reconcile()
    assert api.attached() == PODS


def test_vips_of_one_family_behind_gateway_pods_with_two_are_written_once() -> None:
    """Fault 23 of the proof-of-concept, in its own shape: next hops of the other family came and went for ever."""
    api = Busy()
    gateway_pods = [objects.gateway_pod(i) for i in range(2)]
    for i, obj in enumerate(gateway_pods):
        obj["metadata"]["annotations"][names.NETWORK_STATUS] = json.dumps(
            [{"name": "default/nad-2", "ips": [f"10.2.0.{200 + i}", f"fd02::{200 + i}"]}]
        )
    targets = [objects.pod(i, addresses=(f"10.2.0.{i + 1}", f"fd02::{i + 1}")) for i in range(2)]
    for obj in (objects.gateway(), objects.l34_route(), objects.service(), *targets, *gateway_pods):
        api.create(RESOURCES[obj["apiVersion"], obj["kind"]], obj)
    api.news = False
    controller = controller_of(api)
    controller.reconcile()
    assert {"Pod", "EndpointSlice", "Gateway", "L34Route"} <= set(api.applied_since())
    pods = api.snapshot(kube.PODS)
    written = [json.loads(pods["default", f"app-{i}"]["metadata"]["annotations"][names.ATTACHMENT]) for i in range(2)]
    for ((attachment),) in written:
        assert attachment == {"vips": ["20.0.0.1/32"], "nextHops": ["10.2.0.200", "10.2.0.201"]}
    controller.reconcile()
    assert api.applied_since() == []
    assert api.snapshot(kube.PODS) == pods
    api.close()
