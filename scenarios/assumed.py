"""Pods that a plan without a cluster assumes: what the Deployments of the manifests, and the gateways, would have once all is up.

Names are made up. Addresses are the first free ones, as the imitated cluster gives them. Slots are what they would be: they follow
from the order of the Pods. Everything is deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from core import names
from core.kube import DEPLOYMENTS, ENDPOINT_SLICES, NETWORKS, PODS, Json, Resource
from core.manifests import parse
from core.model import ObjectRef
from core.plan import plan
from sim.cluster.ipam import Addresses
from sim.cluster.networks import (
    Ipam,
    IpInterface,
    NetworkError,
    NetworkRequest,
    NoIpam,
    parse_annotation,
    parse_ipam,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """Pods that were assumed: of what, and how many."""

    of: str
    pods: int

    def __str__(self) -> str:
        return f"{self.pods} pods of {self.of}"


def with_assumed_pods(objects: list[Json]) -> tuple[list[Json], tuple[Assumption, ...]]:
    """`objects` and the Pods that they would lead to, ready and attached; nothing is assumed when there are Pods or EndpointSlices."""
    if _of(objects, PODS, ENDPOINT_SLICES):
        return objects, ()
    networks = _Networks(objects)
    pods: list[Json] = []
    assumptions: list[Assumption] = []
    for deployment in _of(objects, DEPLOYMENTS):
        made = list(_deployment_pods(deployment, networks))
        pods += made
        assumptions.append(Assumption(of=f"Deployment {_namespace(deployment)}/{_name(deployment)}", pods=len(made)))
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


class _Networks:
    """The NetworkAttachmentDefinitions, and which of their addresses are taken. What a cluster could not set up has no addresses;
    `validate` names the problem."""

    def __init__(self, objects: Iterable[Json]) -> None:
        self._addresses = Addresses()
        self._ipam: dict[tuple[str, str], Ipam] = {}
        for obj in _of(objects, NETWORKS):
            with suppress(NetworkError):
                self._ipam[(_namespace(obj), _name(obj))] = parse_ipam(obj)

    def attach(self, pod: str, namespace: str, annotations: Mapping[str, str]) -> list[Json]:
        """The network-status of a Pod with these annotations."""
        try:
            requests = parse_annotation(annotations.get(names.POD_NETWORKS, ""), namespace)
        except NetworkError:
            return []
        return [
            {
                "name": f"{request.namespace}/{request.name}",
                "interface": request.interface,
                "ips": [str(address.ip) for address in self._of_request(f"{namespace}/{pod}", request)],
            }
            for request in requests
        ]

    def _of_request(self, pod: str, request: NetworkRequest) -> tuple[IpInterface, ...]:
        ipam = self._ipam.get((request.namespace, request.name), NoIpam())
        try:
            return request.addresses or self._addresses.allocate((pod, request.interface), ipam, request.name)
        except NetworkError:
            return ()


def _of(objects: Iterable[Json], *resources: Resource) -> list[Json]:
    """Those of some kinds, in any version."""
    kinds = {(resource.group, resource.kind) for resource in resources}
    return [obj for obj in objects if (str(obj.get("apiVersion", "")).rpartition("/")[0], obj.get("kind")) in kinds]
