"""Which statuses and Events the controller writes, how often, and which statuses it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import kube
from core.kube import Json, Resource
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
