"""Objects for the contract: a namespace's paths, a kind of the test's own, small built-in objects."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from tests.contract.kube.client import DEADLINE_S, DISCOVERY, Client, Json


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace of the test's own."""

    name: str

    def core(self, plural: str, name: str = "", subresource: str = "") -> str:
        return _path("/api/v1", self.name, plural, name, subresource)

    def of(self, group_version: str, plural: str, name: str = "", subresource: str = "") -> str:
        return _path(f"/apis/{group_version}", self.name, plural, name, subresource)


def _path(prefix: str, namespace: str, plural: str, name: str, subresource: str) -> str:
    return "/".join(filter(None, (f"{prefix}/namespaces/{namespace}/{plural}", name, subresource)))


@dataclass(frozen=True, slots=True)
class Gates:
    """A kind of the test's own: `Gate`, served as v1 and v1beta1, with a schema that has a bit of everything."""

    group: str
    namespace: str

    def path(self, name: str = "", subresource: str = "", version: str = "v1") -> str:
        return _path(f"/apis/{self.group}/{version}", self.namespace, "gates", name, subresource)

    def gate(self, name: str, spec: Any = None, version: str = "v1", **metadata: Any) -> Json:
        """A Gate; the least that is valid when no spec is given."""
        return {
            "apiVersion": f"{self.group}/{version}",
            "kind": "Gate",
            "metadata": {"name": name, **metadata},
            "spec": {"name": "abc"} if spec is None else spec,
        }

    @property
    def crd_path(self) -> str:
        return f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gates.{self.group}"


def _text(**rules: Any) -> Json:
    return {"type": "string", **rules}


def _by_key(key: str, items: Json) -> Json:
    return {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key], "items": items}


_SPEC: Final = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _text(minLength=2, maxLength=5, pattern="^[a-z]+$"),
        "size": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 10, "default": 3},
        "asn": {"type": "integer", "format": "int64"},
        "mode": _text(enum=["A", "B"], default="A"),
        "on": {"type": "boolean"},
        "port": {"x-kubernetes-int-or-string": True},
        "list": {"type": "array", "maxItems": 2, "items": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "keyed": _by_key(
            "name",
            {"type": "object", "required": ["name"], "properties": {"name": _text(), "value": _text(default="dv")}},
        ),
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "nothing": _text(nullable=True),
        "atom": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": _text(), "b": _text()}},
    },
}
_STATUS: Final = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "conditions": _by_key(
            "type",
            {"type": "object", "required": ["type", "status"], "properties": {"type": _text(), "status": _text()}},
        ),
    },
}


def gate_crd(group: str) -> Json:
    """The CRD of the kind Gate in a group."""
    schema = {"type": "object", "required": ["spec"], "properties": {"spec": _SPEC, "status": _STATUS}}
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    common = {"served": True, "subresources": {"status": {}}, "additionalPrinterColumns": columns}
    versions = [
        {"name": name, "storage": name == "v1", "schema": {"openAPIV3Schema": schema}, **common}
        for name in ("v1", "v1beta1")
    ]
    names = {"kind": "Gate", "plural": "gates", "shortNames": ["ga"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"gates.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": versions},
    }


def make_gates(api: Client, namespace: Namespace, group: str) -> Gates:
    """Creates the CRD and returns when the kind is served and kubectl can find it."""
    gates = Gates(group, namespace.name)
    made = api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", gate_crd(group))
    assert made.code == 201, made.body
    api.wait_for(gates.crd_path, _established)
    # Established is said before every part of the real server serves the kind, and it is served before discovery lists it. There is
    # nothing to watch: so it is asked again and again.
    ends = time.monotonic() + DEADLINE_S
    while not (api.get(gates.path()).code == 200 and _versions_found(api, group) == {"v1", "v1beta1"}):
        assert time.monotonic() < ends, f"{gates.path()} is not served, or not listed, within {DEADLINE_S} s"
    return gates


def _versions_found(api: Client, group: str) -> set[str]:
    """The versions of a group that discovery lists with their kinds."""
    groups = api.get("/apis", accept=DISCOVERY).body["items"]
    return {
        version["version"]
        for each in groups
        if each["metadata"]["name"] == group
        for version in each["versions"]
        if version.get("resources")
    }


def _established(crd: Json) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def config_map(name: str, data: dict[str, str] | None = None, **metadata: Any) -> Json:
    """A ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": data or {}}


def pod(name: str, *, node: str = "", **metadata: Any) -> Json:
    """A Pod with one container; on a node if one is given."""
    container = {"name": "c", "image": "tidegate", "ports": [{"containerPort": 80}]}
    spec = {"containers": [container], "automountServiceAccountToken": False, **({"nodeName": node} if node else {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}
