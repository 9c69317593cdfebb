"""Kubernetes objects in files: read with their lines, checked, and handed to the core as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InputError, Problem
from core.kube import ALL_RESOURCES, NETWORKS, Json
from core.manifests import parse_object
from core.manifests.meta import CLUSTER_SCOPED
from core.model import ObjectRef
from core.names import ALL_PORTS_PROTOCOL, GATEWAY_GROUP
from core.objects import Rejected
from core.problems import FieldProblem
from scenarios.decode import nearest
from scenarios.known_keys import unknown_keys
from scenarios.schemas import misfits
from scenarios.yamlsource import Node, scan_documents

if TYPE_CHECKING:
    from sim.cluster.networks import NetworkConfig

TWO_VERSIONS = ("Gateway", "GatewayClass", "HTTPRoute", "ReferenceGrant")
"""Served as v1 and as v1beta1. Source: Gateway API v1.6, standard channel."""
KNOWN_KINDS = frozenset((resource.group, resource.kind) for resource in ALL_RESOURCES)
LISTENER_PROTOCOLS = ("HTTP", "HTTPS", "TLS", "TCP", "UDP")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestObject:
    """One Kubernetes object, and where it stands."""

    ref: ObjectRef
    obj: Json
    node: Node

    @property
    def group(self) -> str:
        """The API group of its kind."""
        return str(self.obj["apiVersion"]).rpartition("/")[0]

    @property
    def known(self) -> bool:
        """Whether Tidegate knows its kind: others may have kinds of the same name in groups of their own."""
        return (self.group, self.ref.kind) in KNOWN_KINDS


def read_manifests(paths: Iterable[Path]) -> tuple[ManifestObject, ...]:
    """The objects of all files, checked, in their order. Raises InputError with every problem of every file."""
    objects, problems = scan_manifests(paths)
    if problems:
        raise InputError(*problems)
    return objects


def scan_manifests(paths: Iterable[Path]) -> tuple[tuple[ManifestObject, ...], tuple[Problem, ...]]:
    """The objects that have a kind and a name, in their order, and every problem of every file. Objects with problems are among them:
    a plan gives them a status that says so.
    """
    objects: list[ManifestObject] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            documents, broken = scan_documents(path)
        except InputError as error:
            problems.extend(error.problems)
            continue
        in_file: list[ManifestObject] = []
        found = list(broken)
        for node in documents:
            in_file.extend(_objects(node, found))
        found.extend(_duplicates(in_file))
        for obj in in_file:
            own = tuple(check(obj))
            found.extend(own)
            found.extend(_refused(obj, own))
        objects.extend(obj for obj in in_file if obj.ref.name)
        problems.extend(sorted(found, key=by_line))
    return tuple(objects), tuple(problems)


def by_line(problem: Problem) -> tuple[str, int]:
    """Sorts problems as a person reads a file."""
    source, _, line = problem.where.rpartition(":")
    return (source, int(line)) if line.isdigit() else (problem.where, 0)


def desired(objects: Sequence[ManifestObject]) -> list[Json]:
    """The objects that a cluster has after all were applied in their order: of two with one name in one group, the later.

    Networks stand first, whatever file they are in: a kubelet that meets a Pod before its network has to start it twice.
    """
    latest = {(found.group, found.ref): found for found in objects}.values()
    return [found.obj for found in sorted(latest, key=lambda found: found.ref.kind != NETWORKS.kind)]


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
        str(value.get("kind")).endswith("List")
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
        first = seen.setdefault((found.group, found.ref), found)
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
    yield from _version(found)
    if not found.known:
        return
    if found.ref.kind == "NetworkAttachmentDefinition":
        yield from _network(found)
    elif found.ref.kind == "Gateway":
        yield from _listener_protocols(found)


def _refused(found: ManifestObject, known: Sequence[Problem]) -> Iterator[Problem]:
    """For what an API server would refuse one object, but for what follows from the problems that are `known` of it."""
    if not found.ref.name:
        return
    lines = {problem.where for problem in known}
    misspelt = any(problem.what == "unknown key" for problem in known)
    for path, what in misfits(found.obj):
        where = found.node.line_at(path)
        if where not in lines and not (misspelt and what.startswith("Required value")):
            yield FieldProblem(ref=found.ref, path=path, what=what).at(where)


def _network(found: ManifestObject) -> Iterator[Problem]:
    """The configuration of a network is JSON in text. Plugins that only a real cluster has are none of our business."""
    from sim.cluster.networks import NetworkError, parse_config

    metadata = found.obj["metadata"] | {"namespace": found.ref.namespace}
    try:
        parse_config(found.obj | {"metadata": metadata})
    except NetworkError as error:
        if error.reason == "BadNetworkConfig":
            yield Problem(where=found.node.line_at(("spec", "config")), what=str(error))


def network_config(found: ManifestObject) -> NetworkConfig | None:
    """The network of the virtual network that a NetworkAttachmentDefinition stands for; None for other objects and other plugins."""
    from sim.cluster.networks import NetworkError, parse_config

    if not found.known or found.ref.kind != "NetworkAttachmentDefinition":
        return None
    try:
        return parse_config(found.obj | {"metadata": found.obj["metadata"] | {"namespace": found.ref.namespace}})
    except NetworkError:
        return None


def _version(found: ManifestObject) -> Iterator[Problem]:
    """Of a kind that a plan reads, in a version that no API server of ours serves."""
    group, version = found.group, found.obj["apiVersion"].rpartition("/")[2]
    known = {
        resource.version for resource in ALL_RESOURCES if (resource.group, resource.kind) == (group, found.ref.kind)
    }
    if group == GATEWAY_GROUP and found.ref.kind in TWO_VERSIONS:
        known = {"v1", "v1beta1"}
    if known and version not in known:
        yield Problem(
            where=found.node.where_key("apiVersion"),
            what=f"{found.ref}: unknown version",
            found=repr(found.obj["apiVersion"]),
            expected=" or ".join(repr(f"{group}/{v}" if group else v) for v in sorted(known)),
        )


def _listener_protocols(found: ManifestObject) -> Iterator[Problem]:
    """A listener may have any protocol that some controller knows; a word without a domain is one of Gateway API's own, or misspelt."""
    spec = found.obj.get("spec")
    listeners = spec.get("listeners") if isinstance(spec, dict) else None
    for i, listener in enumerate(listeners if isinstance(listeners, list) else []):
        protocol = listener.get("protocol") if isinstance(listener, dict) else None
        if isinstance(protocol, str) and "/" not in protocol and protocol not in LISTENER_PROTOCOLS:
            yield Problem(
                where=found.node.line_at(("spec", "listeners", i, "protocol")),
                what=f"{found.ref}: spec.listeners[{i}].protocol: unknown protocol",
                found=repr(protocol),
                expected=f"{nearest(protocol, LISTENER_PROTOCOLS)}, or one with a domain, such as {ALL_PORTS_PROTOCOL!r}",
            )
