"""A kubelet whose API server, kernel or helpers fail it: no Pod stays for ever, and none keeps what others need."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import ApiError
from core.kube import DEPLOYMENTS, NETWORKS, PODS, Json, Resource
from sim.cluster import pod_sandbox
from sim.cluster.multus import PodInterface
from sim.cluster.pod_sandbox import Node
from sim.net.namespaces import run_in
from tests.netns._pods import MACVLAN, NETWORK_2, World, deployment, is_ready, template

pytestmark = pytest.mark.sandbox


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def refusing_deletes(world: World, times: float) -> list[str]:
    """The API answers the kubelet's last DELETE of a Pod with 503, so many times; gives the names of the Pods that were asked about."""
    asked: list[str] = []
    delete = world.api.delete

    def refuse(resource: Resource, namespace: str, name: str, **options: Any) -> None:
        if options.get("grace_period_s") == 0:
            asked.append(name)
            if len(asked) <= times:
                raise ApiError(503, "ServiceUnavailable", "not now")
        delete(resource, namespace, name, **options)

    world.api.delete = refuse  # type: ignore[method-assign]  # an API server that is away, for one request
    return asked


def test_a_pod_that_has_ended_goes_when_the_api_answers_again(world: World) -> None:
    world.api.create(DEPLOYMENTS, deployment("t", 1, template("t", "tidegate-testbed/target")))
    (pod,) = world.until_ready(1, "t")
    asked = refusing_deletes(world, 2)
    world.api.merge_patch(DEPLOYMENTS, "default", "t", {"spec": {"replicas": 0}})
    world.until(lambda: not world.pods("t"), "it is gone")
    assert asked == [pod["metadata"]["name"]] * 3


def test_stop_does_not_wait_for_an_api_that_does_not_answer(world: World) -> None:
    world.api.create(DEPLOYMENTS, deployment("t", 1, template("t", "tidegate-testbed/target")))
    world.until_ready(1, "t")
    asked = refusing_deletes(world, float("inf"))
    world.api.merge_patch(DEPLOYMENTS, "default", "t", {"spec": {"replicas": 0}})
    world.until(lambda: len(asked) > 1, "it is asked again")
    world.workloads.stop()
    world.kubelet.stop()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("pod ")]


def test_a_pod_that_has_lost_its_interface_goes_and_leaves_its_addresses(world: World) -> None:
    world.api.create(NETWORKS, MACVLAN)
    world.api.create(DEPLOYMENTS, deployment("t", 1, template("t", "tidegate-testbed/target", networks=NETWORK_2)))
    (pod,) = world.until_ready(1, "t")
    run_in(world.folder / "pods" / pod["metadata"]["uid"] / "netns", ["ip", "link", "del", "eth0"])
    world.api.merge_patch(DEPLOYMENTS, "default", "t", {"spec": {"replicas": 0}})
    world.until(lambda: not world.pods("t"), "it is gone")
    assert pod["metadata"]["name"] not in [view.name for view in world.network.hosts()]
    world.api.merge_patch(DEPLOYMENTS, "default", "t", {"spec": {"replicas": 1}})
    (again,) = world.until_ready(1, "t")
    assert again["status"]["podIPs"] == pod["status"]["podIPs"]
    status = json.loads(again["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"])
    assert status[1]["ips"][0] == "169.222.100.1"


def test_a_sandbox_that_hangs_is_said_and_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as hanging:
        hanging.setattr(pod_sandbox, "_FURNISH", "sleep 1000\n")
        hanging.setattr(pod_sandbox, "FURNISH_DEADLINE_S", 0.1)
        world.api.create(DEPLOYMENTS, deployment("s", 1, template("s", "sleep", args=["1000"])))
        said = "could not be made within 0.1 s"
        world.until(lambda: any(said in message for message in world.events()), "there is an event")
    world.until_ready(1, "s")


def test_a_pod_that_is_to_go_before_it_ran_goes_and_takes_no_address(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []
    sandboxes = world.kubelet._means.sandboxes
    plan = sandboxes.plan

    def noted(pod: Json, node: Node) -> tuple[PodInterface, ...]:
        planned.append(pod["metadata"]["name"])
        return plan(pod, node)

    monkeypatch.setattr(sandboxes, "plan", noted)
    for name, meta in (("going", {"deletionTimestamp": "2026-01-01T00:00:00Z"}), ("here", {})):
        pod = template(name, "tidegate-testbed/target")
        pod["spec"]["nodeName"] = "node-1"
        metadata = {"name": name, "namespace": "default", "deletionGracePeriodSeconds": 0, **meta}
        world.api.create(PODS, {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": metadata})
    world.until(lambda: [p["metadata"]["name"] for p in world.pods()] == ["here"], "it is gone")
    world.until(lambda: is_ready(world.pods()[0]), "the other runs")
    assert planned == ["here"]
