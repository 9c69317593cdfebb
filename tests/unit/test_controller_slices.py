"""Which EndpointSlices the controller writes, in which order, and which it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest

from core import kube, names
from core.errors import ApiError
from core.kube import Informer, Json, ObjectName, Resource
from core.manifests import parse, render, workloads
from core.model import EndpointSlice
from core.plan import plan
from live.controller import Controller
from tests import objects
from tests.fakes import FakeApi

RESOURCES = {(resource.api_version, resource.kind): resource for resource in kube.ALL_RESOURCES}
PODS = 250


class Written(FakeApi):
    """Remembers which slices were requested to be written or deleted, and refuses those that the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.refused: set[str] = set()
        self.refuse = self._ask

    def _ask(self, verb: str, resource: Resource, name: str) -> None:
        if verb == "apply" and resource is kube.ENDPOINT_SLICES:
            self.asked.append(name)
            if name in self.refused:
                raise ApiError(500, "InternalError", "not now")

    def asked_since(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked

    def slots(self, name: str) -> set[int]:
        raw = self.snapshot(kube.ENDPOINT_SLICES)["default", name]
        model = parse([raw])[0].slices[0]
        return {e.slot for e in model.endpoints}


@pytest.fixture
def api() -> Iterator[Written]:
    made = Written()
    yield made
    made.close()


def a_pod(number: int, *, ready: bool = True) -> Json:
    return objects.pod(number, addresses=(f"10.2.{number // 200}.{number % 200 + 1}",), ready=ready)


def a_service(limit: int) -> Json:
    made = objects.service()
    made["metadata"]["annotations"] = {names.MAX_ENDPOINTS: str(limit)}
    return made


class Silent:
    """An informer of the slices as they were when it was made: its watch tells of nothing."""

    synced = True

    def __init__(self, api: FakeApi) -> None:
        self.version: str | None = api.version
        self._objects = api.snapshot(kube.ENDPOINT_SLICES)

    def objects(self) -> Mapping[ObjectName, Json]:
        return self._objects


class Following:
    """An informer that follows another one, which the test exchanges."""

    synced = True

    def __init__(self, informer: Informer) -> None:
        self.informer = informer

    @property
    def version(self) -> str | None:
        return self.informer.version

    def objects(self) -> Mapping[ObjectName, Json]:
        return self.informer.objects()


def controller_of(api: FakeApi, limit: int, pods: int, slices: Informer | None = None) -> Controller:
    for obj in (objects.gateway(), objects.l34_route(), a_service(limit), *map(a_pod, range(pods))):
        api.create(RESOURCES[obj["apiVersion"], obj["kind"]], obj)
    informers: dict[str, Informer] = {
        resource.kind: api.watch(resource, lambda _: None) for resource in (*kube.PLANNED_FROM, kube.DEPLOYMENTS)
    }
    if slices is not None:
        informers["EndpointSlice"] = slices
    return new_controller(api, informers)


def new_controller(api: FakeApi, informers: dict[str, Informer]) -> Controller:
    return Controller(
        api, informers, workloads.Build(image="tidegate", dataplane="nft"), lambda: "2026-01-01T00:00:00Z"
    )


def set_ready(api: FakeApi, number: int, *, ready: bool) -> None:
    api.merge_patch(
        kube.PODS, "default", f"app-{number}", {"status": a_pod(number, ready=ready)["status"]}, subresource="status"
    )


def turn_until_nothing_is_left(controller: Controller, api: Written) -> list[str]:
    """What was asked for, turn after turn until one asks for nothing."""
    asked: list[str] = []
    for _ in range(10):
        wait_s = controller.reconcile()
        new = api.asked_since()
        if not new and wait_s is None:
            return asked
        asked += new
    raise AssertionError(f"the controller does not come to rest: {asked}")


def test_slices_of_at_most_a_hundred_and_a_change_of_one_endpoint_writes_one_slice(api: Written) -> None:
    controller = controller_of(api, limit=1000, pods=PODS)
    asked = turn_until_nothing_is_left(controller, api)
    assert asked == ["svc-ipv4", "svc-ipv4-1", "svc-ipv4-2"]
    assert [len(api.slots(name)) for name in asked] == [100, 100, 50]
    set_ready(api, 120, ready=False)
    assert turn_until_nothing_is_left(controller, api) == ["svc-ipv4-1"]
    api.delete(kube.PODS, "default", "app-220", grace_period_s=0)
    assert turn_until_nothing_is_left(controller, api) == ["svc-ipv4-2"]
    obj = a_pod(PODS)
    api.create(kube.PODS, obj)
    assert turn_until_nothing_is_left(controller, api) == ["svc-ipv4-2"]
    assert 220 in api.slots("svc-ipv4-2"), "a replacement takes the lowest free slot"


@pytest.mark.parametrize("address", ["169.254.7.7", "127.0.0.1", "0.0.0.0", "224.0.0.5"])
def test_a_pod_is_no_endpoint_by_an_address_that_no_slice_may_have(api: Written, address: str) -> None:
    """The API server refuses the whole slice for it, and so every change of the other endpoints."""
    controller = controller_of(api, limit=100, pods=1)
    api.create(kube.PODS, objects.pod(1, addresses=(address,)))
    api.create(kube.PODS, objects.pod(2, addresses=(address, "10.2.0.77")))
    turn_until_nothing_is_left(controller, api)
    stored = api.snapshot(kube.ENDPOINT_SLICES)["default", "svc-ipv4"]
    assert [endpoint["addresses"] for endpoint in stored["endpoints"]] == [["10.2.0.1"], ["10.2.0.77"]]


def test_of_two_thousand_pods_as_many_are_endpoints_as_the_service_may_have(api: Written) -> None:
    controller = controller_of(api, limit=1000, pods=2000)
    asked = turn_until_nothing_is_left(controller, api)
    assert len(asked) == 10
    assert all(len(api.slots(name)) == 100 for name in asked)
    set_ready(api, 1500, ready=False)
    assert turn_until_nothing_is_left(controller, api) == [], "it is no endpoint"


def test_a_slice_without_slots_in_use_goes_and_one_whose_pods_wait_for_addresses_stays(api: Written) -> None:
    controller = controller_of(api, limit=1000, pods=120)
    turn_until_nothing_is_left(controller, api)
    for number in range(100, 119):
        api.delete(kube.PODS, "default", f"app-{number}", grace_period_s=0)
    api.merge_patch(kube.PODS, "default", "app-119", {"metadata": {"annotations": {names.NETWORK_STATUS: "[]"}}})
    assert turn_until_nothing_is_left(controller, api) == ["svc-ipv4-1"]
    stored = api.snapshot(kube.ENDPOINT_SLICES)["default", "svc-ipv4-1"]
    assert stored["endpoints"] == []
    (waiting,) = (raw for name, raw in api.snapshot(kube.PODS).items() if name[1] == "app-119")
    assert json.loads(stored["metadata"]["annotations"][names.SLOTS]) == {waiting["metadata"]["uid"]: 119}
    api.delete(kube.PODS, "default", "app-119", grace_period_s=0)
    turn_until_nothing_is_left(controller, api)
    assert set(api.snapshot(kube.ENDPOINT_SLICES)) == {("default", "svc-ipv4")}


def single_slice(api: Written) -> EndpointSlice:
    """What an older version wrote: every endpoint in the slice of plain name."""
    kinds = (kube.GATEWAYS, kube.L34_ROUTES, kube.SERVICES, kube.PODS)
    found = parse([raw for kind in kinds for raw in api.snapshot(kind).values()])[0]
    slices = plan(found).slices
    whole = replace(
        slices[0],
        endpoints=tuple(e for slice_ in slices for e in slice_.endpoints),
        reserved={uid: slot for slice_ in slices for uid, slot in slice_.reserved.items()},
    )
    api.apply(
        kube.ENDPOINT_SLICES, render.endpoint_slice(whole, found.services[0].meta), field_manager="tidegate-controller"
    )
    api.asked_since()
    return whole


def test_the_single_slice_of_an_older_version_gives_its_endpoints_away_last(api: Written) -> None:
    controller = controller_of(api, limit=1000, pods=PODS)
    single_slice(api)
    assert turn_until_nothing_is_left(controller, api) == ["svc-ipv4-1", "svc-ipv4-2", "svc-ipv4"]
    assert len(api.slots("svc-ipv4")) == 100


def test_a_slice_keeps_what_it_gives_away_while_the_one_that_takes_it_is_refused(api: Written) -> None:
    controller = controller_of(api, limit=1000, pods=PODS)
    single_slice(api)
    api.refused = {"svc-ipv4-2"}
    assert controller.reconcile() is not None, "it is tried again"
    assert len(api.slots("svc-ipv4")) == PODS
    api.refused = set()
    turn_until_nothing_is_left(controller, api)
    assert [len(api.slots(name)) for name in ("svc-ipv4", "svc-ipv4-1", "svc-ipv4-2")] == [100, 100, 50]


def slots_of_pods(api: FakeApi) -> dict[str, int]:
    raw = api.snapshot(kube.ENDPOINT_SLICES)["default", "svc-ipv4"]
    slots: dict[str, int] = json.loads(raw["metadata"]["annotations"][names.SLOTS])
    return slots


def test_no_pod_changes_its_slot_while_the_watch_of_slices_is_silent(
    api: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half open, a connection is silent for minutes, while those of other resources go on."""
    now_s = [0.0]
    monkeypatch.setattr("live.controller.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    slices = Following(api.watch(kube.ENDPOINT_SLICES, lambda _: None))
    controller = controller_of(api, limit=100, pods=4, slices=slices)
    turn_until_nothing_is_left(controller, api)
    now_s[0] = 100.0
    slices.informer = Silent(api)
    api.create(kube.PODS, a_pod(4))
    controller.reconcile()
    api.delete(kube.PODS, "default", "app-1", grace_period_s=0)
    controller.reconcile()
    before = slots_of_pods(api)
    now_s[0] += 30.0
    api.create(kube.PODS, a_pod(5))
    controller.reconcile()
    after = slots_of_pods(api)
    assert len(after) == len(before) + 1
    assert {pod: after[pod] for pod in before} == before


def test_no_pod_changes_its_slot_when_a_controller_takes_over_whose_watch_of_slices_lags(api: Written) -> None:
    """What makes one lose its Lease, an API server that is slow, makes the watches of the other late."""
    former = controller_of(api, limit=100, pods=2)
    turn_until_nothing_is_left(former, api)
    late = Silent(api)
    api.delete(kube.PODS, "default", "app-0", grace_period_s=0)
    api.create(kube.PODS, a_pod(2))
    api.create(kube.PODS, a_pod(3))
    turn_until_nothing_is_left(former, api)
    before = slots_of_pods(api)
    api.delete(kube.PODS, "default", "app-2", grace_period_s=0)
    # What the new one cannot look up it may not write either.
    api.refuse = refuse_lists
    informers: dict[str, Informer] = {
        resource.kind: api.watch(resource, lambda _: None) for resource in (*kube.PLANNED_FROM, kube.DEPLOYMENTS)
    }
    controller = new_controller(api, informers | {"EndpointSlice": late})
    assert controller.reconcile() is not None
    assert slots_of_pods(api) == before
    api.refuse = lambda _verb, _resource, _name: None
    controller.reconcile()
    after = slots_of_pods(api)
    assert {pod: slot for pod, slot in before.items() if pod in after} == after
    assert len(after) == 2


def refuse_lists(verb: str, resource: Resource, _name: str) -> None:
    if verb == "list" and resource is kube.ENDPOINT_SLICES:
        raise ApiError(500, "InternalError", "not now")


def test_a_slice_that_is_deleted_right_after_it_was_written_is_written_again_at_once(api: Written) -> None:
    controller = controller_of(api, limit=100, pods=2)
    turn_until_nothing_is_left(controller, api)
    api.delete(kube.ENDPOINT_SLICES, "default", "svc-ipv4")
    controller.reconcile()
    assert api.slots("svc-ipv4") == {0, 1}


def test_a_turn_is_due_while_the_write_of_a_slice_is_not_seen(api: Written) -> None:
    slices = Following(Silent(api))
    controller = controller_of(api, limit=100, pods=2, slices=slices)
    assert controller.reconcile() is not None
    slices.informer = api.watch(kube.ENDPOINT_SLICES, lambda _: None)
    assert controller.reconcile() is None
