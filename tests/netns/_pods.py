"""Pods on the virtual network, over an API server in memory: the world of the kubelet's tests, and objects for it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.kube import EVENTS, PODS, Json
from sim.cluster.cluster_network import ClusterNetwork
from sim.cluster.images import Executed
from sim.cluster.kubelet import Kubelet, KubeletSettings
from sim.cluster.workloads import Workloads
from sim.net.topology import THIS_SIDE, Attachment, VirtualNetwork
from tests.fakes import FakeApi

DEADLINE_S = 20.0
AGENT = """
import http.server, os, sys, signal
name, ip, kubeconfig = (os.environ[key] for key in ("HOSTNAME", "POD_IP", "KUBECONFIG"))
print(name, ip, kubeconfig, open(kubeconfig).read().strip(), *sys.argv[1:], flush=True)
open("/run/private", "x").write(os.environ["HOSTNAME"])
signal.signal(signal.SIGTERM, lambda *_: (print("goodbye", flush=True), sys.exit(0)))
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists("/run/ready") else 503)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("", 8081), Ready).serve_forever()
"""


class World:
    """The virtual network with kubelet and controllers on an API in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api = FakeApi()
        self.network = VirtualNetwork()
        self.network.start()
        cluster = ClusterNetwork()
        self.network.attach(
            THIS_SIDE, Attachment(network=cluster.bridge, interface="cluster0", addresses=cluster.world)
        )
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text("a kubeconfig\n")
        settings = KubeletSettings(
            tidegate=(sys.executable, "-I", "-S", "-c", AGENT),
            kubeconfig=kubeconfig,
            pods_dir=folder / "pods",
            log_dir=folder / "logs",
            programs={"crash": Executed(command=("false",)), "sleep": Executed(command=("sleep",))},
        )
        self.kubelet = Kubelet(self.api, self.network, settings)
        self.workloads = Workloads(self.api)
        self.kubelet.start()
        self.workloads.start()

    def close(self) -> None:
        self.workloads.stop()
        self.kubelet.stop()
        self.network.stop()
        self.api.close()

    def pods(self, app: str | None = None) -> list[Json]:
        pods = sorted(self.api.snapshot(PODS).items())
        return [pod for _, pod in pods if app is None or (pod["metadata"].get("labels") or {}).get("app") == app]

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        deadline_s = time.monotonic() + DEADLINE_S
        while not (found := holds()):
            assert time.monotonic() < deadline_s, f"not within {DEADLINE_S} s: {what}; Pods: {json.dumps(self.pods())}"
            time.sleep(0.01)
        return found

    def until_ready(self, count: int, app: str | None = None) -> list[Json]:
        def ready() -> list[Json]:
            return [pod for pod in self.pods(app) if is_ready(pod)]

        self.until(lambda: len(ready()) == count == len(self.pods(app)), f"{count} Pods of {app} are ready")
        return ready()

    def log(self, pod: Json, container: str = "main") -> str:
        name = f"{pod['metadata']['namespace']}_{pod['metadata']['name']}_{container}.log"
        return (self.folder / "logs" / name).read_text()

    def events(self) -> list[str]:
        return [event["message"] for event in self.api.snapshot(EVENTS).values()]


def is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def network(name: str, config: Json) -> Json:
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"config": json.dumps(config)},
    }


MACVLAN = network(
    "macvlan-nad-2",
    {
        "type": "macvlan",
        "master": "eth0",
        "ipam": {"type": "whereabouts", "ipRanges": [{"range": "169.222.100.0/24"}, {"range": "fd00:222::/64"}]},
    },
)


def template(app: str, image: str, *, networks: Any = None, **container: Any) -> Json:
    annotations = {} if networks is None else {"k8s.v1.cni.cncf.io/networks": json.dumps(networks)}
    spec = {"containers": [{"name": "main", "image": image, **container}], "terminationGracePeriodSeconds": 3}
    return {"metadata": {"labels": {"app": app}, "annotations": annotations}, "spec": spec}


def deployment(name: str, replicas: int, pod: Json) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pod},
    }


NETWORK_2 = [{"name": "macvlan-nad-2", "interface": "net2"}]
