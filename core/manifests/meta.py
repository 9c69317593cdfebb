"""metadata, and the small annotations that are JSON."""

from __future__ import annotations

import json
from typing import Any

from core.kube import Json
from core.manifests.fields import Reader
from core.model import Meta, NetworkSelection, ObjectRef
from core.problems import FieldProblem

CLUSTER_SCOPED = frozenset({"GatewayClass", "Namespace", "Node"})


def read_meta(obj: Json) -> tuple[Meta, list[FieldProblem]]:
    """The metadata of `obj`, as far as it can be read, and its problems."""
    raw = obj.get("metadata")
    kind = str(obj.get("kind", ""))
    given = raw if isinstance(raw, dict) else {}
    namespace = "" if kind in CLUSTER_SCOPED else str(given.get("namespace") or "default")
    ref = ObjectRef(kind=kind, namespace=namespace, name=str(given.get("name") or ""))
    reader = Reader(ref, given, ("metadata",))
    if not isinstance(raw, dict):
        reader.problem(None, "required field is missing", raw, "an object with a name")
    elif not ref.name or not isinstance(given.get("name"), str):
        reader.problem("name", "required field is missing or no string", given.get("name"), "a string")
    if not isinstance(given.get("namespace", ""), str):
        reader.problem("namespace", "wrong type", given.get("namespace"), "a string")
    generation = given.get("generation")
    meta = Meta(
        ref=ref,
        uid=reader.text("uid"),
        generation=generation if isinstance(generation, int) else 0,
        labels=reader.labels("labels"),
        annotations=reader.labels("annotations"),
        created=reader.text("creationTimestamp"),
        deleting=given.get("deletionTimestamp") is not None,
    )
    return meta, reader.problems


def network_selections(reader: Reader, key: str, text: str) -> tuple[NetworkSelection, ...]:
    """The networks of a ``k8s.v1.cni.cncf.io/networks`` annotation in its JSON or its short form.

    Source: Kubernetes Network Custom Resource Definition De-facto Standard, section 4.1.2.
    """
    namespace = reader.ref.namespace
    if not text.strip():
        return ()
    if not text.lstrip().startswith("["):
        return tuple(_short_selection(part.strip(), namespace) for part in text.split(",") if part.strip())
    items = json_annotation(reader, key, text, list)
    selections = []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            reader.problem(key, "not a network selection", item, '{"name": "…", "interface": "…"}')
            continue
        selections.append(
            NetworkSelection(
                namespace=str(item.get("namespace") or namespace),
                name=item["name"],
                interface=str(item.get("interface") or ""),
            )
        )
    return tuple(selections)


def _short_selection(text: str, namespace: str) -> NetworkSelection:
    """``namespace/name@interface``, the first and the last optional."""
    name, _, interface = text.partition("@")
    before, slash, after = name.partition("/")
    return NetworkSelection(
        namespace=before if slash else namespace, name=after if slash else before, interface=interface
    )


def json_annotation(reader: Reader, key: str, text: str, type_: type[Any]) -> Any:
    """The JSON in an annotation, of type list or dict; an empty one, with a problem noted, when it is not."""
    expected = "a JSON list" if type_ is list else "a JSON object"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # ValueError is also a number of more digits than int() takes
        reader.problem(key, "not JSON", text, expected)
        return type_()
    if not isinstance(value, type_):
        reader.problem(key, "wrong JSON", value, expected)
        return type_()
    return value
