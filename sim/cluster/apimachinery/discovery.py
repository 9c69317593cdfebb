"""Which groups, versions and resources there are.

Source: kubernetes.io/docs/concepts/overview/kubernetes-api, "Discovery API".
"""

from __future__ import annotations

from typing import Any, Final

from sim.cluster.apimachinery.kinds import Kind, KindVersion, Registry
from sim.cluster.apimachinery.problems import Json

VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
STATUS_VERBS: Final = ("get", "patch", "update")
VERSION: Final = {
    "major": "1",
    "minor": "37",
    "gitVersion": "v1.37.0+tidegate",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "imitated",
}


def subresources(kind: Kind, version: KindVersion) -> list[tuple[str, Json, tuple[str, ...]]]:
    """The subresources of a kind: name, the kind of their objects, verbs."""
    found: list[tuple[str, Json, tuple[str, ...]]] = []
    own = {"group": kind.group, "version": version.name, "kind": kind.kind}
    if kind.plural == "pods" and not kind.group:
        found.append(("binding", {"group": "", "version": "v1", "kind": "Binding"}, ("create",)))
    if kind.scale:
        found.append(("scale", {"group": "autoscaling", "version": "v1", "kind": "Scale"}, STATUS_VERBS))
    if version.status:
        found.append(("status", own, STATUS_VERBS))
    return found


def resource_list(registry: Registry, group: str, version: str) -> Json | None:
    """The APIResourceList of a group version, None when there is nothing in it."""
    entries: list[Json] = []
    for kind, served in registry.of(group, version):
        entries.append(
            {
                "name": kind.plural,
                "singularName": kind.singular,
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": list(VERBS),
                **({"shortNames": list(kind.short_names)} if kind.short_names else {}),
                **({"categories": list(kind.categories)} if kind.categories else {}),
                "storageVersionHash": "",
            }
        )
        for name, responds, verbs in subresources(kind, served):
            entry: Json = {"name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced}
            if responds["kind"] != kind.kind and responds["group"]:
                entry |= {"group": responds["group"], "version": responds["version"]}
            entries.append({**entry, "kind": responds["kind"], "verbs": list(verbs)})
    if not entries:
        return None
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}


def _versions(registry: Registry, group: str) -> list[Json]:
    return [
        {"groupVersion": f"{group}/{version}", "version": version}
        for found, version in registry.group_versions()
        if found == group
    ]


def group(registry: Registry, name: str) -> Json | None:
    """The APIGroup of a name, None when there is none."""
    versions = _versions(registry, name)
    if not name or not versions:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": versions[0]}


def group_list(registry: Registry) -> Json:
    """The APIGroupList: all groups but the core one."""
    names = dict.fromkeys(name for name, _ in registry.group_versions() if name)
    groups = [found for name in names if (found := group(registry, name)) is not None]
    inner = [{key: value for key, value in one.items() if key not in ("kind", "apiVersion")} for one in groups]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": inner}


def core_versions(address: str) -> Json:
    """The APIVersions of the core group. `address` is host:port of this server."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def aggregated(registry: Registry, *, core: bool) -> Json:
    """The APIGroupDiscoveryList of the core group, or of all others: everything at once."""
    groups: dict[str, list[Json]] = {}
    for name, version in registry.group_versions():
        if (not name) != core:
            continue
        listed = [_aggregated_resource(kind, served) for kind, served in registry.of(name, version)]
        groups.setdefault(name, []).append({"version": version, "resources": listed, "freshness": "Current"})
    items = [{"metadata": {"name": name} if name else {}, "versions": versions} for name, versions in groups.items()]
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _aggregated_resource(kind: Kind, version: KindVersion) -> Json:
    entry: dict[str, Any] = {
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": version.name, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(VERBS),
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    listed = [
        {"subresource": name, "responseKind": responds, "verbs": list(verbs)}
        for name, responds, verbs in subresources(kind, version)
    ]
    if listed:
        entry["subresources"] = listed
    return entry
