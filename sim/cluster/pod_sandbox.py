"""What a Pod lives in: its host in the virtual network, its addresses, its private mounts, and where others find its namespace."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import DataplaneError
from core.kube import Json
from sim.cluster.cluster_network import ClusterNetwork
from sim.cluster.ipam import Addresses
from sim.cluster.multus import Multus, PodInterface
from sim.net.node import NetworkHost
from sim.net.topology import Attachment, VirtualNetwork

FURNISH_DEADLINE_S = 10
POD_KUBECONFIG = Path("/run/kubeconfig")

KubeconfigOf = Callable[[Json], Path]
"""The kubeconfig file of a Pod, as its own ServiceAccount; may raise ApiError. Asked when the Pod's place is made."""

# A Pod's own, empty /run with its kubeconfig, and its own bpffs where the kernel grants one: as in a cluster, two Pods that write to
# the same path do not meet. The folder is filled first, because the mount hides where the file comes from.
_FURNISH = """set -e
mount -n -t tmpfs -o mode=755 none /mnt
cp "$1" /mnt/kubeconfig
mount -n --move /mnt /run
mount -n -t bpf none /sys/fs/bpf 2>/dev/null || true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node: its number from 1, and its host in the virtual network, in which hostNetwork Pods run."""

    name: str
    number: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A Pod's place: `addresses` are those of the cluster's network (podIPs); `kubeconfig` is as its containers see it."""

    host: NetworkHost
    host_name: str
    interfaces: tuple[PodInterface, ...]
    addresses: tuple[str, ...]
    kubeconfig: Path = POD_KUBECONFIG


class Sandboxes:
    """Makes and removes the places of Pods."""

    def __init__(
        self,
        network: VirtualNetwork,
        cluster: ClusterNetwork,
        multus: Multus,
        *,
        pods_dir: Path,
        kubeconfig_of: KubeconfigOf,
    ) -> None:
        self._network = network
        self._cluster = cluster
        self._multus = multus
        self._addresses = Addresses()
        self._pods_dir = pods_dir
        self._kubeconfig_of = kubeconfig_of

    def plan(self, pod: Json, node: Node) -> tuple[PodInterface, ...]:
        """The interfaces of a Pod, the cluster's first, with addresses that are the Pod's until `remove`; none with hostNetwork.

        Raises:
            NetworkError: there is no such network, no address left, or the annotation is wrong.
            ApiError: the API did not answer.
        """
        if is_host_network(pod):
            return ()
        secondary = self._multus.plan(pod)
        interface = self._cluster.interface
        holder = (pod["metadata"]["uid"], interface)
        addresses = self._addresses.allocate(holder, self._cluster.pod_ipam(node.number), self._cluster.bridge)
        first = PodInterface(
            network=self._cluster.bridge,
            bridge=self._cluster.bridge,
            interface=interface,
            addresses=addresses,
            default=True,
        )
        return (first, *secondary)

    def make(self, pod: Json, node: Node, interfaces: Sequence[PodInterface], *, furnish: bool) -> Sandbox:
        """The Pod's host, attached, with its folder under `pods_dir`; its network status is published.

        Raises:
            DataplaneError: the kernel refused an interface or a mount; nothing is left behind.
            ApiError: the network status could not be written, or there are no credentials for the Pod.
        """
        if is_host_network(pod):
            host = self._network.host(node.name)
            kubeconfig = self._kubeconfig_of(pod)
            return Sandbox(
                host=host, host_name=node.name, interfaces=(), addresses=node.addresses, kubeconfig=kubeconfig
            )
        name = host_name(pod)
        host = self._network.add_host(name, [self._attachment(interface) for interface in interfaces])
        try:
            if furnish:
                _furnish(host, self._kubeconfig_of(pod))
            complete = tuple(
                replace(interface, mac=interface.mac or self._network.mac(name, interface.interface))
                for interface in interfaces
            )
            self._multus.publish(pod, complete)
            folder = self._pods_dir / pod["metadata"]["uid"]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "netns").unlink(missing_ok=True)
            (folder / "netns").symlink_to(host.namespace)
        except BaseException:
            self._network.remove_host(name)
            raise
        addresses = tuple(str(address.ip) for address in complete[0].addresses)
        return Sandbox(host=host, host_name=name, interfaces=complete, addresses=addresses)

    def remove(self, pod: Json, sandbox: Sandbox | None) -> None:
        """Takes the Pod's place away and frees its addresses.

        Raises:
            DataplaneError: not all of the place was there any more. It is gone, and the addresses are free, all the same.
        """
        uid = pod["metadata"]["uid"]
        try:
            if sandbox is not None and not is_host_network(pod):
                shutil.rmtree(self._pods_dir / uid, ignore_errors=True)
                self._network.remove_host(sandbox.host_name)
        finally:
            self._multus.release(uid)
            self._addresses.release(uid)

    def _attachment(self, interface: PodInterface) -> Attachment:
        return Attachment(
            network=interface.bridge,
            interface=interface.interface,
            addresses=interface.addresses,
            gateways=self._cluster.gateways if interface.default else (),
            mac=interface.mac,
        )


def is_host_network(pod: Json) -> bool:
    return bool(pod["spec"].get("hostNetwork"))


def host_name(pod: Json) -> str:
    """The name of a Pod's host: what `tidegate exec` takes. Namespaces other than `default` come first, as in ``kube-system/name``."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    return str(name) if namespace == "default" else f"{namespace}/{name}"


def _furnish(host: NetworkHost, kubeconfig: Path) -> None:
    mounting = host.popen(
        ["sh", "-c", _FURNISH, "furnish", str(kubeconfig)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        said = mounting.communicate(timeout=FURNISH_DEADLINE_S)[0].decode(errors="replace").strip()
    except subprocess.TimeoutExpired as error:
        mounting.kill()
        mounting.wait()
        raise DataplaneError(f"the mounts of {host.name} could not be made within {FURNISH_DEADLINE_S:g} s") from error
    finally:
        assert mounting.stdout is not None
        mounting.stdout.close()
    if mounting.returncode != 0:
        raise DataplaneError(f"the mounts of {host.name} could not be made: {said}")
