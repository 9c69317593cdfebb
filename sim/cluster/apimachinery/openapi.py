"""The OpenAPI documents, as far as kubectl asks for them: which parameters a kind's patch takes, and the kind's fields for `explain`.

Source: kubernetes.io/docs/concepts/overview/kubernetes-api, "OpenAPI V3"; k8s.io/cli-runtime pkg/resource/query_param_verifier_v3.go.
"""

from __future__ import annotations

from typing import Any, Final

from sim.cluster.apimachinery.kinds import Kind, KindVersion, Registry
from sim.cluster.apimachinery.problems import Json
from sim.cluster.apimachinery.schema import ABSENT, Schema

_PARAMETERS: Final = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation", "force")
]


def index(registry: Registry) -> Json:
    """The paths of the documents, one for each group version."""
    paths = {}
    for group, version in registry.group_versions():
        path = f"apis/{group}/{version}" if group else f"api/{version}"
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={registry.generation}"}
    return {"paths": paths}


def document(registry: Registry, group: str, version: str) -> Json | None:
    """The document of a group version, None when there is nothing in it."""
    served = registry.of(group, version)
    if not served:
        return None
    prefix = f"/apis/{group}/{version}" if group else f"/api/{version}"
    paths: Json = {}
    schemas: Json = {}
    for kind, kind_version in served:
        name = f"{group or 'core'}.{version}.{kind.kind}"
        identity = {"group": group, "version": version, "kind": kind.kind}
        schemas[name] = {**described(kind_version.schema), "x-kubernetes-group-version-kind": [identity]}
        collection = (
            f"{prefix}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{prefix}/{kind.plural}"
        )
        paths[collection] = {"post": _operation("post", identity, name), "get": _operation("list", identity, name)}
        paths[collection + "/{name}"] = {
            verb: _operation(verb, identity, name) for verb in ("get", "put", "patch", "delete")
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "imitated"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(action: str, identity: Json, name: str) -> Json:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": identity,
        "parameters": _PARAMETERS if action in ("post", "put", "patch") else [],
        "responses": {"200": {"description": "OK", "content": content}},
    }


def described(schema: Schema) -> Json:
    """The OpenAPI form of a schema."""
    found: dict[str, Any] = {
        "type": schema.type,
        "properties": {name: described(child) for name, child in schema.properties.items()},
        "additionalProperties": described(schema.additional) if schema.additional is not None else None,
        "items": described(schema.items) if schema.items is not None else None,
        "required": list(schema.required),
        "enum": list(schema.enum),
        "format": "int-or-string" if schema.int_or_string else schema.format,
        "x-kubernetes-int-or-string": schema.int_or_string,
        "x-kubernetes-preserve-unknown-fields": schema.preserve_unknown,
    }
    if schema.type == "array":
        found["x-kubernetes-list-type"] = schema.list_type
        found["x-kubernetes-list-map-keys"] = list(schema.list_keys)
        found["x-kubernetes-patch-strategy"] = "merge" if schema.merge_key is not None else None
        found["x-kubernetes-patch-merge-key"] = schema.merge_key
    told = {name: value for name, value in found.items() if value}
    return told if schema.default is ABSENT else {**told, "default": schema.default}


def swagger(registry: Registry) -> Json:
    """The OpenAPI v2 document: the kinds by name, without paths."""
    definitions = {}
    for group, version in registry.group_versions():
        for kind, served in registry.of(group, version):
            definitions[_definition(kind, served)] = {
                **described(served.schema),
                "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": kind.kind}],
            }
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "imitated"},
        "paths": {},
        "definitions": definitions,
    }


def _definition(kind: Kind, version: KindVersion) -> str:
    return f"{kind.group or 'core'}.{version.name}.{kind.kind}"
