"""The store, selectors, lists, and what follows from deletes: with a clock and names that the test gives."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cluster.apimachinery import deletes, jsonpath, reads, selectors, tables
from sim.cluster.apimachinery.cluster import Cluster
from sim.cluster.apimachinery.deletes import DeleteOptions
from sim.cluster.apimachinery.problems import StatusError
from sim.cluster.apimachinery.store import Change, Collection, CompactedError, Store, shown_event
from sim.cluster.apimachinery.targets import Target, WriteOptions
from sim.cluster.apimachinery.writes import Sources

START = datetime(2026, 1, 1, tzinfo=UTC)


def obj(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "uid": name, "labels": labels}}


def test_the_past_can_be_seen_until_it_is_compacted() -> None:
    store = Store(keep_changes=100)
    things = store.collection("", "things")
    first = store.put(things, ("n", "a"), obj("a")).version
    store.put(things, ("n", "b"), obj("b"))
    store.put(things, ("n", "a"), obj("a", l="v"))
    last = store.remove(things, ("n", "b")).version
    assert set(things.as_of(first)) == {("n", "a")}
    assert "l" not in things.as_of(first)["n", "a"].obj["metadata"]["labels"]
    assert [change.type for change in things.since(first)] == ["ADDED", "MODIFIED", "DELETED"]
    assert things.since(last) == []
    store.compact_all()
    with pytest.raises(CompactedError, match=r"too old resource version"):
        things.since(first)
    assert things.since(last) == []


def test_the_past_is_bounded() -> None:
    store = Store(keep_changes=10)
    things = store.collection("", "things")
    for number in range(100):
        store.put(things, ("n", "a"), obj("a", n=str(number)))
    assert len(things.changes) <= 10
    assert things.since(store.version - 3)[0].version == store.version - 2
    with pytest.raises(CompactedError):
        things.since(3)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", "gone"])), max_size=20))
def test_a_selecting_watch_rebuilds_what_a_selecting_list_shows(steps: list[tuple[str, str]]) -> None:
    store = Store()
    things = store.collection("", "things")
    selected = selectors.label_selector("l=x")
    seen: dict[str, Any] = {}

    def follow(_: Collection, change: Change) -> None:
        event = shown_event(change, selected)
        if event is None:
            return
        kind, record = event
        name = record.obj["metadata"]["name"]
        assert (kind == "ADDED") == (name not in seen)
        if kind == "DELETED":
            del seen[name]
        else:
            seen[name] = record.obj

    things.listeners.append(follow)
    for name, label in steps:
        if label != "gone":
            store.put(things, ("n", name), obj(name, l=label))
        elif ("n", name) in things.records:
            store.remove(things, ("n", name))
    listed = reads.page(store, things, reads.ListQuery(selected=selected))
    assert seen == {record.obj["metadata"]["name"]: record.obj for record in listed.records}


@pytest.mark.parametrize("text", ["a b", "a in b", "=x", "a in (b", "a=b,,c=d", "a!"])
def test_selectors_that_are_none(text: str) -> None:
    with pytest.raises(StatusError, match="unable to parse requirement"):
        selectors.label_selector(text)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.name", ["x"]),
        ("{.spec.name}", ["x"]),
        (".spec.list[*]", [1, 2]),
        (".spec.list[1]", [2]),
        (".spec.list[-1]", [2]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type!='Ready')].type", ["Other"]),
        (".metadata.labels['a.b/c']", ["v"]),
        (".nothing.at.all", []),
    ],
)
def test_paths_of_printer_columns(path: str, found: list[Any]) -> None:
    value = {
        "metadata": {"labels": {"a.b/c": "v"}},
        "spec": {"name": "x", "list": [1, 2]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]},
    }
    assert jsonpath.compiled(path)(value) == found


@pytest.mark.parametrize("path", [".a[", "a..b", ".a[?(@.b)"])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(ValueError, match="JSONPath"):
        jsonpath.compiled(path)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (130, "2m10s"),
        (599, "9m59s"),
        (700, "11m"),
        (4 * 3600, "4h"),
        (86400 * 3, "3d"),
    ],
)
def test_ages(seconds: int, shown: str) -> None:
    assert tables.age("2026-01-01T00:00:00Z", START + timedelta(seconds=seconds)) == shown


class Laboratory:
    """A cluster whose clock stands still and whose UIDs are numbers."""

    def __init__(self) -> None:
        self.now = START
        self.wanted = 0
        numbers = itertools.count(1)
        sources = Sources(now=lambda: self.now, uid=lambda: f"uid-{next(numbers)}", suffix=lambda: "abcde")
        self.cluster = Cluster(sources, self._want)

    def _want(self) -> None:
        self.wanted += 1

    def target(self, name: str = "") -> Target:
        kind = self.cluster.kind("", "configmaps")
        return Target(kind=kind, version=kind.versions[0], namespace="default", name=name)

    def make(self, name: str, **metadata: Any) -> dict[str, Any]:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}
        return self.cluster.writer.create(self.target(), body, WriteOptions(manager="test")).record.obj

    def names(self) -> set[str]:
        return {name for _, name in self.cluster.store.collection("", "configmaps").records}


def test_the_same_requests_at_the_same_time_give_the_same_cluster() -> None:
    one, other = Laboratory(), Laboratory()
    for laboratory in (one, other):
        laboratory.make("a", labels={"l": "v"})
        laboratory.make("", generateName="b-")
    records = [
        {key: one.obj for key, one in lab.cluster.store.collection("", "configmaps").records.items()}
        for lab in (one, other)
    ]
    assert records[0] == records[1]
    assert records[0]["default", "b-abcde"]["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"


def test_a_chain_of_owners_is_collected_in_one_go() -> None:
    laboratory = Laboratory()
    uid = laboratory.make("c0")["metadata"]["uid"]
    for number in range(1, 50):
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": f"c{number - 1}", "uid": uid}
        uid = laboratory.make(f"c{number}", ownerReferences=[owner])["metadata"]["uid"]
    laboratory.cluster.settle()
    assert len(laboratory.names()) == 50
    deletes.delete(laboratory.cluster.writer, laboratory.target("c0"), DeleteOptions())
    assert laboratory.wanted
    laboratory.cluster.settle()
    assert laboratory.names() == set()


def test_owners_in_a_ring_do_not_keep_the_collector_busy() -> None:
    laboratory = Laboratory()
    a = laboratory.make("a")["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": a}
    b = laboratory.make("b", ownerReferences=[reference])["metadata"]["uid"]
    ring = {"metadata": {"ownerReferences": [{**reference, "name": "b", "uid": b}]}}
    laboratory.cluster.writer.patch(
        laboratory.target("a"), lambda old: {**old, "metadata": {**old["metadata"], **ring["metadata"]}}, WriteOptions()
    )
    laboratory.cluster.settle()
    assert laboratory.names() == {"a", "b"}
    deletes.delete(laboratory.cluster.writer, laboratory.target("a"), DeleteOptions(propagation="Foreground"))
    laboratory.cluster.settle()
    assert laboratory.names() == set()


def test_nothing_that_was_read_changes_under_the_reader() -> None:
    laboratory = Laboratory()
    made = laboratory.make("a", labels={"l": "v"})
    before = repr(made)
    writer = laboratory.cluster.writer
    writer.patch(laboratory.target("a"), lambda old: {**old, "data": {"k": "v"}}, WriteOptions(manager="x"))
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"m": "w"}}}
    writer.apply(laboratory.target("a"), body, WriteOptions(manager="y"))
    deletes.delete(writer, laboratory.target("a"), DeleteOptions())
    assert repr(made) == before
