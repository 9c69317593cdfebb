"""What each component asks of the Kubernetes API, from what its code says that it reads and writes: not from live/deploy/rbac.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from core import kube
from core.kube import Resource
from live.agent import load_balancer

EVERYWHERE: Final = ""
"""The scope of who may be asked about objects of any namespace, and of kinds that have none."""
GATEWAYS_NAMESPACE: Final = "default"
OWN_NAMESPACE: Final = "tidegate-system"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One verb on one resource, or subresource after a slash, in a namespace or everywhere."""

    verb: str
    group: str
    resource: str
    scope: str = EVERYWHERE


def right(verb: str, resource: Resource, subresource: str = "", scope: str = EVERYWHERE) -> Right:
    return Right(verb, resource.group, "/".join(filter(None, (resource.plural, subresource))), scope)


def followed(resources: Iterable[Resource], scope: str = EVERYWHERE) -> frozenset[Right]:
    """What an informer asks for (core.reflector: a list, then watches)."""
    return frozenset(right(verb, resource, scope=scope) for resource in resources for verb in ("list", "watch"))


def applied(resource: Resource) -> frozenset[Right]:
    """Server-side apply where there may be no object yet."""
    return frozenset({right("patch", resource), right("create", resource)})


STATUSES: Final = (
    kube.GATEWAY_CLASSES,
    kube.GATEWAYS,
    kube.L34_ROUTES,
    kube.TCP_ROUTES,
    kube.UDP_ROUTES,
    kube.GATEWAY_ROUTERS,
)

CONTROLLER: Final = (
    followed((*kube.PLANNED_FROM, kube.DEPLOYMENTS))
    | applied(kube.DEPLOYMENTS)  # Controller._workloads
    | applied(kube.ENDPOINT_SLICES)  # Controller._slices
    | {right("delete", kube.ENDPOINT_SLICES)}  # Controller._remove_slice
    | {right("delete", kube.DEPLOYMENTS)}  # Controller._remove_workload
    | {right("patch", kube.PODS, "status")}  # Controller._attachments
    | {right("patch", resource, "status") for resource in STATUSES}  # Controller._statuses
    | applied(kube.EVENTS)
    | {right("get", kube.EVENTS)}  # Controller._tell
    | {right(verb, kube.LEASES, scope=OWN_NAMESPACE) for verb in ("get", "create", "update")}  # live.leader.Candidate
    # blockOwnerDeletion in the owner references of core.manifests.render.endpoint_slice and core.manifests.workloads.workload
    | {right("update", kube.SERVICES, "finalizers"), right("update", kube.GATEWAYS, "finalizers")}
)
LOAD_BALANCER: Final = followed(load_balancer.READ)
ROUTER: Final = (
    followed((kube.GATEWAYS, kube.GATEWAY_ROUTERS), GATEWAYS_NAMESPACE)  # live.agent.router.main
    | {right("patch", kube.GATEWAY_ROUTERS, "status", GATEWAYS_NAMESPACE)}  # Router._report
    | {right("get", kube.SECRETS, scope=GATEWAYS_NAMESPACE)}  # Router._password
)
ENDPOINT: Final = followed((kube.PODS,)) | {right("patch", kube.PODS, "status")}  # EndpointAgent._report

NEEDS: Final = {
    "system:serviceaccount:tidegate-system:tidegate-controller": CONTROLLER,
    f"system:serviceaccount:{GATEWAYS_NAMESPACE}:tidegate-gateway": LOAD_BALANCER | ROUTER,
    "system:serviceaccount:tidegate-system:tidegate-endpoint": ENDPOINT,
}


def covers(rights: Iterable[Right], wanted: Right) -> bool:
    """Whether one of `rights` is `wanted`, there or everywhere."""
    return not {wanted, Right(wanted.verb, wanted.group, wanted.resource)}.isdisjoint(rights)
