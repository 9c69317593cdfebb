"""The imitated cluster of the virtual network: API server, nodes, controllers; then what a person would install on it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import live
from core.kube import CRDS, DAEMON_SETS, DEPLOYMENTS, NAMESPACES, Json, KubeApi, Resource
from scenarios.yamlsource import read_documents
from sim.cluster.cluster_network import ClusterNetwork
from sim.cluster.control_plane import ControlPlane
from sim.cluster.kubelet import Kubelet, KubeletSettings, default_command
from sim.cluster.workloads import Workloads
from sim.net.sandbox import RUN_DIR
from sim.net.topology import VirtualNetwork

FIELD_MANAGER = "tidegate-installer"
DEPLOY = Path(live.__file__ or "").parent / "deploy"


class ImitatedCluster:
    """Parts that are started one after the other, and stopped in reverse."""

    def __init__(self, network: VirtualNetwork, *, logs: Path, nodes: int, dataplane: str) -> None:
        self._network = network
        self._logs = logs
        self._nodes = tuple(f"node-{number}" for number in range(1, nodes + 1))
        self._dataplane = dataplane
        self._addresses = ClusterNetwork()
        self._exits = ExitStack()
        self._kubeconfig = RUN_DIR / "kubeconfig"

    def start_api_server(self) -> Path:
        """Starts the API server; returns the kubeconfig when it answers."""
        control_plane = ControlPlane(self._network, run_dir=RUN_DIR, log_dir=self._logs, cluster=self._addresses)
        self._exits.callback(control_plane.stop)
        control_plane.start()
        self._kubeconfig = control_plane.kubeconfig
        return self._kubeconfig

    def start(self, api: KubeApi) -> None:
        """Nodes, workload controllers, and Tidegate itself: CRDs, controller, endpoint agents."""
        for path in sorted((DEPLOY / "crds").glob("*.yaml")):
            for document in read_documents(path):
                api.apply(CRDS, document.json(), field_manager=FIELD_MANAGER)
        workloads = Workloads(api)
        workloads.start()
        self._exits.callback(workloads.stop)
        kubelet = Kubelet(
            api,
            self._network,
            KubeletSettings(
                tidegate=default_command(),
                kubeconfig=self._kubeconfig,
                pods_dir=RUN_DIR / "pods",
                log_dir=self._logs,
                nodes=self._nodes,
                environment={"TIDEGATE_PODS_DIR": str(RUN_DIR / "pods")},
            ),
            self._addresses,
        )
        kubelet.start()
        self._exits.callback(kubelet.stop)
        for resource, obj in self._installed():
            api.apply(resource, obj, field_manager=FIELD_MANAGER)

    def _installed(self) -> list[tuple[Resource, Json]]:
        """What `kubectl apply -f live/deploy` would install, without the access rules, which the imitated server does not have."""
        (controller,) = (document.json() for document in read_documents(DEPLOY / "controller.yaml"))
        controller["spec"]["template"]["spec"]["containers"][0]["args"] = ["controller", "--dataplane", self._dataplane]
        (endpoint,) = (document.json() for document in read_documents(DEPLOY / "endpoint.yaml"))
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": controller["metadata"]["namespace"]}}
        return [(NAMESPACES, namespace), (DEPLOYMENTS, controller), (DAEMON_SETS, endpoint)]

    def stop(self) -> None:
        """Ends what was started."""
        self._exits.close()
