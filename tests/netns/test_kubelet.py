"""Deployments become Pods, Pods become namespaces with networks and processes, over an API server in memory."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from core.kube import DAEMON_SETS, DEPLOYMENTS, NETWORKS, NODES, PODS, Json
from sim.net.namespaces import run_in
from sim.net.topology import Attachment
from sim.net.traffic import FlowKey, TrafficClient
from tests.netns._pods import MACVLAN, NETWORK_2, World, deployment, is_ready, network, template

pytestmark = pytest.mark.sandbox


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def test_targets_run_on_both_nodes_with_their_networks_and_answer(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.api.create(NETWORKS, MACVLAN)
    began_s = time.perf_counter()
    world.api.create(
        DEPLOYMENTS,
        deployment("t", 4, template("t", "registry.example/tidegate-testbed/target:v1", networks=NETWORK_2)),
    )
    pods = world.until_ready(4, "t")
    with capsys.disabled():
        sys.stdout.write(f" [4 Pods ready after {time.perf_counter() - began_s:.3f} s]")

    assert sorted(pod["spec"]["nodeName"] for pod in pods) == ["node-1", "node-1", "node-2", "node-2"]
    assert {pod["status"]["phase"] for pod in pods} == {"Running"}
    statuses = [json.loads(pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]) for pod in pods]
    assert sorted(status[1]["ips"][0] for status in statuses) == [f"169.222.100.{n}" for n in range(1, 5)]
    assert {(status[1]["name"], status[1]["interface"]) for status in statuses} == {("default/macvlan-nad-2", "net2")}
    for pod, status in zip(pods, statuses, strict=True):
        assert status[0]["default"] is True
        assert status[0]["ips"] == [entry["ip"] for entry in pod["status"]["podIPs"]]
        inside = run_in(world.folder / "pods" / pod["metadata"]["uid"] / "netns", ["ip", "-br", "addr", "show", "net2"])
        assert all(ip in inside for ip in status[1]["ips"])
        links = run_in(world.folder / "pods" / pod["metadata"]["uid"] / "netns", ["ip", "-br", "link", "show", "net2"])
        assert status[1]["mac"] in links

    address = ip_interface("169.222.100.200/24")
    world.network.add_host(
        "client", [Attachment(network="eth0/default/macvlan-nad-2", interface="net1", addresses=(address,))]
    )
    client = TrafficClient(world.network, "client", log=world.folder / "client.log")
    flows = [
        FlowKey(source=address.ip, source_port=40000, destination=ip_address(status[1]["ips"][0]), port=4000)
        for status in statuses
    ]
    results = client.results(client.open(flows), deadline_s=10)
    client.stop()
    assert [result.target for result in results] == [pod["metadata"]["name"] for pod in pods]
    status = world.until(
        lambda: (
            (found := world.api.get(DEPLOYMENTS, "default", "t") or {}).get("status", {}).get("readyReplicas") == 4
            and found
        ),
        "the Deployment counts its Pods",
    )["status"]
    assert (status["replicas"], status["updatedReplicas"], status["unavailableReplicas"]) == (4, 4, 0)


def test_addresses_of_pods_that_go_are_given_again(world: World) -> None:
    world.api.create(NETWORKS, MACVLAN)
    world.api.create(DEPLOYMENTS, deployment("t", 3, template("t", "tidegate-testbed/target", networks=NETWORK_2)))
    world.until_ready(3, "t")
    world.api.merge_patch(DEPLOYMENTS, "default", "t", {"spec": {"replicas": 1}})
    (left,) = world.until_ready(1, "t")
    assert len([view for view in world.network.hosts() if "t-" in view.name]) == 1
    world.api.merge_patch(DEPLOYMENTS, "default", "t", {"spec": {"replicas": 3}})
    pods = world.until_ready(3, "t")
    assert left["metadata"]["name"] in [pod["metadata"]["name"] for pod in pods]
    statuses = [json.loads(pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]) for pod in pods]
    assert sorted(status[1]["ips"][0] for status in statuses) == [f"169.222.100.{n}" for n in (1, 2, 3)]
    assert len(list((world.folder / "pods").iterdir())) == 3


def test_an_agent_gets_its_environment_its_own_run_and_is_ready_when_it_says_so(world: World) -> None:
    field = {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    container = {
        "args": ["agent", "router", "$(POD_IP)"],
        "env": [{"name": "POD_IP", **field}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}, "periodSeconds": 1, "failureThreshold": 1},
    }
    world.api.create(DEPLOYMENTS, deployment("a", 2, template("a", "tidegate", **container)))
    world.until(
        lambda: (
            [world.kubelet.pids(p["metadata"]["name"]) for p in world.pods("a")]
            and all(p.get("status", {}).get("phase") == "Running" for p in world.pods("a"))
        ),
        "both run",
    )
    pods = world.pods("a")
    assert not any(is_ready(pod) for pod in pods)
    for pod in pods:
        name, ip = pod["metadata"]["name"], pod["status"]["podIP"]
        world.until(partial(world.log, pod), "the agent speaks")
        assert world.log(pod).splitlines()[0] == f"{name} {ip} /run/kubeconfig a kubeconfig agent router {ip}"
    inside = [Path(f"/proc/{world.kubelet.pids(pod['metadata']['name'])['main']}/root/run") for pod in pods]
    for pod, run in zip(pods, inside, strict=True):
        world.until((run / "private").exists, "the agent writes its file")
        assert (run / "private").read_text() == pod["metadata"]["name"]
        (run / "ready").write_text("")
    world.until_ready(2, "a")
    (inside[0] / "ready").unlink()
    world.until(lambda: not is_ready(world.pods("a")[0]), "the probe notices")
    assert is_ready(world.pods("a")[1])

    doomed = world.pods("a")[1]
    world.api.delete(PODS, "default", doomed["metadata"]["name"])
    world.until(lambda: doomed["metadata"]["uid"] not in [p["metadata"]["uid"] for p in world.pods()], "it is gone")
    assert world.log(doomed).splitlines()[-1] == "goodbye"


def test_a_crashing_container_restarts_with_back_off_and_says_so(world: World) -> None:
    world.api.create(DEPLOYMENTS, deployment("c", 1, template("c", "crash")))

    def status() -> Json:
        statuses = [s for pod in world.pods("c") for s in pod.get("status", {}).get("containerStatuses", ())]
        return statuses[0] if statuses else {}

    waiting = world.until(
        lambda: status().get("restartCount", 0) >= 3 and status()["state"].get("waiting"), "it was restarted thrice"
    )
    assert waiting["reason"] == "CrashLoopBackOff"
    assert status()["lastState"]["terminated"]["exitCode"] == 1
    assert not is_ready(world.pods("c")[0])


def test_a_container_that_is_killed_comes_back_at_once_in_the_same_namespace(world: World) -> None:
    world.api.create(DEPLOYMENTS, deployment("t", 1, template("t", "tidegate-testbed/target")))
    (pod,) = world.until_ready(1, "t")
    name = pod["metadata"]["name"]
    before = world.kubelet.pids(name)["main"]
    namespace = os.readlink(f"/proc/{before}/ns/net")  # noqa: PTH115 (the text of a magic link, not a path)
    os.kill(before, signal.SIGKILL)
    after = world.until(
        lambda: (
            is_ready(world.pods("t")[0])
            and world.kubelet.pids(name).get("main") not in (None, before)
            and world.kubelet.pids(name)
        ),
        "it runs again",
    )["main"]
    assert os.readlink(f"/proc/{after}/ns/net") == namespace  # noqa: PTH115 (as above)
    state = world.until(
        lambda: (s := world.pods("t")[0]["status"]["containerStatuses"][0])["restartCount"] == 1 and s, "it is counted"
    )
    assert state["lastState"]["terminated"]["signal"] == signal.SIGKILL


def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace_period(world: World) -> None:
    pod_template = template("s", "sleep", command=["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"])
    pod_template["spec"]["terminationGracePeriodSeconds"] = 1
    world.api.create(DEPLOYMENTS, deployment("s", 1, pod_template))
    (pod,) = world.until_ready(1, "s")
    world.until(lambda: world.log(pod) == "up\n", "it is up")
    pid = world.kubelet.pids(pod["metadata"]["name"])["main"]
    began_s = time.monotonic()
    world.api.merge_patch(DEPLOYMENTS, "default", "s", {"spec": {"replicas": 0}})
    world.until(lambda: not world.pods("s"), "it is gone")
    assert 1.0 <= time.monotonic() - began_s < 10
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("image", "reason", "said"),
    [
        ("nginx:1.27", "ErrImagePull", "no program for image 'nginx:1.27'"),
        ("UPPER CASE", "InvalidImageName", "couldn't parse image name 'UPPER CASE'"),
    ],
)
def test_an_image_that_the_testbed_does_not_have_is_said_on_the_pod(
    world: World, image: str, reason: str, said: str
) -> None:
    world.api.create(DEPLOYMENTS, deployment("x", 1, template("x", image)))

    def waiting() -> Json | None:
        statuses = [s for pod in world.pods("x") for s in pod.get("status", {}).get("containerStatuses", ())]
        state: Json | None = statuses[0]["state"].get("waiting") if statuses else None
        return state if state and state["reason"] != "ContainerCreating" else None

    found = world.until(waiting, "the reason is on the Pod")
    assert found["reason"] == reason
    assert said in found["message"]
    assert world.pods("x")[0]["status"]["phase"] == "Pending"
    world.until(lambda: any(said in message for message in world.events()), "there is an event")


def test_a_network_that_is_missing_is_said_and_waited_for(world: World) -> None:
    world.api.create(DEPLOYMENTS, deployment("t", 1, template("t", "tidegate-testbed/target", networks=NETWORK_2)))
    said = "there is no NetworkAttachmentDefinition default/macvlan-nad-2"
    world.until(lambda: any(said in message for message in world.events()), "there is an event")
    status = world.until(lambda: world.pods("t")[0].get("status"), "there is a status")
    assert status["phase"] == "Pending"
    assert said in status["message"]
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    world.api.create(NETWORKS, MACVLAN)
    (pod,) = world.until_ready(1, "t")
    assert "message" not in pod["status"]


def test_an_exhausted_range_is_said_and_an_address_that_is_freed_is_used(world: World) -> None:
    two = network("small", {"type": "vlan", "vlanId": 7, "ipam": {"type": "whereabouts", "range": "192.0.2.0/30"}})
    world.api.create(NETWORKS, two)
    world.api.create(
        DEPLOYMENTS, deployment("t", 3, template("t", "tidegate-testbed/target", networks=[{"name": "small"}]))
    )
    world.until(
        lambda: any("no free address in 192.0.2.0/30" in message for message in world.events()), "there is an event"
    )
    world.until(lambda: sum(map(is_ready, world.pods("t"))) == 2, "two Pods are ready")
    ready = [pod for pod in world.pods("t") if is_ready(pod)]
    world.api.merge_patch(DEPLOYMENTS, "default", "t", {"spec": {"replicas": 2}})
    world.until_ready(2, "t")
    world.api.delete(PODS, "default", ready[0]["metadata"]["name"])
    world.until(lambda: ready[0]["metadata"]["uid"] not in [p["metadata"]["uid"] for p in world.pods("t")], "gone")
    world.until_ready(2, "t")


def test_a_daemon_set_runs_once_on_each_node_in_the_nodes_namespace(world: World) -> None:
    pod_template = template("d", "sleep", args=["1000"])
    pod_template["spec"]["hostNetwork"] = True
    world.api.create(
        DAEMON_SETS,
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "d", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": pod_template},
        },
    )
    pods = world.until_ready(2, "d")
    for pod in pods:
        node = pod["spec"]["nodeName"]
        pid = world.kubelet.pids(pod["metadata"]["name"])["main"]
        inside, wanted = Path(f"/proc/{pid}/ns/net"), world.network.host(node).namespace
        # The process runs from the moment at which it is on its way there.
        world.until(partial(inside.samefile, wanted), "the process is where the node is")
        addresses = [entry["address"] for entry in world.api.snapshot(NODES)["", node]["status"]["addresses"]]
        assert pod["status"]["podIP"] == pod["status"]["hostIP"] == addresses[0]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-1", "node-2"}


def test_a_rolling_update_replaces_all_and_never_drops_below_its_minimum(world: World) -> None:
    world.api.create(DEPLOYMENTS, deployment("t", 4, template("t", "tidegate-testbed/target")))
    world.until_ready(4, "t")
    old = {pod["metadata"]["uid"] for pod in world.pods("t")}
    lowest = [4]

    def updated() -> bool:
        pods = world.pods("t")
        lowest.append(sum(is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods))
        return len(pods) == 4 and not old & {pod["metadata"]["uid"] for pod in pods} and all(map(is_ready, pods))

    patch = {"spec": {"template": {"metadata": {"labels": {"version": "2"}}}}}
    world.api.merge_patch(DEPLOYMENTS, "default", "t", patch)
    world.until(updated, "all Pods are new")
    assert min(lowest) >= 3


def test_a_bare_pod_is_bound_to_a_node_and_runs(world: World) -> None:
    pod = template("b", "tidegate-testbed/target")
    world.api.create(
        PODS, {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {"name": "bare", "namespace": "other"}}
    )
    found = world.until(lambda: [p for p in world.pods() if is_ready(p)], "it runs")[0]
    assert found["spec"]["nodeName"] == "node-1"
    assert "other/bare" in [view.name for view in world.network.hosts()]


def test_stop_ends_every_process(world: World) -> None:
    world.api.create(DEPLOYMENTS, deployment("t", 3, template("t", "tidegate-testbed/target")))
    world.api.create(DEPLOYMENTS, deployment("s", 2, template("s", "sleep", args=["1000"])))
    world.until_ready(3, "t")
    world.until_ready(2, "s")
    pids = [pid for pod in world.pods() for pid in world.kubelet.pids(pod["metadata"]["name"]).values()]
    assert len(pids) == 5
    world.workloads.stop()
    world.kubelet.stop()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert len(world.pods()) == 5
