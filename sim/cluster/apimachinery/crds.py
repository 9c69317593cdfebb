"""Kinds that are made over the API: from a CustomResourceDefinition to a Kind.

Source: kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions; apiextensions-apiserver
pkg/apis/apiextensions/validation/validation.go.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from sim.cluster.apimachinery import core_rules, jsonpath, printers, problems, schema
from sim.cluster.apimachinery.kinds import Column, Kind, KindVersion, Registry
from sim.cluster.apimachinery.problems import Cause, Json
from sim.cluster.apimachinery.schema import ANY, STRING, Schema
from sim.cluster.apimachinery.store import DELETED, Change, Collection

GROUP: Final = "apiextensions.k8s.io"
PLURAL: Final = "customresourcedefinitions"


def filled(crd: Json) -> Json:
    """The CRD with the names that follow from others."""
    spec = crd.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("names"), dict):
        return crd
    kind = str(spec["names"].get("kind", ""))
    names = {"singular": kind.lower(), "listKind": f"{kind}List", **spec["names"]}
    return {**crd, "spec": {"conversion": {"strategy": "None"}, **spec, "names": names}}


def check(crd: Json, old: Json | None) -> list[Cause]:
    """What is wrong with a CRD beyond its schema."""
    causes: list[Cause] = []
    spec = crd.get("spec") or {}
    names, versions = spec.get("names") or {}, spec.get("versions") or []
    name = crd["metadata"].get("name")
    expected = f"{names.get('plural')}.{spec.get('group')}"
    if name != expected:
        causes.append(problems.invalid_value("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    stored = [version for version in versions if isinstance(version, dict) and version.get("storage")]
    if len(stored) != 1:
        text = "must have exactly one version marked as storage version"
        causes.append(problems.invalid_value("spec.versions", versions, text))
    for index, version in enumerate(versions):
        causes += _check_version(version, f"spec.versions[{index}]")
    if old is not None:
        for path in (("group",), ("scope",), ("names", "kind"), ("names", "plural")):
            if _at(spec, path) != _at(old["spec"], path):
                causes.append(problems.invalid_value("spec." + ".".join(path), _at(spec, path), "field is immutable"))
    return causes


def _at(node: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _check_version(version: Any, path: str) -> list[Cause]:
    if not isinstance(version, dict) or not version.get("name"):
        return [problems.required(f"{path}.name")]
    openapi = (version.get("schema") or {}).get("openAPIV3Schema")
    if not isinstance(openapi, dict):
        return [problems.required(f"{path}.schema.openAPIV3Schema", "schemas are required")]
    causes = _check_structural(openapi, f"{path}.schema.openAPIV3Schema")
    if openapi.get("type") != "object":
        causes.append(
            problems.invalid_value(
                f"{path}.schema.openAPIV3Schema.type", openapi.get("type", ""), "must be object at the root"
            )
        )
    for index, column in enumerate(version.get("additionalPrinterColumns") or []):
        try:
            jsonpath.compiled(column.get("jsonPath", ""))
        except ValueError as error:
            causes.append(
                problems.invalid_value(
                    f"{path}.additionalPrinterColumns[{index}].jsonPath", column.get("jsonPath"), str(error)
                )
            )
    return causes


def _check_structural(node: Json, path: str) -> list[Cause]:
    """Source: apiextensions-apiserver pkg/apiserver/schema/validation.go: every node has a type, or says what else it is."""
    causes: list[Cause] = []
    known = (
        node.get("type") or node.get("x-kubernetes-int-or-string") or node.get("x-kubernetes-preserve-unknown-fields")
    )
    if not known:
        causes.append(problems.required(f"{path}.type", "must not be empty for specified object fields"))
    if (pattern := node.get("pattern")) is not None:
        try:
            schema.compiled(pattern)
        except ValueError as error:
            causes.append(problems.invalid_value(f"{path}.pattern", pattern, str(error)))
    if node.get("type") == "array" and "items" not in node:
        causes.append(problems.required(f"{path}.items", "must be specified"))
    for name, child in (node.get("properties") or {}).items():
        if not (name == "metadata" and path.endswith("openAPIV3Schema")):
            causes += _check_structural(child, f"{path}.properties[{name}]")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            causes += _check_structural(node[name], f"{path}.{name}")
    return causes


def kind_of(crd: Json, object_metadata: Schema) -> Kind:
    """The kind that a CRD makes. `object_metadata` is the schema of metadata, the same for all kinds."""
    spec = crd["spec"]
    names = spec["names"]
    versions = tuple(_version(one, object_metadata) for one in spec["versions"] if one.get("served", True))
    storage = next(one["name"] for one in spec["versions"] if one.get("storage"))
    fields = frozenset(
        one["jsonPath"].lstrip(".") for version in spec["versions"] for one in version.get("selectableFields") or []
    )
    return Kind(
        group=spec["group"],
        plural=names["plural"],
        kind=names["kind"],
        versions=versions,
        storage=storage,
        namespaced=spec["scope"] == "Namespaced",
        singular=names.get("singular") or names["kind"].lower(),
        list_kind=names.get("listKind") or f"{names['kind']}List",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        fields=fields,
        custom=True,
        rules=core_rules.CUSTOM,
    )


def _version(version: Json, object_metadata: Schema) -> KindVersion:
    root = schema.parse(version["schema"]["openAPIV3Schema"])
    properties = {**root.properties, "apiVersion": STRING, "kind": STRING, "metadata": object_metadata}
    given = version.get("additionalPrinterColumns")
    columns = (
        tuple(
            Column(
                name=one["name"], type=one.get("type", "string"), format=one.get("format", ""),
                description=one.get("description", ""), priority=one.get("priority", 0), path=one["jsonPath"],
            )
            for one in given
        )
        if given
        else (printers.AGE,)
    )  # fmt: skip
    if root.preserve_unknown:
        properties.setdefault("status", ANY)
    return KindVersion(
        name=version["name"],
        schema=replace(root, properties=properties),
        columns=(printers.NAME, *columns),
        status="status" in (version.get("subresources") or {}),
    )


def accepted(crd: Json, now: str) -> Json:
    """The status of a CRD that is in force."""
    spec = crd["spec"]
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message}
        for kind, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    stored = list((crd.get("status") or {}).get("storedVersions") or [])
    storage = next(one["name"] for one in spec["versions"] if one.get("storage"))
    if storage not in stored:
        stored.append(storage)
    return {"conditions": conditions, "acceptedNames": spec["names"], "storedVersions": stored}


def follow(
    registry: Registry, object_metadata: Schema, builtin: Registry, collection: Collection, change: Change
) -> None:
    """Keeps the registry true to the CRDs in the store. The kinds of `builtin` come back when a CRD that replaced one goes."""
    if (collection.group, collection.plural) != (GROUP, PLURAL):
        return
    spec = change.after.obj["spec"]
    group, plural = spec["group"], spec["names"]["plural"]
    if change.type != DELETED:
        before = change.before.obj["spec"] if change.before is not None else None
        if before != spec:
            registry.add(kind_of(change.after.obj, object_metadata))
        return
    original = builtin.find(group, plural)
    if original is not None:
        registry.add(original)
    else:
        registry.remove(group, plural)
