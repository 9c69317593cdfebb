"""Multus and whereabouts, imitated: a Pod's annotation becomes interfaces of the virtual network, and its status says which.

Called by the imitated kubelet when it makes and removes a Pod's namespace, as the CNI plugin is in a cluster. It writes the same
annotation `k8s.v1.cni.cncf.io/network-status`, through the Pod's status subresource. Modelled: which networks, addresses and names.
Not modelled: routes and DNS of networks, delegated default networks, CNI versions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core import names
from core.kube import NETWORKS, PODS, Informer, Json, KubeApi, ObjectName
from sim.cluster.ipam import Addresses
from sim.cluster.networks import (
    IpInterface,
    NetworkConfig,
    NetworkError,
    NetworkRequest,
    parse_annotation,
    parse_config,
)

FIELD_MANAGER = "multus"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInterface:
    """One interface of a Pod: what the virtual network is to make, and what the Pod's network status says.

    `network` is ``namespace/name`` of the NetworkAttachmentDefinition, or the name of the cluster's own network; `mac` None means the
    virtual network's choice.
    """

    network: str
    bridge: str
    interface: str
    addresses: tuple[IpInterface, ...]
    mac: str | None = None
    default: bool = False


class Multus:
    """Plans the secondary interfaces of Pods and publishes what became of them."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._networks: Informer | None = None
        self._addresses = Addresses()

    def start(self, on_change: Callable[[ObjectName], None]) -> None:
        """Follows the networks; `on_change` hears of every one that changes."""
        self._networks = self._api.watch(NETWORKS, on_change)

    def plan(self, pod: Json) -> tuple[PodInterface, ...]:
        """The secondary interfaces of a Pod, with addresses that it holds from now on until `release`.

        Raises:
            NetworkError: the annotation, a network or a range is at fault. The Pod then holds nothing.
            ApiError: the API did not answer.
        """
        metadata = pod["metadata"]
        annotation = (metadata.get("annotations") or {}).get(names.POD_NETWORKS, "")
        requests = parse_annotation(annotation, metadata["namespace"])
        try:
            return tuple(self._interface(metadata["uid"], request) for request in requests)
        except NetworkError:
            self.release(metadata["uid"])
            raise

    def release(self, pod_uid: str) -> None:
        """Frees the Pod's addresses."""
        self._addresses.release(pod_uid)

    def publish(self, pod: Json, interfaces: Sequence[PodInterface]) -> None:
        """Writes the network status. Every interface must have its MAC.

        Raises:
            ApiError: the API refused; 404 when the Pod is gone.
        """
        metadata = pod["metadata"]
        status = json.dumps([network_status(interface) for interface in interfaces], separators=(",", ":"))
        wanted = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "annotations": {names.NETWORK_STATUS: status},
            },
        }
        self._api.apply(PODS, wanted, field_manager=FIELD_MANAGER, subresource="status")

    def _interface(self, pod_uid: str, request: NetworkRequest) -> PodInterface:
        network = f"{request.namespace}/{request.name}"
        known = self._networks.objects() if self._networks is not None else {}
        # A network that was created a moment ago may not have been told of yet.
        definition = known.get((request.namespace, request.name)) or self._api.get(
            NETWORKS, request.namespace, request.name
        )
        if definition is None:
            raise NetworkError("NetworkNotFound", f"there is no NetworkAttachmentDefinition {network}")
        config = parse_config(definition)
        return PodInterface(
            network=network,
            bridge=config.bridge,
            interface=request.interface,
            addresses=request.addresses or self._allocate(pod_uid, request, config, network),
            mac=request.mac,
        )

    def _allocate(
        self, pod_uid: str, request: NetworkRequest, config: NetworkConfig, network: str
    ) -> tuple[IpInterface, ...]:
        return self._addresses.allocate((pod_uid, request.interface), config.ipam, network)


def network_status(interface: PodInterface) -> Json:
    """One element of the network status. Source: the de-facto standard, section 3.5."""
    status: Json = {"name": interface.network, "interface": interface.interface}
    if interface.addresses:
        status["ips"] = [str(address.ip) for address in interface.addresses]
    if interface.mac is not None:
        status["mac"] = interface.mac
    if interface.default:
        status["default"] = True
    return {**status, "dns": {}}
