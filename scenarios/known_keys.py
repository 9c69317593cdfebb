"""The keys that the kinds of a plan know, so that a misspelt one is found before a cluster drops it silently.

Our own kinds are described by their CRDs; those of Gateway API by the tables here. Source: Gateway API v1.6.1, standard channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Union

import live
from core.errors import Problem
from core.kube import ALL_RESOURCES
from scenarios.decode import nearest
from scenarios.yamlsource import Node, read_documents

Keys = Union[Mapping[str, "Keys"], None]  # noqa: UP007  (a string has no |)
"""Key -> the keys below it; None: anything. A list has the keys of its elements."""

CRDS = Path(live.__file__ or "").parent / "deploy" / "crds"

_PARENT: Keys = dict.fromkeys(("group", "kind", "name", "namespace", "port", "sectionName"))
_BACKEND: Keys = dict.fromkeys(("group", "kind", "name", "namespace", "port", "weight"))
_SELECTOR: Keys = {"matchLabels": None, "matchExpressions": dict.fromkeys(("key", "operator", "values"))}
_NAMESPACES: dict[str, Keys] = {"namespaces": {"from": None, "selector": _SELECTOR}}
_LISTENER: Keys = {
    "name": None,
    "protocol": None,
    "port": None,
    "hostname": None,
    "tls": None,
    "allowedRoutes": {**_NAMESPACES, "kinds": {"group": None, "kind": None}},
}
_GATEWAY: Keys = {
    "gatewayClassName": None,
    "addresses": {"type": None, "value": None},
    "allowedListeners": _NAMESPACES,
    "infrastructure": {
        "annotations": None,
        "labels": None,
        "parametersRef": {"group": None, "kind": None, "name": None},
    },
    "listeners": _LISTENER,
    "tls": None,
}
_ROUTE: Keys = {"parentRefs": _PARENT, "rules": {"name": None, "backendRefs": _BACKEND}}
_GRANT: Keys = {
    "from": {"group": None, "kind": None, "namespace": None},
    "to": {"group": None, "kind": None, "name": None},
}
_SERVICE: Keys = dict.fromkeys(
    (
        "allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "externalIPs", "externalName", "externalTrafficPolicy",
        "healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass", "loadBalancerIP",
        "loadBalancerSourceRanges", "ports", "publishNotReadyAddresses", "selector", "sessionAffinity", "sessionAffinityConfig",
        "trafficDistribution", "type",
    )
)  # fmt: skip
_SPECS: dict[tuple[str, str], Keys] = {
    ("gateway.networking.k8s.io", "Gateway"): _GATEWAY,
    ("gateway.networking.k8s.io", "TCPRoute"): _ROUTE,
    ("gateway.networking.k8s.io", "UDPRoute"): _ROUTE,
    ("gateway.networking.k8s.io", "ReferenceGrant"): _GRANT,
    ("gateway.networking.k8s.io", "GatewayClass"): dict.fromkeys(("controllerName", "description", "parametersRef")),
    ("k8s.cni.cncf.io", "NetworkAttachmentDefinition"): {"config": None},
    ("", "Service"): _SERVICE,
}
_OBJECT = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = (
    "annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName",
    "generation", "labels", "managedFields", "name", "namespace", "ownerReferences", "resourceVersion", "selfLink", "uid",
)  # fmt: skip
_UNREAD_KINDS = {
    "": (
        "Binding", "ConfigMap", "Endpoints", "LimitRange", "PersistentVolume", "PersistentVolumeClaim", "PodTemplate",
        "ReplicationController", "ResourceQuota", "ServiceAccount",
    ),
    "apps": ("ControllerRevision", "ReplicaSet", "StatefulSet"),
    "gateway.networking.k8s.io": ("BackendTLSPolicy", "GRPCRoute", "ListenerSet", "TLSRoute"),
    "k8s.cni.cncf.io": (),
    "discovery.k8s.io": (),
    "l34.gateway.api.poc": (),
}  # fmt: skip
"""The groups of the kinds that a plan reads -> the kinds of theirs that nothing of Tidegate reads: a kind that is in neither is
misspelt. Source: Kubernetes v1.37 and Gateway API v1.6, `kubectl api-resources`."""
_KINDS = {(resource.group, resource.kind) for resource in ALL_RESOURCES}


@cache
def _crd_specs() -> dict[tuple[str, str], Keys]:
    """What our own CRDs say."""
    found: dict[tuple[str, str], Keys] = {}
    for path in sorted(CRDS.glob("*.yaml")):
        for document in read_documents(path):
            spec = document.json()["spec"]
            schema = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
            found[(spec["group"], spec["names"]["kind"])] = _keys_of(schema)
    return found


def _keys_of(schema: Mapping[str, Any]) -> Keys:
    if "items" in schema:
        return _keys_of(schema["items"])
    if "properties" not in schema or schema.get("x-kubernetes-preserve-unknown-fields"):
        return None
    return {name: _keys_of(below) for name, below in schema["properties"].items()}


def unknown_keys(node: Node) -> Iterator[Problem]:
    """The keys of one Kubernetes object that its kind does not know, and the kind itself when its group does not know it."""
    value = node.json()
    group = str(value["apiVersion"]).rpartition("/")[0]
    kind = str(value["kind"])
    unread = _UNREAD_KINDS.get(group)
    if unread is not None and kind not in unread and (group, kind) not in _KINDS:
        kinds = [known for known_group, known in _KINDS if known_group == group]
        yield Problem(
            where=node.where_key("kind"), what="unknown kind", found=repr(kind), expected=nearest(kind, kinds)
        )
        return
    spec = _SPECS.get((group, kind)) or _crd_specs().get((group, kind))
    if spec is None:
        yield from _unknown(node, {"metadata": dict.fromkeys(_METADATA)}, open_=True)
    else:
        keys: dict[str, Keys] = {**dict.fromkeys(_OBJECT), "metadata": dict.fromkeys(_METADATA), "spec": spec}
        yield from _unknown(node, keys)


def _unknown(node: Node, known: Keys, *, open_: bool = False) -> Iterator[Problem]:
    """`open_`: this mapping may have other keys than those that are known."""
    if known is None:
        return
    if isinstance(node.value, tuple):
        for item in node.value:
            yield from _unknown(item, known)
    elif isinstance(node.value, Mapping):
        for key, entry in node.value.items():
            if key in known:
                yield from _unknown(entry.node, known[key])
            elif not open_:
                yield Problem(
                    where=node.where_key(key), what="unknown key", found=repr(key), expected=nearest(key, known)
                )
