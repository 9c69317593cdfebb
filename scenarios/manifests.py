"""Kubernetes objects in files: read with their lines, checked, and handed to the core as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError, Problem
from core.kube import Json
from core.manifests import parse_object
from core.manifests.meta import CLUSTER_SCOPED
from core.model import ObjectRef
from core.objects import Rejected
from scenarios.known_keys import unknown_keys
from scenarios.yamlsource import Node, read_documents


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestObject:
    """One Kubernetes object, and where it stands."""

    ref: ObjectRef
    obj: Json
    node: Node


def read_manifests(paths: Iterable[Path]) -> tuple[ManifestObject, ...]:
    """The objects of all files, checked, in their order. Raises InputError with every problem of every file."""
    objects: list[ManifestObject] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            documents = read_documents(path)
        except InputError as error:
            problems.extend(error.problems)
            continue
        in_file: list[ManifestObject] = []
        for node in documents:
            in_file.extend(_objects(node, problems))
        problems.extend(_duplicates(in_file))
        for found in in_file:
            problems.extend(check(found))
        objects.extend(in_file)
    if problems:
        raise InputError(*problems)
    return tuple(objects)


def desired(objects: Sequence[ManifestObject]) -> list[Json]:
    """The objects that a cluster has after all were applied in their order: of two with one name, the later."""
    return [found.obj for found in {found.ref: found for found in objects}.values()]


def _objects(node: Node, problems: list[Problem]) -> Iterator[ManifestObject]:
    """The objects of one document: one, or the items of a List."""
    if not isinstance(node.value, Mapping):
        problems.append(
            Problem(
                where=node.where,
                what="is no Kubernetes object",
                found=node.describe(),
                expected="apiVersion, kind, metadata",
            )
        )
        return
    value = node.json()
    if (
        value.get("kind") == "List"
        and isinstance(items := node.value.get("items"), tuple)
        and isinstance(items.node.value, tuple)
    ):
        for item in items.node.value:
            yield from _objects(item, problems)
        return
    complete = True
    for key in ("apiVersion", "kind"):
        if not isinstance(value.get(key), str) or not value[key]:
            found = node.value[key].node.describe() if key in node.value else ""
            hint = " (a scenario, perhaps: give its name or file)" if "manifests" in value else ""
            problems.append(
                Problem(
                    where=node.where_key(key),
                    what=f"missing {key}: no Kubernetes object{hint}",
                    found=found,
                    expected="text",
                )
            )
            complete = False
    if complete:
        metadata = value.get("metadata") if isinstance(value.get("metadata"), dict) else {}
        namespace = "" if value["kind"] in CLUSTER_SCOPED else str(metadata.get("namespace") or "default")
        ref = ObjectRef(kind=value["kind"], namespace=namespace, name=str(metadata.get("name") or ""))
        yield ManifestObject(ref=ref, obj=value, node=node)


def _duplicates(objects: Sequence[ManifestObject]) -> Iterator[Problem]:
    seen: dict[tuple[str, ObjectRef], ManifestObject] = {}
    for found in objects:
        first = seen.setdefault((str(found.obj["apiVersion"]).rpartition("/")[0], found.ref), found)
        if first is not found and found.ref.name:
            yield Problem(
                where=found.node.where,
                what="the same object twice",
                found=f"{found.ref}, first at {first.node.where}",
                expected="one of them",
            )


def check(found: ManifestObject) -> Iterator[Problem]:
    """Everything that is wrong with one object by itself."""
    yield from unknown_keys(found.node)
    if not found.ref.name:
        yield Problem(
            where=found.node.line_at(("metadata",)), what=f"{found.ref.kind} without a name", expected="metadata.name"
        )
        return
    result = parse_object(found.obj)
    if isinstance(result, Rejected):
        for problem in result.problems:
            yield problem.at(found.node.line_at(problem.path))
    if found.ref.kind == "NetworkAttachmentDefinition":
        yield from _network(found)


def _network(found: ManifestObject) -> Iterator[Problem]:
    """The configuration of a network is JSON in text."""
    spec = found.obj.get("spec")
    text = spec.get("config") if isinstance(spec, dict) else None
    where = found.node.line_at(("spec", "config"))
    if not isinstance(text, str):
        yield Problem(
            where=where, what=f"{found.ref}: spec.config is missing", expected="a CNI configuration as JSON text"
        )
        return
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        yield Problem(
            where=where, what=f"{found.ref}: spec.config is no JSON", found=str(error), expected="a CNI configuration"
        )
        return
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        yield Problem(
            where=where, what=f"{found.ref}: spec.config has no type", expected="a CNI plugin, such as vlan or macvlan"
        )
