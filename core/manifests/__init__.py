"""Kubernetes JSON to the model and back: the only place that knows the JSON. What is wrong with an object is a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from core.kube import Json
from core.manifests import gateways, routes, workload_objects
from core.manifests.fields import Reader
from core.manifests.meta import read_meta
from core.model import KubeObject
from core.objects import Objects, Rejected
from core.problems import FieldProblem

_READERS: dict[tuple[str, str], Callable[[Reader], KubeObject | Rejected]] = {
    ("gateway.networking.k8s.io", "GatewayClass"): gateways.gateway_class,
    ("gateway.networking.k8s.io", "Gateway"): gateways.gateway,
    ("gateway.networking.k8s.io", "TCPRoute"): routes.layer4_route,
    ("gateway.networking.k8s.io", "UDPRoute"): routes.layer4_route,
    ("gateway.networking.k8s.io", "ReferenceGrant"): routes.reference_grant,
    ("l34.gateway.api.poc", "L34Route"): routes.l34_route,
    ("l34.gateway.api.poc", "GatewayRouter"): gateways.gateway_router,
    ("", "Service"): workload_objects.service,
    ("", "Pod"): workload_objects.pod,
    ("", "Namespace"): workload_objects.namespace,
    ("discovery.k8s.io", "EndpointSlice"): workload_objects.endpoint_slice,
}


def parse_object(obj: Json) -> KubeObject | Rejected | None:
    """The model of one Kubernetes object: Rejected, with every problem, when it cannot be understood; None when it is of a kind that
    a plan does not read. Objects without a namespace are in ``default``.
    """
    group = str(obj.get("apiVersion", "")).rpartition("/")[0]
    read = _READERS.get((group, str(obj.get("kind", ""))))
    if read is None:
        return None
    meta, problems = read_meta(obj)
    reader = Reader(meta.ref, obj, problems=problems)
    result = read(reader)
    if reader.problems and not isinstance(result, Rejected):
        return Rejected(
            meta=meta,
            problems=tuple(reader.problems),
            parents=getattr(result, "parents", ()),
            class_name=getattr(result, "class_name", ""),
        )
    return result


def parse(objects: Iterable[Json]) -> tuple[Objects, tuple[FieldProblem, ...]]:
    """The model of all objects, and every problem of those that were rejected."""
    items = [item for item in map(parse_object, objects) if item is not None]
    found = Objects.of(items)
    return found, tuple(problem for rejected in found.rejected for problem in rejected.problems)
