"""The Deployment or DaemonSet that carries a gateway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core import names
from core.kube import Json
from core.model import Gateway, ObjectRef

LOAD_BALANCER_PORT = 8081
ROUTER_PORT = 8082
ENDPOINT_PORT = 8083
CONTROLLER_PORT = 8084


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What the workloads of one installation have in common."""

    image: str = "tidegate"
    dataplane: str = "auto"


def workload(gateway: Gateway, class_: str, build: Build) -> Json | None:
    """The workload of `gateway`; None for a class that is not carried by a workload of ours alone."""
    if class_ != names.STATELESS_LOAD_BALANCER:
        return None
    labels = dict(gateway.infrastructure_labels) | {
        names.PROXY_NAME: gateway.meta.name,
        names.GATEWAY_NAME: gateway.meta.name,
    }
    selector = {names.PROXY_NAME: gateway.meta.name, names.GATEWAY_NAME: gateway.meta.name}
    containers = [_load_balancer(gateway, build), _router(gateway, build)]
    owner = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "name": gateway.meta.name,
        "uid": gateway.meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": _name_of(gateway.meta.name),
            "namespace": gateway.meta.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {
            "replicas": gateway.replicas,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": labels, "annotations": dict(gateway.infrastructure_annotations)},
                "spec": {
                    "serviceAccountName": "tidegate-gateway",
                    "terminationGracePeriodSeconds": 5,
                    "containers": containers,
                },
            },
        },
    }


def gateway_of(workload: Json) -> ObjectRef | None:
    """The Gateway that `workload` was made for; None of one that somebody else made."""
    metadata = workload["metadata"]
    name = str((metadata.get("labels") or {}).get(names.GATEWAY_NAME))
    owners = metadata.get("ownerReferences") or ()
    owned = any(owner.get("kind") == "Gateway" and owner.get("name") == name for owner in owners)
    if not owned or metadata["name"] != _name_of(name):
        return None
    return ObjectRef(kind="Gateway", namespace=metadata["namespace"], name=name)


def _name_of(gateway: str) -> str:
    return f"stateless-load-balancer-{gateway}"


def _load_balancer(gateway: Gateway, build: Build) -> Json:
    return _container(
        "load-balancer",
        build.image,
        ["agent", "load-balancer", "--gateway", _name(gateway), "--dataplane", build.dataplane],
        LOAD_BALANCER_PORT,
        # BPF loads the programs, PERFMON lets the verifier allow packet arithmetic, NET_ADMIN attaches them.
        ["NET_ADMIN", "BPF", "PERFMON"],
    )


def _router(gateway: Gateway, build: Build) -> Json:
    args = ["agent", "router", "--gateway", _name(gateway)]
    return _container("router", build.image, args, ROUTER_PORT, ["NET_ADMIN", "NET_RAW"])


def _name(gateway: Gateway) -> str:
    return f"{gateway.meta.namespace}/{gateway.meta.name}"


def _container(name: str, image: str, args: list[str], port: int, capabilities: list[str]) -> Json:
    def field(path: str) -> Json:
        return {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}

    probe: dict[str, Any] = {"httpGet": {"path": "/readyz", "port": port, "scheme": "HTTP"}, "periodSeconds": 1}
    return {
        "name": name,
        "image": image,
        "args": args,
        "env": [
            {"name": "POD_NAME"} | field("metadata.name"),
            {"name": "POD_NAMESPACE"} | field("metadata.namespace"),
            {"name": "POD_IP"} | field("status.podIP"),
        ],
        "ports": [{"name": "health", "containerPort": port, "protocol": "TCP"}],
        "readinessProbe": probe,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": capabilities},
        },
    }
