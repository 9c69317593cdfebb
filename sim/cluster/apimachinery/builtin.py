"""The kinds that are there from the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from typing import Final

from sim.cluster.apimachinery import core_rules, notation, printers, workload_rules
from sim.cluster.apimachinery.kinds import Column, Kind, KindVersion, Registry, Rules
from sim.cluster.apimachinery.schema import STRING, Schema

_GATEWAY: Final = "gateway.networking.k8s.io"
_RBAC: Final = "rbac.authorization.k8s.io"
_EVENT_FIELDS: Final = frozenset(
    {
        f"involvedObject.{name}"
        for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    }
    | {"reason", "reportingComponent", "source", "type"}
)
_POD_FIELDS: Final = frozenset(
    {f"spec.{name}" for name in ("nodeName", "restartPolicy", "schedulerName", "serviceAccountName", "hostNetwork")}
    | {"status.phase", "status.podIP", "status.nominatedNodeName"}
)


def schemas() -> Mapping[str, Schema]:
    """The schemas of the built-in kinds, by type name."""
    folder = resources.files(__package__)
    types = notation.read("\n".join((folder / name).read_text() for name in ("core_types.txt", "gateway_types.txt")))
    identity = {"apiVersion": STRING, "kind": STRING}
    return {
        name: replace(one, properties={**identity, **one.properties}) if "metadata" in one.properties else one
        for name, one in types.items()
    }


def registry() -> Registry:
    """A registry with all of them: a few milliseconds."""
    types = schemas()
    found = Registry()
    for kind in (*_core(types), *_apps(types), *_access(types), *_extensions(types), *_gateway(types)):
        found.add(kind)
    return found


def _kind(
    types: Mapping[str, Schema],
    group: str,
    version: str,
    plural: str,
    name: str,
    *short_names: str,
    columns: tuple[Column, ...] = printers.PLAIN,
    rules: Rules | None = None,
    status: bool = False,
    namespaced: bool = True,
    fields: frozenset[str] = frozenset(),
    all_category: bool = False,
    scale: bool = False,
) -> Kind:
    return Kind(
        group=group, plural=plural, kind=name, singular=name.lower(), list_kind=f"{name}List", storage=version,
        versions=(KindVersion(name=version, schema=types[name], columns=columns, status=status),),
        namespaced=namespaced, short_names=short_names, categories=("all",) if all_category else (), fields=fields,
        scale=scale, rules=rules or Rules(),
    )  # fmt: skip


def _core(types: Mapping[str, Schema]) -> tuple[Kind, ...]:
    return (
        _kind(types, "", "v1", "pods", "Pod", "po", columns=printers.POD, rules=workload_rules.POD, status=True,
              fields=_POD_FIELDS, all_category=True),
        _kind(types, "", "v1", "services", "Service", "svc", columns=printers.SERVICE, rules=core_rules.SERVICE,
              status=True, all_category=True, fields=frozenset({"spec.clusterIP", "spec.type"})),
        _kind(types, "", "v1", "secrets", "Secret", columns=printers.SECRET, rules=core_rules.SECRET,
              fields=frozenset({"type"})),
        _kind(types, "", "v1", "configmaps", "ConfigMap", "cm", columns=printers.CONFIG_MAP,
              rules=core_rules.CONFIG_MAP),
        _kind(types, "", "v1", "serviceaccounts", "ServiceAccount", "sa", columns=printers.SERVICE_ACCOUNT),
        _kind(types, "", "v1", "events", "Event", "ev", columns=printers.EVENT, rules=core_rules.EVENT,
              fields=_EVENT_FIELDS),
        _kind(types, "", "v1", "namespaces", "Namespace", "ns", columns=printers.NAMESPACE, rules=core_rules.NAMESPACE,
              status=True, namespaced=False, fields=frozenset({"status.phase"})),
        _kind(types, "", "v1", "nodes", "Node", "no", columns=printers.NODE, rules=core_rules.NODE, status=True,
              namespaced=False, fields=frozenset({"spec.unschedulable"})),
        _kind(types, "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", columns=printers.ENDPOINT_SLICE,
              rules=core_rules.ENDPOINT_SLICE),
        _kind(types, "coordination.k8s.io", "v1", "leases", "Lease", columns=printers.LEASE, rules=core_rules.LEASE),
    )  # fmt: skip


def _apps(types: Mapping[str, Schema]) -> tuple[Kind, ...]:
    return (
        _kind(types, "apps", "v1", "deployments", "Deployment", "deploy", columns=printers.DEPLOYMENT,
              rules=workload_rules.DEPLOYMENT, status=True, all_category=True, scale=True),
        _kind(types, "apps", "v1", "daemonsets", "DaemonSet", "ds", columns=printers.DAEMON_SET,
              rules=workload_rules.DAEMON_SET, status=True, all_category=True),
        _kind(types, "apps", "v1", "replicasets", "ReplicaSet", "rs", columns=printers.REPLICA_SET,
              rules=workload_rules.REPLICA_SET, status=True, all_category=True, scale=True,
              fields=frozenset({"status.replicas"})),
    )  # fmt: skip


def _access(types: Mapping[str, Schema]) -> tuple[Kind, ...]:
    rules, role, binding = core_rules.ROLE, printers.ROLE, printers.ROLE_BINDING
    return (
        _kind(types, _RBAC, "v1", "roles", "Role", columns=role, rules=rules),
        _kind(types, _RBAC, "v1", "rolebindings", "RoleBinding", columns=binding, rules=rules),
        _kind(types, _RBAC, "v1", "clusterroles", "ClusterRole", columns=role, rules=rules, namespaced=False),
        _kind(types, _RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", columns=binding, rules=rules,
              namespaced=False),
    )  # fmt: skip


def _extensions(types: Mapping[str, Schema]) -> tuple[Kind, ...]:
    crd = Kind(
        group="apiextensions.k8s.io", plural="customresourcedefinitions", kind="CustomResourceDefinition",
        singular="customresourcedefinition", list_kind="CustomResourceDefinitionList", storage="v1",
        versions=(KindVersion(name="v1", schema=types["CustomResourceDefinition"], columns=printers.CRD, status=True),),
        namespaced=False, short_names=("crd", "crds"), categories=("api-extensions",),
        rules=Rules(generation=("spec",)),
    )  # fmt: skip
    network = Kind(
        group="k8s.cni.cncf.io", plural="network-attachment-definitions", kind="NetworkAttachmentDefinition",
        singular="network-attachment-definition", list_kind="NetworkAttachmentDefinitionList", storage="v1",
        versions=(KindVersion(name="v1", schema=types["NetworkAttachmentDefinition"], columns=(printers.NAME, printers.AGE)),),
        short_names=("net-attach-def",), custom=True, rules=core_rules.CUSTOM,
    )  # fmt: skip
    return crd, network


def _path_column(name: str, path: str, priority: int = 0) -> Column:
    return Column(name=name, path=path, priority=priority)


def _gateway(types: Mapping[str, Schema]) -> tuple[Kind, ...]:
    condition = '.status.conditions[?(@.type=="{}")].status'.format

    def kind(
        plural: str, name: str, versions: tuple[str, ...], *columns: Column,
        short_names: tuple[str, ...] = (), namespaced: bool = True, status: bool = True, storage: str = "v1",
    ) -> Kind:  # fmt: skip
        shown = (printers.NAME, *columns)
        served = tuple(KindVersion(name=one, schema=types[name], columns=shown, status=status) for one in versions)
        return Kind(
            group=_GATEWAY, plural=plural, kind=name, singular=name.lower(), list_kind=f"{name}List", storage=storage,
            versions=served, namespaced=namespaced, short_names=short_names, categories=("gateway-api",), custom=True,
            rules=core_rules.CUSTOM,
        )  # fmt: skip

    both, age = ("v1", "v1beta1"), printers.AGE
    return (
        kind("gatewayclasses", "GatewayClass", both, _path_column("Controller", ".spec.controllerName"),
             _path_column("Accepted", condition("Accepted")), age, _path_column("Description", ".spec.description", 1),
             short_names=("gc",), namespaced=False),
        kind("gateways", "Gateway", both, _path_column("Class", ".spec.gatewayClassName"),
             _path_column("Address", ".status.addresses[*].value"), _path_column("Programmed", condition("Programmed")),
             age, short_names=("gtw",)),
        kind("httproutes", "HTTPRoute", both, _path_column("Hostnames", ".spec.hostnames"), age),
        kind("tcproutes", "TCPRoute", ("v1",), age),
        kind("udproutes", "UDPRoute", ("v1",), age),
        kind("referencegrants", "ReferenceGrant", both, age, short_names=("refgrant",), status=False, storage="v1beta1"),
    )  # fmt: skip
