"""Kubernetes objects for tests, as short as they can be."""

from __future__ import annotations

import json
from typing import Any

from core import names
from core.kube import Json

STATELESS = names.STATELESS_LOAD_BALANCER


def gateway(name: str = "gw", *, class_name: str = STATELESS, namespace: str = "default", **spec: Any) -> Json:
    annotations = {
        names.POD_NETWORKS: json.dumps(
            [{"name": "vlan-200", "interface": "vlan-200"}, {"name": "nad-2", "interface": "net2"}]
        ),
        names.ENDPOINT_NETWORKS: json.dumps([{"name": "nad-2", "interface": "net2"}]),
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 3},
        "spec": {
            "gatewayClassName": class_name,
            "listeners": [{"name": "all", "port": 4000, "protocol": "TCP"}],
            "infrastructure": {"annotations": annotations},
        }
        | spec,
    }


def router(name: str = "router-v4", *, gateway_name: str = "gw", namespace: str = "default", **spec: Any) -> Json:
    return {
        "apiVersion": "l34.gateway.api.poc/v1alpha1",
        "kind": "GatewayRouter",
        "metadata": {"name": name, "namespace": namespace, "labels": {names.PROXY_NAME: gateway_name}},
        "spec": {"address": "169.254.100.150", "interface": "vlan-200"} | spec,
    }


def l34_route(
    name: str = "route", *, gateway_name: str = "gw", service_name: str = "svc", namespace: str = "default", **spec: Any
) -> Json:
    return {
        "apiVersion": "l34.gateway.api.poc/v1alpha1",
        "kind": "L34Route",
        "metadata": {"name": name, "namespace": namespace, "generation": 2},
        "spec": {
            "parentRefs": [{"name": gateway_name}],
            "backendRefs": [{"name": service_name, "port": 4000}],
            "priority": 1,
            "destinationCIDRs": ["20.0.0.1/32"],
            "destinationPorts": ["4000"],
            "protocols": ["TCP"],
        }
        | spec,
    }


def tcp_route(name: str = "tcp", *, gateway_name: str = "gw", service_name: str = "svc", **spec: Any) -> Json:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "TCPRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"parentRefs": [{"name": gateway_name}], "rules": [{"backendRefs": [{"name": service_name}]}]} | spec,
    }


def service(
    name: str = "svc", *, namespace: str = "default", gateway_name: str = "gw", app: str | None = "app", **spec: Any
) -> Json:
    selector = {names.DUMMY_SELECTOR: "true"} | ({"app": app} if app else {})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "labels": {names.PROXY_NAME: gateway_name},
        },
        "spec": {"clusterIP": "None", "selector": selector} | spec,
    }


def pod(
    index: int,
    *,
    namespace: str = "default",
    app: str = "app",
    network: str = "nad-2",
    addresses: tuple[str, ...] = (),
    attached: tuple[str, ...] = ("20.0.0.1/32",),
    ready: bool = True,
    deleting: bool = False,
    **labels: str,
) -> Json:
    status = [{"name": f"{namespace}/{network}", "ips": list(addresses or (f"10.2.0.{index + 1}",))}]
    metadata: Json = {
        "name": f"{app}-{index}",
        "namespace": namespace,
        "uid": f"uid-{app}-{index}",
        "labels": {"app": app} | labels,
        "annotations": {names.NETWORK_STATUS: json.dumps(status), names.ATTACHED: json.dumps(list(attached))},
        "creationTimestamp": f"2026-01-01T00:{index // 60:02d}:{index % 60:02d}Z",
    }
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T01:00:00Z"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": "node-1"},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def gateway_pod(index: int, *, gateway_name: str = "gw", ready: bool = True) -> Json:
    obj = pod(index, app="lb", addresses=(f"10.2.0.{200 + index}",), ready=ready)
    obj["metadata"]["labels"][names.PROXY_NAME] = gateway_name
    return obj


def aged(obj: Json, created: str) -> Json:
    """The object, created at that time."""
    obj["metadata"]["creationTimestamp"] = created
    return obj


def base(targets: int = 4) -> list[Json]:
    """One gateway with a router, a route to a Service of `targets` Pods, and two gateway pods; everything ready."""
    return [
        gateway(),
        router(),
        l34_route(),
        service(),
        *(pod(i) for i in range(targets)),
        gateway_pod(0),
        gateway_pod(1),
    ]
