"""The Kubernetes API: stored objects, and what those who watch have been told of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from core.errors import ApiError
from core.kube import Json, Resource
from sim.des.defaults import filled
from sim.des.kernel import US, Kernel, Process, Signal
from sim.des.seen import Key, Seen

Tell = Callable[[Sequence[Key]], None]


class Api:
    """An API server and its watches, without requests between.

    Models: server-side apply (each manager's fields, those that it no longer gives are removed), uid, resourceVersion, generation,
    creationTimestamp, deletion of Pods in two steps, garbage collection by owner; one delay between a write and all watches.
    Does not model: the time of a request, schemas, defaults of other kinds than Deployments and DaemonSets, conflicts between managers,
    lists with keys (a list is replaced), finalizers, watches that break, a server that is away.
    """

    def __init__(self, kernel: Kernel, *, watch_s: float) -> None:
        self._kernel = kernel
        self._watch_us = round(watch_s * US)
        self._stored: dict[str, dict[Key, Json]] = {}
        """By kind."""
        self._by_owner: dict[str, dict[Key, None]] = {}
        """UID of an owner -> what it owns; a dict for its order."""
        self._fields: dict[Key, dict[tuple[str, str], Json]] = {}
        """For each object: (manager, subresource) -> what it applied last."""
        self._version = 0
        self._made = 0
        self._untold: deque[tuple[int, Key, Json | None, str]] = deque()
        self._written = Signal(kernel)
        self._watchers: list[tuple[frozenset[str], str, Tell]] = []
        self.seen = Seen()
        """What every client that watches knows."""
        kernel.start(self._tell())

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._version

    # --- reading --------------------------------------------------------------------------------------------------------------

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """The object as it is stored."""
        return self._stored.get(kind, {}).get((kind, namespace, name))

    def objects(self, kinds: Iterable[str]) -> tuple[Json, ...]:
        """The stored objects of some kinds, in the order of kinds, then of creation."""
        return tuple(obj for kind in kinds for obj in self._stored.get(kind, {}).values())

    def owned(self, uid: str) -> tuple[Json, ...]:
        """The objects that name this owner, in the order of their creation."""
        return tuple(self._stored[key[0]][key] for key in self._by_owner.get(uid, ()))

    def watch(self, kinds: Iterable[str], tell: Tell, *, client: str = "") -> Callable[[], None]:
        """Calls `tell` with the objects of `kinds` in which `seen` has changed, but for what `client` wrote itself. Returns what ends
        it."""
        watcher = (frozenset(kinds), client, tell)
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    # --- writing --------------------------------------------------------------------------------------------------------------

    def apply(self, resource: Resource, obj: Json, *, client: str, subresource: str = "") -> Json:
        """The object after a server-side apply. Raises ApiError: 404 for a subresource of nothing, 409 when the UID is another's."""
        metadata = obj["metadata"]
        key = (resource.kind, metadata.get("namespace", ""), metadata["name"])
        current = self.get(*key)
        if current is None:
            if subresource:
                raise ApiError(404, "NotFound", f"{resource.plural} {metadata['name']!r} not found")
            return self._create(key, obj, client)
        if metadata.get("uid", current["metadata"]["uid"]) != current["metadata"]["uid"]:
            raise ApiError(409, "Conflict", f"{metadata['name']!r} has another uid")
        fields = self._fields[key]
        before = fields.get((client, subresource), {})
        fields[(client, subresource)] = obj
        return self._store(key, current, merged(current, before, obj), client)

    def create(self, resource: Resource, obj: Json, *, client: str) -> Json:
        """The created object. Raises ApiError: 409 when its name is taken."""
        key = (resource.kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if self.get(*key) is not None:
            raise ApiError(409, "AlreadyExists", f"{resource.plural} {key[2]!r} already exists")
        return self._create(key, obj, client)

    def patch(self, resource: Resource, namespace: str, name: str, patch: Json, *, client: str) -> Json:
        """The object after a merge patch. Raises ApiError: 404."""
        key = (resource.kind, namespace, name)
        current = self.get(*key)
        if current is None:
            raise ApiError(404, "NotFound", f"{resource.plural} {name!r} not found")
        return self._store(key, current, merged(current, {}, patch), client)

    def delete(self, resource: Resource, namespace: str, name: str, *, now: bool = False, client: str = "") -> None:
        """Deletes an object and what it owns. A Pod on a node stays, marked, until its kubelet deletes it `now`."""
        key = (resource.kind, namespace, name)
        current = self.get(*key)
        if current is None:
            return
        if resource.kind == "Pod" and not now and current["spec"].get("nodeName"):
            if "deletionTimestamp" not in current["metadata"]:
                self._store(
                    key, current, merged(current, {}, {"metadata": {"deletionTimestamp": self._kernel.wall()}}), client
                )
            return
        self._remove(key, current, client)

    def _create(self, key: Key, obj: Json, client: str) -> Json:
        self._made += 1
        made = {
            "uid": f"00000000-0000-4000-8000-{self._made:012x}",
            "creationTimestamp": self._kernel.wall(),
            "generation": 1,
        }
        self._fields[key] = {(client, ""): obj}
        created = {**filled(obj), "metadata": {**obj["metadata"], **made}}
        for owner in created["metadata"].get("ownerReferences") or ():
            self._by_owner.setdefault(owner["uid"], {})[key] = None
        return self._write(key, created, client)

    def _store(self, key: Key, current: Json, wanted: Json, client: str) -> Json:
        if wanted is current:
            return current
        if wanted.get("spec") is not current.get("spec"):
            spec = filled(wanted).get("spec")
            wanted = {**wanted, "spec": current["spec"] if spec == current.get("spec") else spec}
        changed = {part for part in wanted.keys() | current.keys() if wanted.get(part) is not current.get(part)}
        if not changed:
            return current
        if changed - _NOT_SPEC:
            generation = current["metadata"]["generation"] + 1
            wanted = {**wanted, "metadata": {**wanted["metadata"], "generation": generation}}
        return self._write(key, wanted, client)

    def _write(self, key: Key, obj: Json, client: str) -> Json:
        self._version += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        self._stored.setdefault(key[0], {})[key] = obj
        self._note(key, obj, client)
        return obj

    def _remove(self, key: Key, obj: Json, client: str) -> None:
        del self._stored[key[0]][key]
        del self._fields[key]
        for owner in obj["metadata"].get("ownerReferences") or ():
            self._by_owner.get(owner["uid"], {}).pop(key, None)
        self._version += 1
        self._note(key, None, client)
        for kind, namespace, name in tuple(self._by_owner.get(obj["metadata"]["uid"], ())):
            self.delete(Resource(group="", version="", plural="", kind=kind), namespace, name, client=client)

    # --- watches --------------------------------------------------------------------------------------------------------------

    def _note(self, key: Key, obj: Json | None, client: str) -> None:
        self._kernel.under_way += 1
        self._untold.append((self._kernel.now_us + self._watch_us, key, obj, client))
        self._written.fire()

    def _tell(self) -> Process:
        while True:
            if not self._untold:
                yield self._written.next
            yield self._kernel.until_us(self._untold[0][0])
            told: dict[Tell, list[Key]] = {}
            while self._untold and self._untold[0][0] <= self._kernel.now_us:
                _, key, obj, client = self._untold.popleft()
                self.seen.put(key, obj)
                self._kernel.under_way -= 1
                for kinds, own, tell in self._watchers:
                    if key[0] in kinds and (not own or own != client):
                        told.setdefault(tell, []).append(key)
            for tell, keys in told.items():
                tell(keys)


_NOT_SPEC = frozenset({"metadata", "status"})


def merged(current: Mapping[str, Any], before: Mapping[str, Any], wanted: Mapping[str, Any]) -> Any:
    """`current` with the fields of `wanted`, and without those of `before` that `wanted` no longer has.

    Shares everything that does not change, and is `current` itself when nothing does.
    """
    result = dict(current)
    for name in before.keys() - wanted.keys():
        if name in _IDENTITY or name not in result:
            continue
        if isinstance(before[name], dict) and isinstance(result[name], dict):
            result[name] = merged(result[name], before[name], {})
        else:
            del result[name]
    for name, value in wanted.items():
        known = result.get(name)
        if isinstance(value, dict) and isinstance(known, dict):
            owned = before.get(name)
            result[name] = merged(known, owned if isinstance(owned, dict) else {}, value)
        elif known != value:
            result[name] = value
    same = result.keys() == current.keys() and all(result[name] is current[name] for name in result)
    return current if same else result


_IDENTITY = frozenset({"apiVersion", "kind", "metadata"})
