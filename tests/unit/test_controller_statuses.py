"""Which statuses and Events the controller writes, how often, and which statuses it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from core import kube
from core.kube import Informer, Json, ObjectName, Resource
from core.manifests import workloads
from live.controller import Controller
from tests import objects
from tests.fakes import FakeApi

RESOURCES = {(resource.api_version, resource.kind): resource for resource in kube.ALL_RESOURCES}


class Written(FakeApi):
    """Remembers what was requested to be applied to a status, and the Events."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.refuse = self._ask

    def _ask(self, verb: str, resource: Resource, name: str) -> None:
        if verb == "apply" and resource in (kube.L34_ROUTES, kube.TCP_ROUTES, kube.EVENTS):
            self.asked.append(f"{resource.kind} {name.split('.', maxsplit=1)[0]}")

    def asked_since(self) -> list[str]:
        asked, self.asked = self.asked, []
        return sorted(asked)


@pytest.fixture
def api() -> Iterator[Written]:
    made = Written()
    yield made
    made.close()


def controller_of(api: FakeApi, *objs: Json) -> Controller:
    for obj in objs:
        api.create(RESOURCES[obj["apiVersion"], obj["kind"]], obj)
    informers = {
        resource.kind: api.watch(resource, lambda _: None) for resource in (*kube.PLANNED_FROM, kube.DEPLOYMENTS)
    }
    return Controller(
        api, dict(informers), workloads.Build(image="tidegate", dataplane="nft"), lambda: "2026-01-01T00:00:00Z"
    )


def test_a_route_of_another_controller_is_not_written_to(api: Written) -> None:
    class_: Json = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "nginx"},
        "spec": {"controllerName": "example.com/nginx"},
    }
    theirs = objects.gateway("theirs", class_name="nginx")
    controller = controller_of(
        api, class_, theirs, objects.tcp_route(gateway_name="theirs"), objects.gateway(), objects.l34_route()
    )
    assert controller.reconcile() is None
    asked = api.asked_since()
    assert "L34Route route" in asked
    assert "TCPRoute tcp" not in asked


def test_an_event_is_told_once_however_many_turns_there_are(api: Written) -> None:
    controller = controller_of(api, objects.gateway(), objects.service(), objects.l34_route(gateway_name="nowhere"))
    controller.reconcile()
    assert "Event route" in api.asked_since()
    for number in range(3):
        # What was written by people is related anew, and a Pod comes: neither is news of the route.
        api.create(kube.SERVICES, objects.service(f"more-{number}"))
        api.create(kube.PODS, objects.pod(number))
        controller.reconcile()
    assert not [asked for asked in api.asked_since() if asked.endswith(" route")]


class Late:
    """An informer of the routes whose watch tells of nothing."""

    synced = True

    def __init__(self, api: FakeApi) -> None:
        self.version: str | None = api.version
        self._objects = api.snapshot(kube.L34_ROUTES)

    def objects(self) -> Mapping[ObjectName, Json]:
        return self._objects


def test_a_status_is_written_and_told_once_while_the_watch_has_not_told_of_it(api: Written) -> None:
    """Else it would be a transition at each turn, with an Event and a time of its own."""
    for obj in (objects.gateway(), objects.service(), objects.l34_route(gateway_name="nowhere")):
        api.create(RESOURCES[obj["apiVersion"], obj["kind"]], obj)
    informers: dict[str, Informer] = {
        resource.kind: api.watch(resource, lambda _: None) for resource in (*kube.PLANNED_FROM, kube.DEPLOYMENTS)
    }
    times = iter(f"2026-01-01T00:00:0{second}Z" for second in range(9))
    build = workloads.Build(image="tidegate", dataplane="nft")
    controller = Controller(api, informers | {"L34Route": Late(api)}, build, lambda: next(times))
    controller.reconcile()
    assert {"L34Route route", "Event route"} <= set(api.asked_since())
    api.create(kube.PODS, objects.pod(1))
    controller.reconcile()
    assert not [asked for asked in api.asked_since() if asked.endswith(" route")]


def test_a_router_tells_of_how_many_pods_its_session_is_up(api: Written) -> None:
    """A column of `kubectl get` shows one element of a list."""
    controller = controller_of(api, objects.gateway(), objects.router())
    controller.reconcile()
    assert {"established", "bfdUp"}.isdisjoint(router_status(api))
    for number in range(2):
        api.create(kube.PODS, objects.gateway_pod(number))
    sessions = [
        {"pod": "app-0", "session": "Established", "bfd": "Up"},
        {"pod": "app-1", "session": "Active", "bfd": ""},
    ]
    patch = {"status": {"sessions": sessions}}
    api.merge_patch(kube.GATEWAY_ROUTERS, "default", "router-v4", patch, subresource="status")
    controller.reconcile()
    status = router_status(api)
    assert (status["established"], status["bfdUp"]) == ("1/2", "1/1")


def test_the_workload_of_a_gateway_that_changes_to_another_controllers_class_goes(api: Written) -> None:
    theirs: Json = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "nginx"},
        "spec": {"controllerName": "example.com/nginx"},
    }
    controller = controller_of(api, objects.gateway(), objects.gateway("other"))
    by_hand = objects.gateway("by-hand", class_name="nginx")
    someone: Json = {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": "nginx", "namespace": "default"},
    }
    api.create(kube.GATEWAYS, by_hand)
    api.create(kube.DEPLOYMENTS, someone)
    controller.reconcile()
    assert len(api.snapshot(kube.DEPLOYMENTS)) == 3
    api.merge_patch(kube.GATEWAYS, "default", "gw", {"spec": {"gatewayClassName": "nginx"}})
    controller.reconcile()
    assert len(api.snapshot(kube.DEPLOYMENTS)) == 3, "the class is not there: a mistake, or not yet"
    api.create(kube.GATEWAY_CLASSES, theirs)
    controller.reconcile()
    left = {name for _, name in api.snapshot(kube.DEPLOYMENTS)}
    assert left == {"stateless-load-balancer-other", "nginx"}
    controller.reconcile()
    assert {name for _, name in api.snapshot(kube.DEPLOYMENTS)} == left


def router_status(api: FakeApi) -> Json:
    stored = api.get(kube.GATEWAY_ROUTERS, "default", "router-v4")
    assert stored is not None
    status: Json = stored["status"]
    return status
