"""The kubelets: Pods that are bound to nodes get networks, run what their images stand for, become ready, and end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from core import names
from core.kube import NODES, PODS, Json
from sim.cluster.cluster_network import ClusterNetwork
from sim.cluster.images import ContainerError
from sim.cluster.ipam import Addresses
from sim.cluster.multus import PodInterface, network_status
from sim.cluster.networks import NetworkConfig, NetworkError, parse_annotation, parse_config
from sim.cluster.pod_status import ContainerStatus, PodFacts, Running, Waiting, render_status
from sim.des.api import Api
from sim.des.fabric import Fabric, PodPlace
from sim.des.kernel import Kernel, Process, Signal
from sim.des.latencies import Latencies
from sim.des.seen import Key

CLIENT = "kubelet"
MULTUS = "multus"
SANDBOX_RETRY_S = 1.0
"""A Pod whose networks cannot be set up is tried again: the testbed's first retries."""


class Program(Protocol):
    """What the containers of a Pod do, from their start."""

    start_s: float
    """From the sandbox to its first deed."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


TellReady = Callable[[bool], None]
"""Called by a program: it is ready, or not any more."""
MakeProgram = Callable[[PodPlace, TellReady], Program]


class Nodes:
    """All kubelets, Multus and whereabouts.

    Models: addresses of Pods by the rules of the testbed (the lowest free one, in the order of Pods), network status, phases, readiness
    by probes, the end of a deleted Pod. Does not model: containers one by one, restarts, init containers, probes that fail at random.
    """

    def __init__(
        self,
        kernel: Kernel,
        api: Api,
        latencies: Latencies,
        fabric: Fabric,
        program_of: Callable[[Json], MakeProgram],
    ) -> None:
        self.kernel, self.api, self.latencies, self.fabric, self.program_of = (
            kernel,
            api,
            latencies,
            fabric,
            program_of,
        )
        self.addresses = Addresses()
        self._cluster = ClusterNetwork()
        self._numbers: dict[str, int] = {}
        self._runs: dict[Key, _Run] = {}
        self._configs: dict[str, tuple[Json, NetworkConfig]] = {}
        api.watch(["Pod"], self._pods_changed, client=CLIENT)

    def add(self, name: str) -> None:
        """One more node, ready."""
        number = self._numbers[name] = len(self._numbers) + 1
        cidrs = self._cluster.pod_cidrs(number)
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
            "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": self.kernel.wall()}]},
        }
        self.api.apply(NODES, node, client=CLIENT)

    def _pods_changed(self, keys: Sequence[Key]) -> None:
        for key in dict.fromkeys(keys):
            pod = self.api.seen.get(*key)
            run = self._runs.get(key)
            if run is not None and (pod is None or pod["metadata"]["uid"] != run.uid):
                self._runs.pop(key).delete()
                run = None
            if pod is None:
                continue
            if run is None and pod["spec"].get("nodeName") in self._numbers:
                run = self._runs[key] = _Run(self, pod)
            if run is not None and "deletionTimestamp" in pod["metadata"]:
                run.delete()

    # --- what a Pod's run needs ---------------------------------------------------------------------------------------------------

    def plan(self, pod: Json) -> tuple[PodInterface, ...]:
        """The interfaces of a Pod, the cluster's first; none with hostNetwork. Raises NetworkError; the Pod then holds nothing."""
        if pod["spec"].get("hostNetwork"):
            return ()
        metadata = pod["metadata"]
        uid, number = metadata["uid"], self._numbers[pod["spec"]["nodeName"]]
        cluster = self._cluster
        try:
            annotation = (metadata.get("annotations") or {}).get(names.POD_NETWORKS, "")
            secondary = []
            for request in parse_annotation(annotation, metadata["namespace"]):
                network = f"{request.namespace}/{request.name}"
                config = self._config(request.namespace, request.name)
                addresses = request.addresses or self.addresses.allocate((uid, request.interface), config.ipam, network)
                secondary.append(
                    PodInterface(
                        network=network, bridge=config.bridge, interface=request.interface, addresses=addresses
                    )
                )
            own = self.addresses.allocate((uid, cluster.interface), cluster.pod_ipam(number), cluster.bridge)
        except NetworkError:
            self.addresses.release(uid)
            raise
        first = PodInterface(
            network=cluster.bridge, bridge=cluster.bridge, interface=cluster.interface, addresses=own, default=True
        )
        return (first, *secondary)

    def _config(self, namespace: str, name: str) -> NetworkConfig:
        key = f"{namespace}/{name}"
        definition = self.api.get("NetworkAttachmentDefinition", namespace, name)
        if definition is None:
            raise NetworkError("NetworkNotFound", f"there is no NetworkAttachmentDefinition {key}")
        known = self._configs.get(key)
        if known is None or known[0] is not definition:
            known = self._configs[key] = (definition, parse_config(definition))
        return known[1]

    def node_addresses(self, node: str) -> tuple[str, ...]:
        return tuple(str(address.ip) for address in self._cluster.node(self._numbers[node]))


class _Run:
    """One Pod from its binding to its end."""

    def __init__(self, nodes: Nodes, pod: Json) -> None:
        self._nodes = nodes
        self._kernel, self._api, self._latencies = nodes.kernel, nodes.api, nodes.latencies
        metadata = pod["metadata"]
        self._pod = pod
        self._place = PodPlace(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            node=pod["spec"]["nodeName"],
        )
        self._ready = False
        self._seen_ready = False
        self._program: Program | None = None
        self._deleted = Signal(self._kernel)
        self._ending = False
        self._published: Json = {}
        self._started_s = self._kernel.epoch_s()
        self._problem = self._plan()
        self._kernel.start(self._run())

    @property
    def uid(self) -> str:
        return self._place.uid

    def delete(self) -> None:
        """The Pod is to end."""
        if not self._ending:
            self._ending = True
            self._kernel.under_way += 1
            self._deleted.fire()

    def _plan(self) -> Waiting | None:
        """Addresses are taken when the Pod is seen, so that they depend on the order of Pods only."""
        try:
            self._place.interfaces = self._nodes.plan(self._pod)
        except NetworkError as error:
            return Waiting(reason="FailedCreatePodSandBox", message=str(error))
        return None

    def _run(self) -> Process:
        self._kernel.under_way += 1
        while self._problem is not None and not self._ending:
            self._publish(Waiting(reason="ContainerCreating"))
            self._kernel.under_way -= 1
            yield self._kernel.after(SANDBOX_RETRY_S) | self._deleted.next
            self._kernel.under_way += 1
            self._problem = self._plan()
        yield from self._come_up()
        self._kernel.under_way -= 1
        if not self._ending:
            yield self._deleted.next
        if self._program is not None:
            self._program.stop()
        yield self._kernel.after(self._latencies.terminate_s)
        self._nodes.fabric.remove(self._place)
        self._nodes.addresses.release(self._place.uid)
        self._api.delete(PODS, self._place.namespace, self._place.name, now=True, client=CLIENT)
        self._kernel.under_way -= 1

    def _come_up(self) -> Process:
        if self._ending:
            return
        yield self._kernel.after(self._latencies.sandbox_s)
        if self._ending:
            return
        self._publish_networks()
        self._nodes.fabric.add(self._place)
        try:
            make = self._nodes.program_of(self._pod)
        except ContainerError as error:
            self._publish(Waiting(reason=error.reason, message=str(error)))
            return
        self._publish(Waiting(reason="ContainerCreating"))
        self._program = make(self._place, self._told_ready)
        yield self._kernel.after(self._program.start_s)
        if self._ending:
            self._program = None
            return
        self._program.start()
        if not self._seen_ready:
            self._publish(Running(since_s=self._kernel.epoch_s()))

    def _told_ready(self, ready: bool) -> None:
        if ready == self._ready:
            return
        self._ready = ready
        probed = any(container.get("readinessProbe") for container in self._pod["spec"]["containers"])
        if ready and not probed:
            self._see_ready()
        else:
            self._kernel.later(self._latencies.probe_s if ready else self._latencies.unready_s, self._see_ready)

    def _see_ready(self) -> None:
        if self._ready != self._seen_ready and not self._ending:
            self._seen_ready = self._ready
            self._publish(Running(since_s=self._kernel.epoch_s()))

    def _publish_networks(self) -> None:
        if self._place.interfaces:
            status = json.dumps([network_status(one) for one in self._place.interfaces], separators=(",", ":"))
            self._apply({"annotations": {names.NETWORK_STATUS: status}}, {}, MULTUS)

    def _publish(self, state: Waiting | Running) -> None:
        place, host = self._place, self._nodes.node_addresses(self._place.node)
        own = tuple(str(a.ip) for a in place.interfaces[0].addresses) if place.interfaces else ()
        facts = PodFacts(
            containers=tuple(
                ContainerStatus(
                    name=container["name"], image=container.get("image") or "", state=state, ready=self._seen_ready
                )
                for container in self._pod["spec"]["containers"]
            ),
            restart_policy="Always",
            started_s=self._started_s,
            pod_ips=host if self._pod["spec"].get("hostNetwork") else own,
            host_ips=host,
            problem=self._problem,
        )
        status = render_status(facts, self._published.get("conditions", ()), self._kernel.epoch_s())
        if status != self._published:
            self._published = status
            self._apply({}, {"status": status}, CLIENT)

    def _apply(self, metadata: Mapping[str, object], body: Json, client: str) -> None:
        place = self._place
        if self._api.get("Pod", place.namespace, place.name) is not None:
            head = {"name": place.name, "namespace": place.namespace, "uid": place.uid, **metadata}
            self._api.apply(PODS, {"metadata": head, **body}, client=client, subresource="status")
