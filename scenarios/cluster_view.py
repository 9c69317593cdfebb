"""The objects of a cluster, followed by watches, so that a run can wait for changes instead of asking again and again."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from core import kube
from core.errors import InputError, Problem
from core.kube import Informer, Json, KubeApi, ObjectName, Resource

FIELD_MANAGER = "tidegate-run"
FOLLOWED = (*kube.PLANNED_FROM, kube.NETWORKS, kube.DEPLOYMENTS)
"""What a plan is made from, and what tells whether Pods are there."""


class ClusterView:
    """Applies, changes and follows objects. After each request of its own it knows which version it must see."""

    def __init__(self, api: KubeApi, changed: threading.Condition) -> None:
        self._api = api
        self._changed = changed
        self._informers: dict[str, Informer] = {}
        self._due: dict[tuple[str, ObjectName], int | None] = {}
        """What was written and not yet seen: its version; None: it must be gone."""
        self._passed: list[tuple[Json, ...]] | None = None
        for resource in FOLLOWED:
            tell = self._note_slices if resource is kube.ENDPOINT_SLICES else self._wake
            self._informers[resource.kind] = api.watch(resource, tell)

    def _wake(self, _name: ObjectName) -> None:
        with self._changed:
            self._changed.notify_all()

    def _note_slices(self, name: ObjectName) -> None:
        if self._passed is not None:
            self._passed.append(self.objects())
        self._wake(name)

    def passed(self) -> list[tuple[Json, ...]]:
        """The snapshots after each change of an EndpointSlice since the last call; the first call begins to keep them."""
        found, self._passed = self._passed or [], []
        return found

    def snapshot(self) -> tuple[Mapping[ObjectName, Json], ...]:
        """The objects, kind by kind; of a kind of which nothing has changed, the same mapping as before."""
        return tuple(informer.objects() for informer in self._informers.values())

    def objects(self) -> tuple[Json, ...]:
        """A snapshot; objects are shared, so nobody changes them."""
        return tuple(obj for objects in self.snapshot() for obj in objects.values())

    def behind(self) -> str:
        """What the snapshot does not have yet of what was written here; ``""`` when it has all."""
        for resource in FOLLOWED:
            if not self._informers[resource.kind].synced:
                return f"the list of {resource.plural}"
        for (kind, name), version in list(self._due.items()):
            seen = self._informers[kind].objects().get(name)
            there = seen is not None and version is not None and _version(seen) >= version
            if not there and (seen is not None or version is not None):
                return f"the change of {kind} {'/'.join(name)}"
            del self._due[(kind, name)]
        return ""

    def apply(self, obj: Json) -> None:
        """Server-side apply. Raises InputError for a kind that the API does not have, ApiError when it refuses."""
        resource = resource_of(obj)
        self._note(resource, self._api.apply(resource, with_namespace(resource, obj), field_manager=FIELD_MANAGER))

    def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        """Sets the replicas of a Deployment. Raises ApiError."""
        patch = {"spec": {"replicas": replicas}}
        self._note(kube.DEPLOYMENTS, self._api.merge_patch(kube.DEPLOYMENTS, namespace, deployment, patch))

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Deletes an object. Raises InputError for an unknown kind, ApiError."""
        resource = kind_of(kind)
        namespace = namespace if resource.namespaced else ""
        self._api.delete(resource, namespace, name)
        if kind in self._informers:
            self._due[(kind, (namespace, name))] = None

    def _note(self, resource: Resource, stored: Json) -> None:
        metadata = stored["metadata"]
        if resource.kind in self._informers:
            self._due[(resource.kind, (metadata.get("namespace", ""), metadata["name"]))] = _version(stored)


def _version(obj: Mapping[str, object]) -> int:
    """resourceVersion; comparable as a number (Kubernetes enhancement 5504)."""
    metadata = obj["metadata"]
    assert isinstance(metadata, Mapping)
    return int(str(metadata["resourceVersion"]))


def resource_of(obj: Json) -> Resource:
    """Where objects of this apiVersion and kind are. Raises InputError when the API has no such kind."""
    group, _, version = str(obj["apiVersion"]).rpartition("/")
    for resource in kube.ALL_RESOURCES:
        if (resource.group, resource.kind) == (group, obj["kind"]):
            return replace(resource, version=version)
    where = f"{obj['kind']} {obj['metadata'].get('name', '')}"
    known = ", ".join(sorted(resource.kind for resource in kube.ALL_RESOURCES))
    raise InputError(
        Problem(
            where=where,
            what="a kind that the testbed does not have",
            found=obj["apiVersion"],
            expected=f"one of {known}",
        )
    )


def kind_of(kind: str) -> Resource:
    """Where objects of this kind are, in the version that we use. Raises InputError for an unknown kind."""
    resource = next((known for known in kube.ALL_RESOURCES if known.kind == kind), None)
    if resource is None:
        raise InputError(Problem(where="delete", what="unknown kind", found=repr(kind)))
    return resource


def with_namespace(resource: Resource, obj: Json) -> Json:
    """`obj` in the namespace that it has when it names none."""
    if not resource.namespaced or obj["metadata"].get("namespace"):
        return obj
    return obj | {"metadata": obj["metadata"] | {"namespace": "default"}}
