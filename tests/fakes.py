"""An API server in memory, for tests of its clients.

How far it goes: names, UIDs, resourceVersions, generations, the status subresource, label selectors, graceful deletion of Pods, fields
that a manager no longer applies. Informers are told by one thread, in order. It has no schemas, no defaults, no field conflicts.
"""

from __future__ import annotations

import copy
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from core.errors import ApiError
from core.kube import PODS, Json, ObjectName, Resource

Listener = Callable[[ObjectName], None]
LIST_KEYS = ("type", "name", "uid", "ip")
"""Fields that tell the elements of a list apart when two managers apply it."""


class FakeInformer:
    def __init__(self, api: FakeApi, resource: Resource, matches: Callable[[Json], bool]) -> None:
        self._api, self._resource, self._matches = api, resource, matches

    @property
    def synced(self) -> bool:
        return True

    @property
    def version(self) -> str | None:
        return self._api.version

    def objects(self) -> Mapping[ObjectName, Json]:
        return {name: obj for name, obj in self._api.snapshot(self._resource).items() if self._matches(obj)}


class FakeApi:
    """Implements `core.kube.KubeApi`. `refuse` may be set to a function that raises for (verb, resource, name)."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._objects: dict[str, dict[ObjectName, Json]] = {}
        self._applied: dict[tuple[str, ObjectName, str, str], Json] = {}
        self._listeners: list[tuple[str, Callable[[Json], bool], Listener]] = []
        self._version = 0
        self._uids = itertools.count(1)
        self._changes: queue.SimpleQueue[tuple[str, ObjectName, Json] | None] = queue.SimpleQueue()
        self._teller: threading.Thread | None = None
        self.refuse: Callable[[str, Resource, str], None] = lambda *_: None

    def close(self) -> None:
        """Ends the thread that tells of changes."""
        if self._teller is not None:
            self._changes.put(None)
            self._teller.join()

    @property
    def version(self) -> str:
        """The newest that an object has."""
        with self._lock:
            return str(self._version)

    def snapshot(self, resource: Resource) -> dict[ObjectName, Json]:
        with self._lock:
            return dict(self._objects.get(resource.plural, {}))

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        self.refuse("get", resource, name)
        with self._lock:
            return self._objects.get(resource.plural, {}).get((namespace if resource.namespaced else "", name))

    def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Iterable[Json]:
        assert field_selector is None, "this fake has no field selectors"
        self.refuse("list", resource, "")
        return [obj for obj in self.snapshot(resource).values() if _matcher(namespace, label_selector)(obj)]

    def create(self, resource: Resource, obj: Json) -> Json:
        self.refuse("create", resource, obj["metadata"].get("name", ""))
        if resource.kind == "Binding":
            metadata, node = obj["metadata"], obj["target"]["name"]
            return self.merge_patch(PODS, metadata["namespace"], metadata["name"], {"spec": {"nodeName": node}})
        with self._lock:
            name = _name_of(resource, obj)
            if name in self._objects.get(resource.plural, {}):
                raise ApiError(409, "AlreadyExists", f"{resource.plural} {name[1]!r} already exists")
            made = copy.deepcopy(obj)
            made["metadata"]["uid"] = f"uid-{next(self._uids)}"
            made["metadata"]["generation"] = 1
            if resource.namespaced:
                made["metadata"].setdefault("namespace", "default")
            stored = self._store(resource, name, made)
        self._tell(resource, name, stored)
        return stored

    def replace(self, resource: Resource, obj: Json, *, subresource: str | None = None) -> Json:
        with self._lock:
            name = _name_of(resource, obj)
            current = self._current(resource, name)
            if obj["metadata"].get("resourceVersion") not in (None, current["metadata"]["resourceVersion"]):
                raise ApiError(409, "Conflict", f"{name[1]} was modified")
            return self._write(resource, name, current, copy.deepcopy(obj), subresource)

    def merge_patch(
        self, resource: Resource, namespace: str, name: str, patch: Json, *, subresource: str | None = None
    ) -> Json:
        with self._lock:
            key = (namespace if resource.namespaced else "", name)
            current = self._current(resource, key)
            return self._write(resource, key, current, _merge(current, patch), subresource)

    def apply(
        self, resource: Resource, obj: Json, *, field_manager: str, subresource: str | None = None, force: bool = True
    ) -> Json:
        assert force, "this fake knows no conflicts of managers"
        self.refuse("apply", resource, obj["metadata"]["name"])
        with self._lock:
            name = _name_of(resource, obj)
            if name not in self._objects.get(resource.plural, {}):
                if subresource is not None:
                    raise ApiError(404, "NotFound", f"{resource.plural} {name[1]!r} not found")
                self.create(resource, obj)
            current = self._current(resource, name)
            if obj["metadata"].get("uid", current["metadata"]["uid"]) != current["metadata"]["uid"]:
                raise ApiError(409, "Conflict", f"uid of {name[1]} differs")
            mark = (resource.plural, name, field_manager, subresource or "")
            before = self._applied.get(mark, {})
            self._applied[mark] = copy.deepcopy(obj)
            return self._write(resource, name, current, _apply(current, before, obj), subresource)

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        grace_period_s: int | None = None,
    ) -> None:
        key = (namespace if resource.namespaced else "", name)
        with self._lock:
            current = self._objects.get(resource.plural, {}).get(key)
            if current is None or (uid is not None and current["metadata"]["uid"] != uid):
                return
            bound = resource is PODS and current["spec"].get("nodeName")
            grace_s = (
                current["spec"].get("terminationGracePeriodSeconds", 30) if grace_period_s is None and bound else 0
            )
            if bound and grace_period_s != 0:
                if "deletionTimestamp" in current["metadata"]:
                    return
                going = copy.deepcopy(current)
                going["metadata"] |= {
                    "deletionTimestamp": "2026-01-01T00:00:00Z",
                    "deletionGracePeriodSeconds": grace_s if grace_period_s is None else grace_period_s,
                }
                current = self._store(resource, key, going)
            else:
                del self._objects[resource.plural][key]
        self._tell(resource, key, current)

    def watch(
        self,
        resource: Resource,
        on_change: Listener,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> FakeInformer:
        assert field_selector is None, "this fake has no field selectors"
        matches = _matcher(namespace, label_selector)
        with self._lock:
            self._listeners.append((resource.plural, matches, on_change))
            for name, obj in self._objects.get(resource.plural, {}).items():
                self._tell(resource, name, obj)
            if self._teller is None:
                self._teller = threading.Thread(target=self._tell_all, name="fake API", daemon=True)
                self._teller.start()
        return FakeInformer(self, resource, matches)

    def _current(self, resource: Resource, name: ObjectName) -> Json:
        found = self._objects.get(resource.plural, {}).get(name)
        if found is None:
            raise ApiError(404, "NotFound", f"{resource.plural} {name[1]!r} not found")
        return found

    def _write(
        self, resource: Resource, name: ObjectName, current: Json, wanted: Json, subresource: str | None
    ) -> Json:
        made = copy.deepcopy(wanted)
        if subresource == "status":
            made["spec"] = current.get("spec")
        elif "status" in current:
            made["status"] = current["status"]
        made["metadata"] = {**current["metadata"], **made["metadata"]}
        if _without_version(made) == _without_version(current):
            return current
        if made.get("spec") != current.get("spec"):
            made["metadata"]["generation"] = current["metadata"].get("generation", 1) + 1
        stored = self._store(resource, name, made)
        self._tell(resource, name, stored)
        return stored

    def _store(self, resource: Resource, name: ObjectName, obj: Json) -> Json:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        self._objects.setdefault(resource.plural, {})[name] = obj
        return obj

    def _tell(self, resource: Resource, name: ObjectName, obj: Json) -> None:
        self._changes.put((resource.plural, name, obj))

    def _tell_all(self) -> None:
        while (change := self._changes.get()) is not None:
            changed, name, obj = change
            with self._lock:
                listeners = list(self._listeners)
            for plural, matches, listener in listeners:
                if plural == changed and matches(obj):
                    listener(name)


def _name_of(resource: Resource, obj: Json) -> ObjectName:
    metadata = obj["metadata"]
    return (metadata.get("namespace", "default") if resource.namespaced else "", metadata["name"])


def _matcher(namespace: str | None, label_selector: str | None) -> Callable[[Json], bool]:
    wanted = dict(part.split("=", 1) for part in label_selector.split(",")) if label_selector else {}

    def matches(obj: Json) -> bool:
        metadata = obj["metadata"]
        labels = metadata.get("labels") or {}
        return namespace in (None, metadata.get("namespace")) and all(labels.get(k) == v for k, v in wanted.items())

    return matches


def _merge(current: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    made = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merge(made.get(key), value)
    return made


def _apply(current: Any, before: Any, wanted: Any) -> Any:
    """What is wanted over what there is, less what this manager wanted before and does not any more."""
    if isinstance(wanted, dict):
        base = current if isinstance(current, dict) else {}
        old = before if isinstance(before, dict) else {}
        made = {key: value for key, value in base.items() if key in wanted or key not in old}
        for key, value in wanted.items():
            made[key] = _apply(base.get(key), old.get(key), value)
        return made
    if isinstance(wanted, list) and wanted and all(isinstance(item, dict) for item in wanted):
        key = next((key for key in LIST_KEYS if all(key in item for item in wanted)), None)
        if key is not None:
            base_items = {item.get(key): item for item in current or ()} if isinstance(current, list) else {}
            gone = {item.get(key) for item in before or ()} - {item[key] for item in wanted}
            merged = {name: item for name, item in base_items.items() if name not in gone}
            merged.update({item[key]: _apply(base_items.get(item[key]), None, item) for item in wanted})
            return list(merged.values())
    return wanted


def _without_version(obj: Json) -> Json:
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}}
