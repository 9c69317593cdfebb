"""What follows from deletes: dependents go with their owners, a namespace's content with the namespace.

In a cluster these are controllers of kube-controller-manager (garbage collector, namespace controller); here they run beside the store,
right after the request that gives them work.
Source: kubernetes.io/docs/concepts/architecture/garbage-collection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sim.cluster.apimachinery import deletes
from sim.cluster.apimachinery.deletes import FOREGROUND, ORPHAN, DeleteOptions
from sim.cluster.apimachinery.kinds import Kind
from sim.cluster.apimachinery.problems import Json
from sim.cluster.apimachinery.store import DELETED, Change, Collection, Name
from sim.cluster.apimachinery.targets import Target
from sim.cluster.apimachinery.writes import Writer

_Place = tuple[str, str, Name]
"""(group, plural, name)."""


@dataclass(slots=True, eq=False)
class Collector:
    """Follows the store and does what its changes ask for when `run` is called; `wanted` is called when there is something to do."""

    writer: Writer
    wanted: Callable[[], None]
    _owners: dict[str, _Place] = field(default_factory=dict)
    _gone: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """(group, kind, name) of owners that have gone since the last `run`: their kind may have gone with them."""
    _dependents: dict[str, set[_Place]] = field(default_factory=dict)
    _pending: dict[_Place, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.writer.store.listeners.append(self._follow)

    def _follow(self, collection: Collection, change: Change) -> None:
        place = (collection.group, collection.plural, change.name)
        meta = change.after.obj["metadata"]
        uid = meta["uid"]
        before = (change.before.obj["metadata"].get("ownerReferences") or []) if change.before else []
        after = (meta.get("ownerReferences") or []) if change.type != DELETED else []
        for reference in before:
            if reference not in after:
                self._dependents.get(reference["uid"], set()).discard(place)
                # An owner that goes last may have waited for just this reference, or for what it said.
                if owner := self._owners.get(reference["uid"]):
                    self._pending[owner] = None
        for reference in after:
            self._dependents.setdefault(reference["uid"], set()).add(place)
        if change.type == DELETED:
            self._owners.pop(uid, None)
            if dependents := self._dependents.get(uid):
                self._gone[uid] = (collection.group, change.after.obj["kind"], change.name[1])
                self._pending.update(dict.fromkeys(sorted(dependents)))
            if change.name[0]:
                self._pending["", "namespaces", ("", change.name[0])] = None
        else:
            self._owners[uid] = place
            if after or meta.get("deletionTimestamp"):
                self._pending[place] = None
        if self._pending:
            self.wanted()

    def run(self) -> None:
        """Does what is to be done, until nothing is left."""
        while self._pending:
            place = next(iter(self._pending))
            del self._pending[place]
            self._attend(place)
        self._gone.clear()

    def _attend(self, place: _Place) -> None:
        found = self._object(place)
        if found is None:
            return
        kind, obj = found
        meta = obj["metadata"]
        if meta.get("deletionTimestamp"):
            if kind.plural == "namespaces" and not kind.group:
                self._empty(place[2][1], kind, obj)
            elif ORPHAN in (meta.get("finalizers") or []):
                self._orphan(kind, obj)
            elif FOREGROUND in (meta.get("finalizers") or []):
                self._delete_first(kind, obj)
        references = meta.get("ownerReferences") or []
        if references and not meta.get("deletionTimestamp"):
            self._collect(kind, obj)

    def _object(self, place: _Place) -> tuple[Kind, Json] | None:
        group, plural, name = place
        kind = self.writer.registry.find(group, plural)
        record = self.writer.store.collection(group, plural).records.get(name)
        return (kind, record.obj) if kind is not None and record is not None else None

    def _exists(self, reference: Json, namespace: str) -> bool | None:
        """Whether an owner is there, of that UID, kind and name; None when nobody can tell, as the kind is not known or not to be had.

        Source: kube-controller-manager pkg/controller/garbagecollector/garbagecollector.go, isDangling.
        """
        group, _, version = str(reference["apiVersion"]).rpartition("/")
        if self._gone.get(reference["uid"]) == (group, reference["kind"], reference["name"]):
            return False
        kind = self.writer.registry.by_kind(group, reference["kind"])
        if kind is None or kind.version(version) is None or (kind.namespaced and not namespace):
            return None
        place = (kind.group, kind.plural, (namespace if kind.namespaced else "", reference["name"]))
        return self._owners.get(reference["uid"]) == place

    def _waits(self, reference: Json) -> bool:
        """Whether the owner waits for its dependents to go first."""
        place = self._owners.get(reference["uid"])
        found = self._object(place) if place else None
        meta = found[1]["metadata"] if found else {}
        return bool(meta.get("deletionTimestamp")) and FOREGROUND in (meta.get("finalizers") or [])

    def _collect(self, kind: Kind, obj: Json) -> None:
        """Deletes an object that has no owner left; drops the owners that are gone from one that has."""
        meta = obj["metadata"]
        namespace = meta.get("namespace", "")
        references = meta["ownerReferences"]
        there = [self._exists(one, namespace) for one in references]
        if None in there:
            return
        left = [one for one, is_there in zip(references, there, strict=True) if is_there]
        solid = [one for one in left if not self._waits(one)]
        if solid:
            if len(solid) < len(references):
                self._store(kind, {**obj, "metadata": {**meta, "ownerReferences": solid}})
        elif left and self._dependents.get(meta["uid"]):
            # Its owner waits for it: it waits for its own dependents in turn.
            self._delete(kind, obj, "Foreground")
        else:
            self._delete(kind, obj, "")

    def _delete(self, kind: Kind, obj: Json, policy: str) -> None:
        deletes.delete(
            self.writer, self._target(kind, obj), DeleteOptions(propagation=policy, uid=obj["metadata"]["uid"])
        )

    def _target(self, kind: Kind, obj: Json) -> Target:
        version = kind.version(kind.storage) or kind.versions[0]
        meta = obj["metadata"]
        return Target(kind=kind, version=version, namespace=meta.get("namespace", ""), name=meta["name"])

    def _store(self, kind: Kind, obj: Json) -> None:
        meta = obj["metadata"]
        self.writer.put_or_finish(kind, (meta.get("namespace", ""), meta["name"]), obj)

    def _without_finalizer(self, kind: Kind, obj: Json, finalizer: str) -> None:
        meta = dict(obj["metadata"])
        left = [one for one in meta["finalizers"] if one != finalizer]
        if left:
            meta["finalizers"] = left
        else:
            del meta["finalizers"]
        self._store(kind, {**obj, "metadata": meta})

    def _orphan(self, kind: Kind, obj: Json) -> None:
        uid = obj["metadata"]["uid"]
        for place in sorted(self._dependents.get(uid, ())):
            if found := self._object(place):
                meta = dict(found[1]["metadata"])
                meta["ownerReferences"] = [one for one in meta.get("ownerReferences") or [] if one["uid"] != uid]
                if not meta["ownerReferences"]:
                    del meta["ownerReferences"]
                self._store(found[0], {**found[1], "metadata": meta})
        self._without_finalizer(kind, obj, ORPHAN)

    def _delete_first(self, kind: Kind, obj: Json) -> None:
        uid = obj["metadata"]["uid"]
        blocking = False
        for place in sorted(self._dependents.get(uid, ())):
            if found := self._object(place):
                references = found[1]["metadata"].get("ownerReferences") or []
                blocking = blocking or any(one["uid"] == uid and one.get("blockOwnerDeletion") for one in references)
                if not found[1]["metadata"].get("deletionTimestamp"):
                    self._pending[place] = None
        if not blocking:
            self._without_finalizer(kind, obj, FOREGROUND)

    def _empty(self, namespace: str, kind: Kind, obj: Json) -> None:
        """Deletes what is in a namespace, and the namespace when nothing is left in it."""
        left = False
        for (group, plural), collection in list(self.writer.store.collections.items()):
            content = self.writer.registry.find(group, plural)
            for name in collection.sorted_names(namespace):
                record = collection.records.get(name)
                if content is None or not content.namespaced or record is None:
                    continue
                if not record.obj["metadata"].get("deletionTimestamp"):
                    self._delete(content, record.obj, "Background")
                left = left or name in collection.records
        if not left and (obj.get("spec") or {}).get("finalizers"):
            spec = {key: value for key, value in (obj.get("spec") or {}).items() if key != "finalizers"}
            current = self._object(("", "namespaces", ("", namespace)))
            if current is not None:
                self._store(kind, {**current[1], "spec": spec})
