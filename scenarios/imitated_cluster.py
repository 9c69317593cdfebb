"""The imitated cluster of the virtual network: nodes and controllers around an API server, imitated or real; then what a person would
install on it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from core.kube import DAEMON_SETS, DEPLOYMENTS, NAMESPACES, Json, KubeApi, Resource
from scenarios.api_servers import DEPLOY, FIELD_MANAGER, make_api_server
from scenarios.spec import ApiServer
from scenarios.yamlsource import read_documents
from sim.cluster.cluster_network import ClusterNetwork
from sim.cluster.kubelet import Kubelet, KubeletSettings, default_command
from sim.cluster.workloads import Workloads
from sim.net.sandbox import RUN_DIR
from sim.net.topology import VirtualNetwork

PODS_DIR = RUN_DIR / "pods"


class ImitatedCluster:
    """Parts that are started one after the other, and stopped in reverse."""

    def __init__(
        self,
        network: VirtualNetwork,
        *,
        logs: Path,
        nodes: int,
        dataplane: str,
        api: ApiServer = ApiServer.IMITATED,
        allow_faults: bool = False,
    ) -> None:
        """`allow_faults`: the imitated API server takes orders to misbehave (sim.cluster.apimachinery.faults).

        Raises MachineError when this machine lacks what `api` takes.
        """
        self._network = network
        self._logs = logs
        self._nodes = tuple(f"node-{number}" for number in range(1, nodes + 1))
        self._dataplane = dataplane
        self._addresses = ClusterNetwork()
        self._exits = ExitStack()
        self._api_server = make_api_server(
            api, network, run_dir=RUN_DIR, log_dir=logs, cluster=self._addresses, allow_faults=allow_faults
        )
        self._kubelet: Kubelet | None = None

    def start_api_server(self) -> Path:
        """Starts the API server; returns the kubeconfig when it answers."""
        self._exits.callback(self._api_server.stop)
        self._api_server.start()
        return self._api_server.kubeconfig

    def start(self, api: KubeApi) -> None:
        """Nodes, workload controllers, and Tidegate itself: CRDs, controller, endpoint agents."""
        self._api_server.prepare(api)
        workloads = Workloads(api)
        workloads.start()
        self._exits.callback(workloads.stop)
        kubelet = Kubelet(
            api,
            self._network,
            KubeletSettings(
                tidegate=default_command(),
                kubeconfig=self._api_server.kubeconfig,
                kubeconfig_of=self._api_server.kubeconfig_of(api, PODS_DIR),
                pods_dir=PODS_DIR,
                log_dir=self._logs,
                nodes=self._nodes,
                environment={"TIDEGATE_PODS_DIR": str(PODS_DIR)},
            ),
            self._addresses,
        )
        self._kubelet = kubelet
        kubelet.start()
        self._exits.callback(kubelet.stop)
        for resource, obj in self._installed():
            api.apply(resource, obj, field_manager=FIELD_MANAGER)

    def _installed(self) -> list[tuple[Resource, Json]]:
        """What `kubectl apply -f live/deploy` would install beside CRDs and access rules."""
        (controller,) = (document.json() for document in read_documents(DEPLOY / "controller.yaml"))
        controller["spec"]["replicas"] = 1  # a standby would cost memory, and no node is ever lost
        controller["spec"]["template"]["spec"]["containers"][0]["args"] += ["--dataplane", self._dataplane]
        (endpoint,) = (document.json() for document in read_documents(DEPLOY / "endpoint.yaml"))
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": controller["metadata"]["namespace"]}}
        return [(NAMESPACES, namespace), (DEPLOYMENTS, controller), (DAEMON_SETS, endpoint)]

    def pids(self, host: str) -> Mapping[str, int]:
        """The PIDs of a Pod's containers by name; see `Kubelet.pids`. Raises KeyError when no such Pod runs."""
        if self._kubelet is None:
            raise KeyError(host)
        return self._kubelet.pids(host)

    def stop(self) -> None:
        """Ends what was started."""
        self._exits.close()
