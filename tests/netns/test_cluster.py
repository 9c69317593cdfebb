"""The whole imitated cluster: API server in its own process, its clients over HTTP, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from core.kube import DEPLOYMENTS, NETWORKS, PODS, Json
from live.kube import KubeClient, connect
from sim.cluster.control_plane import ControlPlane, ControlPlaneError
from sim.cluster.kubelet import Kubelet, KubeletSettings
from sim.cluster.workloads import Workloads
from sim.net import capabilities
from sim.net.topology import Attachment, VirtualNetwork
from sim.net.traffic import FlowKey, TrafficClient
from tests import ordinary_user
from tests.conftest import require

DEADLINE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """API server, kubelet, controllers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = VirtualNetwork()
        self.network.start()
        self.control_plane = ControlPlane(self.network, run_dir=folder, log_dir=folder)
        self.control_plane.start()
        self.api: KubeClient = connect(self.control_plane.kubeconfig)
        settings = KubeletSettings(
            tidegate=("false",),
            kubeconfig=self.control_plane.kubeconfig,
            pods_dir=folder / "pods",
            log_dir=folder / "logs",
        )
        self.kubelet = Kubelet(self.api, self.network, settings)
        self.workloads = Workloads(self.api)
        self.kubelet.start()
        self.workloads.start()

    def until_ready(self, count: int) -> list[Json]:
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            pods = sorted(self.api.list(PODS), key=lambda pod: str(pod["metadata"]["name"]))
            ready = [pod for pod in pods if is_ready(pod)]
            if len(ready) == len(pods) == count:
                return ready
            assert time.monotonic() < deadline_s, json.dumps(pods)
            time.sleep(0.02)

    def close(self) -> None:
        self.workloads.stop()
        self.kubelet.stop()
        self.api.close()
        self.control_plane.stop()
        self.network.stop()


def is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def manifests(replicas: int) -> tuple[Json, Json]:
    config = {
        "cniVersion": "0.4.0",
        "type": "vlan",
        "master": "eth0",
        "vlanId": 200,
        "ipam": {
            "type": "whereabouts",
            "ipRanges": [{"range": "169.254.100.0/24", "exclude": ["169.254.100.150/32", "169.254.100.2/31"]}],
        },
    }
    network = {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "vlan-200", "namespace": "default"},
        "spec": {"config": json.dumps(config)},
    }
    template = {
        "metadata": {"labels": {"app": "t"}, "annotations": {"k8s.v1.cni.cncf.io/networks": "vlan-200@vlan-200"}},
        "spec": {"containers": [{"name": "target", "image": "tidegate-testbed/target"}]},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "t", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "t"}}, "template": template},
    }
    return network, deployment


def talk(folder: Path) -> str:
    """Four targets, asked from outside, scaled and updated; returns how long it took to be ready."""
    began_s = time.perf_counter()
    cluster = Cluster(folder)
    try:
        up_s = time.perf_counter() - began_s
        network, deployment = manifests(4)
        cluster.api.create(NETWORKS, network)
        began_s = time.perf_counter()
        cluster.api.create(DEPLOYMENTS, deployment)
        pods = cluster.until_ready(4)
        ready_s = time.perf_counter() - began_s
        address = ip_interface("169.254.100.150/24")
        cluster.network.add_host("vpn-b", [Attachment(network="eth0.200", interface="vlan-200", addresses=(address,))])
        client = TrafficClient(cluster.network, "vpn-b", log=folder / "vpn-b.log")
        flows = [
            FlowKey(
                source=address.ip, source_port=40000 + number, destination=ip_address(f"169.254.100.{host}"), port=4000
            )
            for number, host in enumerate((1, 4, 5, 6))
        ]
        results = client.results(client.open(flows), deadline_s=10)
        client.stop()
        assert {result.target for result in results} == {pod["metadata"]["name"] for pod in pods}, results
        cluster.api.merge_patch(DEPLOYMENTS, "default", "t", {"spec": {"replicas": 2}})
        cluster.until_ready(2)
        patch = {"spec": {"template": {"metadata": {"labels": {"version": "2"}}}}}
        cluster.api.merge_patch(DEPLOYMENTS, "default", "t", patch)
        deadline_s = time.monotonic() + DEADLINE_S
        while {pod["metadata"]["labels"].get("version") for pod in cluster.until_ready(2)} != {"2"}:
            assert time.monotonic() < deadline_s
        return f"cluster up {up_s:.2f} s, 4 Pods ready {ready_s:.2f} s"
    finally:
        cluster.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


@pytest.mark.sandbox
def test_pods_run_answer_scale_and_update_over_the_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = talk(tmp_path)
    with capsys.disabled():
        sys.stdout.write(f" [{said}]")


def test_the_same_as_an_ordinary_user(capsys: pytest.CaptureFixture[str]) -> None:
    ordinary_user.require_ordinary_user()
    inside = "import sys; from pathlib import Path; from tests.netns.test_cluster import talk; print(talk(Path(sys.argv[1])))"
    enter = "import sys; from sim.net.sandbox import enter; enter([sys.executable, *sys.argv[1:]])"
    with ordinary_user.folder() as folder:
        command = ordinary_user.python("-c", enter, "-c", inside, str(folder))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        sys.stdout.write(f" [ordinary user: {done.stdout.strip()}]")


@pytest.mark.sandbox
def test_a_pod_that_is_created_by_hand_is_bound_run_and_deleted_gracefully(cluster: Cluster) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare", "namespace": "default"},
        "spec": {"containers": [{"name": "target", "image": "tidegate-testbed/target"}]},
    }
    cluster.api.create(PODS, pod)
    (running,) = cluster.until_ready(1)
    assert running["spec"]["nodeName"] == "node-1"
    cluster.api.delete(PODS, "default", "bare")
    cluster.until_ready(0)
    assert "bare" not in [view.name for view in cluster.network.hosts()]


@pytest.mark.sandbox
def test_an_api_server_that_does_not_start_is_an_error_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = VirtualNetwork()
    network.start()
    monkeypatch.setattr("sim.cluster.control_plane.PORT", 99999)
    with pytest.raises(ControlPlaneError, match="99999"):
        ControlPlane(network, run_dir=tmp_path, log_dir=tmp_path).start()
    network.stop()


def test_sigkill_of_a_whole_cluster_leaves_no_process(tmp_path: Path) -> None:
    capability = capabilities.probe("namespaces")
    require("netns", capability.available, f"{capability.detail}; {capability.remedy}")
    inside = "import sys; from pathlib import Path; from tests.netns.test_cluster import talk; talk(Path(sys.argv[1]))"
    enter = "import sys; from sim.net.sandbox import enter; enter(sys.argv[1:])"
    moments = random.Random(5)
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, "-c", enter, sys.executable, "-c", inside, str(folder)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as victim:
            time.sleep(moments.uniform(0.3, 2.5))  # the moment is the test's input, not something it waits for
            inhabited = pid_namespace_inside(victim.pid)
            victim.kill()
        deadline_s = time.monotonic() + DEADLINE_S
        while left := inhabitants(inhabited):
            assert time.monotonic() < deadline_s, f"these processes were left: {left}"
            time.sleep(0.01)


def pid_namespace_inside(outside: int) -> str:
    """The PID namespace of the sandbox's first process; empty when it has none (any more)."""
    try:
        first = Path(f"/proc/{outside}/task/{outside}/children").read_text().split()
        return os.readlink(f"/proc/{first[0]}/ns/pid")  # noqa: PTH115 (the text of a magic link, not a path)
    except (OSError, IndexError):
        return ""


def inhabitants(namespace: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and namespace and os.readlink(entry / "ns/pid") == namespace:  # noqa: PTH115 (as above)
                found.append(int(entry.name))
        except OSError:
            continue
    return found
