"""The picture of a run's topology as data: who stands on which network with which addresses.

The cluster's own network is left out: everything is on it, and nothing of a virtual address passes over it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.kube import Json
from core.manifests import parse_object
from core.model import Pod
from core.names import PROXY_NAME
from scenarios.predict import plan_of
from scenarios.spec import Scenario

CLUSTER_INTERFACE = "eth0"
"""A Pod's interface on the cluster's own network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A router outside, a gateway pod or an application pod."""

    name: str
    role: str
    """``router``, ``gateway`` or ``target``."""
    lines: tuple[str, ...]
    """What stands under the name."""
    networks: Mapping[str, tuple[str, ...]]
    """Network -> addresses on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyView:
    hosts: tuple[Host, ...]
    vips: tuple[str, ...]

    def of_role(self, role: str) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.role == role)

    def networks_of(self, *roles: str) -> tuple[str, ...]:
        """The networks on which hosts of all of these roles stand."""
        sets = [{name for host in self.of_role(role) for name in host.networks} for role in roles]
        return tuple(sorted(set.intersection(*sets))) if sets else ()


def view(scenario: Scenario, objects: Iterable[Json]) -> TopologyView:
    """The topology of a scenario with the objects that its cluster has."""
    objects = list(objects)
    whole = plan_of(objects)
    gateways = {planned.gateway.meta.ref.name: planned for planned in whole.gateways}
    vlans = dict(_vlans(objects))
    hosts = [
        Host(
            name=router.name,
            role="router",
            lines=(f"AS {router.asn}", *(str(prefix) for prefix in router.client_addresses)),
            networks={vlans.get(router.vlan, f"VLAN {router.vlan}"): tuple(str(a.ip) for a in router.addresses)},
        )
        for router in scenario.topology.routers
    ]
    serving = {endpoint.pod for slice_ in whole.slices for endpoint in slice_.endpoints}
    for pod in _pods(objects):
        networks = {
            status.name: tuple(map(str, status.addresses))
            for status in pod.networks
            if status.addresses and status.interface != CLUSTER_INTERFACE
        }
        owner = gateways.get(pod.meta.labels.get(PROXY_NAME, ""))
        if owner is not None:
            hosts.append(Host(name=pod.meta.name, role="gateway", lines=(), networks=networks))
        elif pod.meta.name in serving:
            hosts.append(Host(name=pod.meta.name, role="target", lines=(), networks=networks))
    return TopologyView(hosts=tuple(hosts), vips=tuple(str(vip) for planned in whole.gateways for vip in planned.vips))


def _pods(objects: Iterable[Json]) -> Iterator[Pod]:
    found = (parse_object(obj) for obj in objects if obj.get("kind") == "Pod")
    yield from sorted((pod for pod in found if isinstance(pod, Pod) and not pod.terminal), key=lambda pod: pod.meta.ref)


def _vlans(objects: Iterable[Json]) -> Iterator[tuple[int, str]]:
    """VLAN -> the name of its NetworkAttachmentDefinition."""
    for obj in objects:
        if obj.get("kind") == "NetworkAttachmentDefinition":
            config: Any = json.loads(obj["spec"]["config"])
            if config.get("type") == "vlan":
                yield int(config["vlanId"]), str(obj["metadata"]["name"])
