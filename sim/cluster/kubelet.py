"""The imitated kubelets: the nodes of the virtual network, and on them the Pods that the API binds to them.

A client of the API like any other: it watches Pods and networks, and writes Nodes, Pod statuses and events. Modelled: namespaces,
processes, environment, readiness probes over HTTP and TCP, restarts with back-off, graceful deletion. Not modelled: volumes, resources,
security contexts, liveness and startup probes, init containers; tokens of ServiceAccounts come with `KubeletSettings.kubeconfig_of`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.kube import NODES, PODS, Informer, Json, KubeApi, ObjectName
from sim.cluster.cluster_network import ClusterNetwork
from sim.cluster.images import TARGET_IMAGE, Executed, Forked, Program
from sim.cluster.multus import Multus
from sim.cluster.pod_runner import FIELD_MANAGER, Means, PodRunner
from sim.cluster.pod_sandbox import KubeconfigOf, Node, Sandboxes
from sim.cluster.pod_status import rfc3339
from sim.cluster.processes import ForkServer
from sim.net.topology import Attachment, VirtualNetwork

log = logging.getLogger(__name__)

STOP_DEADLINE_S = 10.0
PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
)
"""What containers get of the run's own environment: where programs and their libraries are, and nothing that would change them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeletSettings:
    """`tidegate` is the command of image `tidegate`; `kubeconfig` is handed to every container, unless `kubeconfig_of` gives each Pod
    one of its own; `pods_dir` gets ``<uid>/netns`` of each Pod; `log_dir` gets ``<namespace>_<pod>_<container>.log``; `environment` is
    added for every container; `programs` adds images.
    """

    tidegate: tuple[str, ...]
    kubeconfig: Path
    pods_dir: Path
    log_dir: Path
    nodes: tuple[str, ...] = ("node-1", "node-2")
    kubeconfig_of: KubeconfigOf | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, Program] = field(default_factory=dict)


class Kubelet:
    """The kubelets of all nodes, in one process: a thread a Pod."""

    def __init__(
        self, api: KubeApi, network: VirtualNetwork, settings: KubeletSettings, cluster: ClusterNetwork | None = None
    ) -> None:
        self._api = api
        self._network = network
        self._settings = settings
        self._cluster = cluster or ClusterNetwork()
        self._lock = threading.Lock()
        self._closed = False
        self._runners: dict[str, PodRunner] = {}
        self._nodes: dict[str, Node] = {}
        self._forks = ForkServer()
        self._multus = Multus(api)
        self._pods: Informer | None = None
        settings.pods_dir.mkdir(parents=True, exist_ok=True)
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        self._means = Means(
            api=api,
            sandboxes=Sandboxes(
                network,
                self._cluster,
                self._multus,
                pods_dir=settings.pods_dir,
                kubeconfig_of=settings.kubeconfig_of or (lambda _pod: settings.kubeconfig),
            ),
            forks=self._forks,
            programs={
                "tidegate": Executed(command=settings.tidegate),
                TARGET_IMAGE: Forked(program="target"),
                **settings.programs,
            },
            environment={
                **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
                "PYTHONUNBUFFERED": "1",
                **settings.environment,
            },
            log_dir=settings.log_dir,
        )

    def start(self) -> None:
        """Adds the nodes to the network and to the API, ready, and begins to run Pods."""
        for number, name in enumerate(self._settings.nodes, start=1):
            self._add_node(name, number)
        self._multus.start(self._networks_changed)
        pods = self._api.watch(PODS, self._pod_changed)
        with self._lock:
            self._pods = pods
        # What was told before the line above had no informer to look in.
        for pod_name in list(pods.objects()):
            self._pod_changed(pod_name)

    def stop(self) -> None:
        """Kills the processes of all Pods and takes their hosts away. The API is told nothing: it ends as well."""
        with self._lock:
            self._closed = True
            runners = list(self._runners.values())
        for runner in runners:
            runner.abandon()
        deadline_s = time.monotonic() + STOP_DEADLINE_S
        for runner in runners:
            runner.join(max(0.0, deadline_s - time.monotonic()))
        self._forks.close()

    def pids(self, host: str) -> Mapping[str, int]:
        """The PIDs of a Pod's containers by name; `host` is the Pod's name, with ``namespace/`` before it outside of `default`.

        Raises:
            KeyError: no such Pod runs.
        """
        with self._lock:
            for runner in self._runners.values():
                if runner.name == host:
                    return runner.pids()
        raise KeyError(host)

    def _add_node(self, name: str, number: int) -> None:
        addresses = self._cluster.node(number)
        attachment = Attachment(
            network=self._cluster.bridge,
            interface=self._cluster.interface,
            addresses=addresses,
            gateways=self._cluster.gateways,
        )
        self._network.add_host(name, [attachment])
        node = Node(name=name, number=number, addresses=tuple(str(address.ip) for address in addresses))
        with self._lock:
            self._nodes[name] = node
        cidrs = self._cluster.pod_cidrs(number)
        metadata: Json = {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}
        spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)}
        wanted: Json = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}
        self._api.apply(NODES, wanted, field_manager=FIELD_MANAGER)
        # Not by apply, whose key for the addresses is their type: it takes one of each, and a node has two internal ones.
        self._api.merge_patch(NODES, "", name, {"status": _node_status(node)}, subresource="status")

    def _networks_changed(self, _name: ObjectName) -> None:
        """A network that a Pod waits for may be there now."""
        with self._lock:
            runners = list(self._runners.values())
        for runner in runners:
            runner.wake()

    def _pod_changed(self, name: ObjectName) -> None:
        """Called by one thread at a time, in the order of the API's events: Pods get their addresses in that order."""
        with self._lock:
            if self._pods is None or self._closed:
                return
            pod = self._pods.objects().get(name)
            uid = pod["metadata"]["uid"] if pod is not None else None
            for runner in self._runners.values():
                if (runner.namespace, runner.pod_name) == name and runner.uid != uid:
                    runner.vanish()
            if pod is None or uid is None:
                return
            known = self._runners.get(uid)
            node = self._nodes.get(pod["spec"].get("nodeName", ""))
            if known is not None:
                known.update(pod)
                return
            if node is None or _is_over(pod):
                return
            runner = self._runners[uid] = PodRunner(pod, node, self._means, self._forget)
        runner.start()

    def _forget(self, runner: PodRunner) -> None:
        with self._lock:
            self._runners.pop(runner.uid, None)


def default_command() -> tuple[str, ...]:
    """The `tidegate` command of this environment: the script beside the interpreter, else the module.

    The script is given to the interpreter, because its first line has the path at which the environment was made: where it is mounted
    elsewhere, nothing may be there.
    """
    script = Path(sys.executable).parent / "tidegate"
    return (sys.executable, str(script)) if script.exists() else (sys.executable, "-m", "scenarios.cli")


def _is_over(pod: Json) -> bool:
    """Whether a Pod that nobody runs yet needs no running any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _node_status(node: Node) -> Json:
    now = rfc3339(time.time())
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "the virtual network is up",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {
        "addresses": [
            *({"type": "InternalIP", "address": address} for address in node.addresses),
            {"type": "Hostname", "address": node.name},
        ],
        "conditions": [ready],
        "nodeInfo": {"kubeletVersion": "testbed", "operatingSystem": "linux", "osImage": "virtual network"},
    }
