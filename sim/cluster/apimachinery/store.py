"""The objects, their versions and their past: what etcd and the watch cache are to the real server.

One counter gives every change its resourceVersion. The last changes are kept, so that a watch can start in the past and a paged list
can be finished as it began; what is older is compacted away.
Source: kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes", "Resource versions".
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sim.cluster.apimachinery.problems import Json

Name = tuple[str, str]
"""(namespace, name); no namespace is the empty string."""

ADDED: Final = "ADDED"
MODIFIED: Final = "MODIFIED"
DELETED: Final = "DELETED"


class CompactedError(Exception):
    """The changes since the version asked for are not all kept any more."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest})")
        self.asked = asked
        self.oldest = oldest


@dataclass(slots=True, eq=False)
class Record:
    """One version of one object. The object is never changed; `encoded` keeps its bytes by the form that was asked for."""

    version: int
    obj: Json
    encoded: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What happened to one object; `before` is None for ADDED."""

    version: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    name: Name
    after: Record
    before: Record | None


Listener = Callable[["Collection", Change], None]


@dataclass(slots=True, eq=False)
class Collection:
    """All objects of one resource, whatever version of the API they are read at."""

    group: str
    plural: str
    records: dict[Name, Record] = field(default_factory=dict)
    changes: deque[Change] = field(default_factory=deque)
    oldest: int = 0
    """A watch can start at this version or later."""
    listeners: list[Listener] = field(default_factory=list)

    def sorted_names(self, namespace: str | None) -> list[Name]:
        """The names in the order of a list."""
        return sorted(name for name in self.records if namespace is None or name[0] == namespace)

    def since(self, version: int) -> list[Change]:
        """The changes after `version`, oldest first; O(log n) to find them.

        Raises:
            CompactedError: they are not all kept.
        """
        if version < self.oldest:
            raise CompactedError(version, self.oldest)
        if not self.changes or self.changes[-1].version <= version:
            return []
        changes = list(self.changes)
        return changes[bisect.bisect_right(changes, version, key=lambda change: change.version) :]

    def as_of(self, version: int) -> dict[Name, Record]:
        """The objects as they were at `version`.

        Raises:
            CompactedError: that is too long ago.
        """
        records = dict(self.records)
        for change in reversed(self.since(version)):
            if change.before is None:
                records.pop(change.name, None)
            else:
                records[change.name] = change.before
        return records


@dataclass(slots=True, eq=False)
class Store:
    """Every collection, and the counter of versions.

    `keep_changes` bounds the past of each collection; half of it is dropped when it is full.
    """

    version: int = 1
    keep_changes: int = 20_000
    collections: dict[tuple[str, str], Collection] = field(default_factory=dict)
    listeners: list[Listener] = field(default_factory=list)

    def collection(self, group: str, plural: str) -> Collection:
        """The collection of a resource; made when it is not there yet."""
        found = self.collections.get((group, plural))
        if found is None:
            found = self.collections[group, plural] = Collection(group, plural)
        return found

    def put(self, collection: Collection, name: Name, obj: Json) -> Record:
        """Stores `obj` under the next version, which is written into its metadata."""
        before = collection.records.get(name)
        record = self._next(obj)
        collection.records[name] = record
        self._happened(collection, Change(record.version, MODIFIED if before else ADDED, name, record, before))
        return record

    def remove(self, collection: Collection, name: Name, last: Json | None = None) -> Record:
        """Removes the object; the returned record is its last state, at the version of the removal.

        Raises:
            KeyError: there is none.
        """
        before = collection.records.pop(name)
        record = self._next(before.obj if last is None else last)
        self._happened(collection, Change(record.version, DELETED, name, record, before))
        return record

    def _next(self, obj: Json) -> Record:
        self.version += 1
        metadata: Json = {**obj["metadata"], "resourceVersion": str(self.version)}
        return Record(self.version, {**obj, "metadata": metadata})

    def _happened(self, collection: Collection, change: Change) -> None:
        collection.changes.append(change)
        if len(collection.changes) > self.keep_changes:
            self.compact(collection, collection.changes[len(collection.changes) // 2].version)
        for listener in (*collection.listeners, *self.listeners):
            listener(collection, change)

    def compact(self, collection: Collection, version: int) -> None:
        """Forgets the changes of a collection up to and including `version`."""
        while collection.changes and collection.changes[0].version <= version:
            collection.changes.popleft()
        collection.oldest = max(collection.oldest, version)

    def compact_all(self) -> None:
        """Forgets the whole past: every watch from an earlier version is refused with 410."""
        for collection in self.collections.values():
            self.compact(collection, self.version)


def shown_event(
    change: Change, selected: Callable[[Json], bool] | None
) -> tuple[Literal["ADDED", "MODIFIED", "DELETED"], Record] | None:
    """What a watch with a selector sees of a change: an object that comes to be selected is ADDED, one that ceases to be is DELETED.

    None when it sees nothing.
    """
    if selected is None:
        return change.type, change.after
    now = selected(change.after.obj)
    was = change.before is not None and selected(change.before.obj)
    if change.type == DELETED:
        return (DELETED, change.after) if was else None
    if now:
        return (MODIFIED if was else ADDED), change.after
    if was and change.before is not None:
        # The object is shown as it was when it was selected, at the version of the change that took it away.
        metadata: dict[str, Any] = {**change.before.obj["metadata"], "resourceVersion": str(change.version)}
        return DELETED, Record(change.version, {**change.before.obj, "metadata": metadata})
    return None
