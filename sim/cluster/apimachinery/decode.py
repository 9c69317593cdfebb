"""From the value of a request's body to an object of a kind: identity, unknown fields, defaults, types.

Source: apiserver pkg/endpoints/handlers/create.go; apimachinery pkg/runtime/serializer/json; apiextensions-apiserver
pkg/apiserver/customresource_handler.go.
"""

from __future__ import annotations

from typing import Any

from sim.cluster.apimachinery import problems, schema, validation
from sim.cluster.apimachinery.problems import Json, StatusError
from sim.cluster.apimachinery.targets import Target, WriteOptions


def decode(target: Target, body: Any, options: WriteOptions, warnings: list[str], *, defaults: bool = True) -> Json:
    """The object of a request, with its unknown fields dropped and its defaults filled in.

    Raises:
        StatusError: 400 when it is not an object of the target's kind, version, name and namespace, or holds unknown fields and the
            client wants to know.
    """
    kind = target.kind
    if not isinstance(body, dict):
        found = validation.type_of(body)
        raise problems.bad_request(
            f"the object provided is unrecognized (must be of type {kind.kind}): couldn't get version/kind; json parse error: "
            f"cannot unmarshal {found} ({problems.shown(body)[:80]})"
        )
    if kind.custom and "kind" not in body:
        text = problems.shown(body)[:200]
        raise problems.bad_request(
            f"the object provided is unrecognized (must be of type {kind.kind}): Object 'Kind' is missing in '{text}'"
        )
    _check_identity(target, body)
    body = {**body, "apiVersion": target.api_version, "kind": kind.kind}
    if not isinstance(body.get("metadata"), dict):
        if body.get("metadata") is not None:
            raise undecodable(
                target, f"json: cannot unmarshal {validation.type_of(body['metadata'])} into Go struct field .metadata"
            )
        body["metadata"] = {}
    unknown: list[str] = []
    form = schema.Form(drop_null=not kind.custom, defaults=defaults)
    known: Json = schema.normalise(body, target.version.schema, form, unknown)
    if unknown and options.validation != "Ignore":
        texts = [f'unknown field "{path}"' for path in sorted(unknown)]
        if options.validation == "Strict":
            raise undecodable(target, "strict decoding error: " + ", ".join(texts))
        warnings += texts
    _check_types(target, known)
    _check_place(target, known["metadata"])
    storage = kind.version(kind.storage)
    if kind.custom and defaults and storage is not None and storage is not target.version:
        # What is stored has the shape of the storage version.
        known = schema.normalise(known, storage.schema, form, [])
    return known


def _check_identity(target: Target, body: Json) -> None:
    kind = target.kind
    version, name = body.get("apiVersion", target.api_version), body.get("kind", kind.kind)
    if (version, name) == (target.api_version, kind.kind):
        return
    if kind.custom and name != kind.kind:
        cause = problems.invalid_value("kind", name, f"must be {kind.kind}")
        raise problems.invalid(name, kind.group, (body.get("metadata") or {}).get("name", ""), [cause])
    if kind.custom:
        raise problems.bad_request(
            f"the API version in the data ({version}) does not match the expected API version ({target.api_version})"
        )
    if name == kind.kind:
        why = f'no kind "{name}" is registered for version "{version}"'
    else:
        why = f"converting ({version.replace('/', '.')}.{name}) to ({kind.group or 'core'}.{kind.kind}): unknown conversion"
    raise problems.bad_request(
        f'{name} in version "{version.rpartition("/")[2]}" cannot be handled as a {kind.kind}: {why}'
    )


def undecodable(target: Target, why: str) -> StatusError:
    """400: the object of a request cannot be read as one of the target's kind."""
    kind = target.kind.kind
    return problems.bad_request(f'{kind} in version "{target.version.name}" cannot be handled as a {kind}: {why}')


def _check_types(target: Target, obj: Json) -> None:
    """A built-in kind with a value of the wrong type cannot be decoded: 400. So it is for the metadata of every kind."""
    if target.kind.custom:
        causes = validation.validate(obj["metadata"], target.version.schema.properties["metadata"], "metadata")
    else:
        causes = validation.validate(obj, target.version.schema)
    wrong = [cause for cause in causes if cause.reason == "FieldValueTypeInvalid"]
    if wrong:
        found = wrong[0].detail.rpartition('"')[0].rpartition('"')[2]
        wanted = wrong[0].detail.partition("must be of type ")[2].partition(":")[0]
        found = {"boolean": "bool", "integer": "number"}.get(found, found)
        where = f"{target.kind.kind}.{wrong[0].field}"
        raise undecodable(target, f"json: cannot unmarshal {found} into Go struct field {where} of type {wanted}")


def _check_place(target: Target, meta: Json) -> None:
    namespace, name = meta.get("namespace"), meta.get("name")
    if target.kind.namespaced and namespace and namespace != target.namespace:
        raise problems.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if target.name and name and name != target.name:
        raise problems.bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({target.name})"
        )


def check_applied(target: Target, body: Any) -> None:
    """Raises a StatusError for a configuration that cannot be applied: of nothing, or with fields that the schema does not know."""
    if not isinstance(body, dict):
        raise problems.bad_request(f"error decoding YAML: expected an object, found {problems.shown(body)[:80]}")
    if not body.get("apiVersion") or not body.get("kind"):
        group, _, version = str(body.get("apiVersion") or "/").rpartition("/")
        raise problems.bad_request(f"invalid object type: {group}/{version}, Kind={body.get('kind', '')}")
    unknown: list[str] = []
    schema.normalise(
        body, target.version.schema, schema.Form(drop_null=not target.kind.custom, defaults=False), unknown
    )
    if unknown:
        # What the schema does not know has no place in a set of fields.
        listed = "\n".join(f".{path}: field not declared in schema" for path in unknown)
        where = f"{(body.get('metadata') or {}).get('namespace', '')}/{target.name}"
        kind = f"{target.api_version}, Kind={target.kind.kind}"
        if not target.kind.group:
            kind = f"/{kind}"
        raise StatusError(500, "", f"failed to create typed patch object ({where}; {kind}): {listed}")
