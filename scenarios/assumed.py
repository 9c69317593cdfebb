"""Pods that a plan without a cluster assumes: what the Deployments of the manifests, and the gateways, would have once all is up.

Names and addresses are made up (the first free ones of each network's range); slots are what they would be, since they follow from the
order of the Pods. Everything is deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from core import names
from core.kube import Json
from core.manifests import parse
from core.manifests.fields import Reader
from core.manifests.meta import network_selections
from core.model import Address, ObjectRef
from core.plan import plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """Pods that were assumed: of what, and how many."""

    of: str
    pods: int

    def __str__(self) -> str:
        return f"{self.pods} pods of {self.of}"


def with_assumed_pods(objects: list[Json]) -> tuple[list[Json], tuple[Assumption, ...]]:
    """`objects` and the Pods that they would lead to, ready and attached; nothing is assumed when there are Pods or EndpointSlices."""
    if any(obj.get("kind") in ("Pod", "EndpointSlice") for obj in objects):
        return objects, ()
    networks = _Networks(objects)
    pods: list[Json] = []
    assumptions: list[Assumption] = []
    for deployment in objects:
        if deployment.get("kind") == "Deployment":
            made = list(_deployment_pods(deployment, networks))
            pods += made
            assumptions.append(
                Assumption(of=f"Deployment {_namespace(deployment)}/{_name(deployment)}", pods=len(made))
            )
    for planned in plan(parse(objects)[0]).gateways:
        gateway = planned.gateway
        if planned.class_ != names.STATELESS_LOAD_BALANCER:
            continue  # nothing of ours makes the pods of the other classes yet
        made = [
            _pod(
                f"{gateway.meta.name}-{i}",
                gateway.meta.namespace,
                {names.PROXY_NAME: gateway.meta.name, names.GATEWAY_NAME: gateway.meta.name},
                dict(gateway.infrastructure_annotations),
                networks,
            )
            for i in range(1, gateway.replicas + 1)
        ]
        pods += made
        assumptions.append(Assumption(of=str(gateway.meta.ref), pods=len(made)))
    return _attach(objects, pods), tuple(a for a in assumptions if a.pods)


def _attach(objects: list[Json], pods: list[Json]) -> list[Json]:
    """The Pods hold every VIP that they should."""
    attachments = plan(parse([*objects, *pods])[0]).attachments
    for pod in pods:
        wanted = attachments.get(ObjectRef(kind="Pod", namespace=_namespace(pod), name=_name(pod)), ())
        vips = sorted({str(vip) for attachment in wanted for vip in attachment.vips})
        if vips:
            pod["metadata"]["annotations"][names.ATTACHED] = json.dumps(vips)
    return [*objects, *pods]


def _namespace(obj: Json) -> str:
    return str((obj.get("metadata") or {}).get("namespace") or "default")


def _name(obj: Json) -> str:
    return str((obj.get("metadata") or {}).get("name") or "")


def _deployment_pods(deployment: Json, networks: _Networks) -> Iterator[Json]:
    spec = deployment.get("spec") if isinstance(deployment.get("spec"), dict) else {}
    template = (spec or {}).get("template")
    metadata = template.get("metadata") if isinstance(template, dict) else None
    if not isinstance(metadata, dict):
        return
    replicas = (spec or {}).get("replicas", 1)
    for i in range(1, (replicas if isinstance(replicas, int) else 1) + 1):
        labels, annotations = _texts(metadata.get("labels")), _texts(metadata.get("annotations"))
        yield _pod(f"{_name(deployment)}-{i}", _namespace(deployment), labels, annotations, networks)


def _texts(found: object) -> dict[str, str]:
    """A map of strings, without what is none; `validate` names the problem."""
    items = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in items if isinstance(value, str)}


def _pod(name: str, namespace: str, labels: dict[str, str], annotations: dict[str, str], networks: _Networks) -> Json:
    annotations[names.NETWORK_STATUS] = json.dumps(networks.attach(name, namespace, annotations))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"assumed-{namespace}-{name}",
            "labels": labels,
            "annotations": annotations,
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


@dataclass(slots=True)
class _Networks:
    """The NetworkAttachmentDefinitions, and which of their addresses are taken."""

    objects: Iterable[Json]
    taken: dict[tuple[str, str], set[Address]] = field(default_factory=dict)
    definitions: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for obj in self.objects:
            if obj.get("kind") == "NetworkAttachmentDefinition":
                try:
                    config = json.loads(obj["spec"]["config"])
                except (KeyError, TypeError, ValueError, RecursionError):
                    continue  # a plan goes on without the network; `validate` names the problem
                if isinstance(config, dict):
                    self.definitions[(_namespace(obj), _name(obj))] = config

    def attach(self, pod: str, namespace: str, annotations: Mapping[str, str]) -> list[Json]:
        """The network-status of a Pod with these annotations."""
        reader = Reader(ObjectRef(kind="Pod", namespace=namespace, name=pod), {}, ("metadata", "annotations"))
        statuses: list[Json] = []
        for i, selection in enumerate(
            network_selections(reader, names.POD_NETWORKS, annotations.get(names.POD_NETWORKS, "")), 1
        ):
            key = (selection.namespace, selection.name)
            statuses.append(
                {
                    "name": f"{selection.namespace}/{selection.name}",
                    "interface": selection.interface or f"net{i}",
                    "ips": [str(address) for address in self._addresses(key)],
                }
            )
        return statuses

    def _addresses(self, key: tuple[str, str]) -> Iterator[Address]:
        """The first free address of each range."""
        taken = self.taken.setdefault(key, set())
        for range_ in _ranges(self.definitions.get(key, {})):
            free = next((address for address in range_ if address not in taken), None)
            if free is not None:
                taken.add(free)
                yield free


def _ranges(config: Mapping[str, Any]) -> Iterator[Iterator[Address]]:
    """The assignable addresses of each range of a whereabouts or host-local configuration."""
    ipam = config.get("ipam")
    if not isinstance(ipam, dict):
        return
    ranges = ipam.get("ipRanges", [ipam] if "range" in ipam else [])
    for range_ in ranges if isinstance(ranges, list) else []:
        try:
            # whereabouts also writes "192.0.2.10-192.0.2.20/24"
            first, _, last = str(range_["range"]).partition("-")
            network = ip_network(last or first, strict=False)
            start = ip_address(first) if last else ip_address(range_.get("range_start", network.network_address))
            excluded = [ip_network(text) for text in range_.get("exclude", [])]
        except (KeyError, TypeError, ValueError):
            continue  # likewise
        yield (address for address in network.hosts() if address >= start and not any(address in e for e in excluded))  # type: ignore[operator] # one family
