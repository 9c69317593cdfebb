"""The parts of the server in one piece: store, kinds, writer, collector; still without a wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sim.cluster.apimachinery import builtin, crds
from sim.cluster.apimachinery.gc import Collector
from sim.cluster.apimachinery.kinds import Kind, Registry
from sim.cluster.apimachinery.store import DELETED, Change, Collection, Store
from sim.cluster.apimachinery.targets import Target, WriteOptions
from sim.cluster.apimachinery.writes import Sources, Writer

START_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


@dataclass(slots=True, eq=False)
class Cluster:
    """An empty cluster with its namespaces. `wanted` is called when a write has left work that `settle` does."""

    sources: Sources
    wanted: Callable[[], None]
    store: Store = field(default_factory=Store)
    registry: Registry = field(init=False)
    writer: Writer = field(init=False)
    collector: Collector = field(init=False)
    _builtin: Registry = field(init=False)
    _new_crds: list[str] = field(default_factory=list)
    _dropped: list[Collection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = builtin.registry()
        crd = self.kind(crds.GROUP, crds.PLURAL)
        self.registry.add(replace(crd, rules=replace(crd.rules, fill=crds.filled, check=crds.check)))
        self._builtin = Registry(kinds=dict(self.registry.kinds))
        self.writer = Writer(self.store, self.registry, self.sources)
        self.collector = Collector(self.writer, self.wanted)
        self.store.listeners.append(self._follow_crds)
        for name in START_NAMESPACES:
            kind = self.kind("", "namespaces")
            target = Target(kind=kind, version=kind.versions[0])
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self.writer.create(target, body, WriteOptions(manager="kube-apiserver"))

    def kind(self, group: str, plural: str) -> Kind:
        """A kind that must be there.

        Raises:
            KeyError: it is not.
        """
        return self.registry.kinds[group, plural]

    def _follow_crds(self, collection: Collection, change: Change) -> None:
        if (collection.group, collection.plural) != (crds.GROUP, crds.PLURAL):
            return
        pods = self.kind("", "pods").versions[0].schema
        crds.follow(self.registry, pods.properties["metadata"], self._builtin, collection, change)
        if change.type == DELETED:
            spec = change.after.obj["spec"]
            dropped = self.store.collection(spec["group"], spec["names"]["plural"])
            if self.registry.find(dropped.group, dropped.plural) is None:
                self._dropped.append(dropped)
        else:
            self._new_crds.append(change.name[1])
        self.wanted()

    def settle(self) -> None:
        """Does what earlier writes have left: statuses of CRDs, garbage, contents of namespaces that go."""
        while self._dropped:
            dropped = self._dropped.pop()
            for name in dropped.sorted_names(None):
                self.store.remove(dropped, name)
        while self._new_crds:
            collection = self.store.collection(crds.GROUP, crds.PLURAL)
            record = collection.records.get(("", self._new_crds.pop()))
            if record is None:
                continue
            status = crds.accepted(record.obj, self.sources.timestamp())
            known = record.obj.get("status") or {}
            if any(known.get(name) != status[name] for name in ("acceptedNames", "storedVersions")):
                self.store.put(collection, ("", record.obj["metadata"]["name"]), {**record.obj, "status": status})
        self.collector.run()
