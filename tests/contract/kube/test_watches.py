"""Watches: what they tell, from when, and how they end."""

from __future__ import annotations

import pytest

from tests.contract.kube.client import TABLE, Client, Json
from tests.contract.kube.samples import Gates, Namespace, config_map, pod


def told(event: Json | None) -> tuple[str, str]:
    assert event is not None, "the watch ended"
    return event["type"], event["object"]["metadata"].get("name", "")


def test_a_watch_from_a_version_tells_all_that_came_after_once(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    api.create(path, config_map("before"))
    version = api.get(path).meta["resourceVersion"]
    api.create(path, config_map("a"))
    api.merge(namespace.core("configmaps", "a"), {"data": {"k": "1"}})
    with api.watch(path, resourceVersion=version) as watch:
        api.delete(namespace.core("configmaps", "a"))
        api.create(path, config_map("b"))
        events = [told(watch.next()) for _ in range(4)]
    assert events == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "b")]


def test_versions_of_events_grow(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    version = int(api.get(path).meta["resourceVersion"])
    with api.watch(path, resourceVersion=version) as watch:
        for number in range(5):
            api.create(path, config_map(f"c{number}"))
        api.delete(namespace.core("configmaps", "c0"))
        events = [watch.next() for _ in range(6)]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events if event]
    assert versions == sorted(set(versions))
    assert versions[0] > version


@pytest.mark.parametrize("version", ["", "0"])
def test_a_watch_from_nowhere_starts_with_what_is_there(api: Client, namespace: Namespace, version: str) -> None:
    path = namespace.core("configmaps")
    for name in ("a", "b"):
        api.create(path, config_map(name))
    query = {"resourceVersion": version} if version else {}
    with api.watch(path, **query) as watch:
        assert {told(watch.next()) for _ in range(2)} == {("ADDED", "a"), ("ADDED", "b")}
        api.create(path, config_map("c"))
        assert told(watch.next()) == ("ADDED", "c")


def test_a_watch_resumes_without_loss_or_repetition(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    version = api.get(path).meta["resourceVersion"]
    seen: list[str] = []
    for part in range(3):
        api.create(path, config_map(f"p{part}a"))
        api.create(path, config_map(f"p{part}b"))
        with api.watch(path, resourceVersion=version) as watch:
            for _ in range(2):
                event = watch.next()
                seen.append(told(event)[1])
                assert event is not None
                version = event["object"]["metadata"]["resourceVersion"]
    assert seen == [f"p{part}{letter}" for part in range(3) for letter in "ab"]


def test_a_selector_turns_changes_into_coming_and_going(api: Client, namespace: Namespace) -> None:
    path, one = namespace.core("configmaps"), namespace.core("configmaps", "a")
    version = api.get(path).meta["resourceVersion"]
    with api.watch(path, resourceVersion=version, labelSelector="l=v") as watch:
        api.create(path, config_map("other"))
        api.create(path, config_map("a"))
        api.merge(one, {"metadata": {"labels": {"l": "v"}}})
        api.merge(one, {"data": {"k": "1"}})
        changed = api.merge(one, {"metadata": {"labels": {"l": None}}}).meta["resourceVersion"]
        events = [watch.next() for _ in range(3)]
    assert [told(event) for event in events] == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert events[2] is not None
    gone = events[2]["object"]
    assert gone["metadata"]["resourceVersion"] == changed
    assert gone["metadata"]["labels"] == {"l": "v"}


def test_a_field_selector_follows_a_pod_to_its_node(api: Client, namespace: Namespace) -> None:
    version = api.get(namespace.core("pods")).meta["resourceVersion"]
    with api.watch("/api/v1/pods", resourceVersion=version, fieldSelector="spec.nodeName=n7") as watch:
        api.create(namespace.core("pods"), pod("a", node="n6"))
        api.create(namespace.core("pods"), pod("b", node="n7"))
        assert told(watch.next()) == ("ADDED", "b")


def test_a_watch_of_one_object_by_its_name(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    version = api.get(path).meta["resourceVersion"]
    with api.watch(path, resourceVersion=version, fieldSelector="metadata.name=b") as watch:
        for name in ("a", "b"):
            api.create(path, config_map(name))
        assert told(watch.next()) == ("ADDED", "b")


def test_the_last_state_comes_with_the_deletion(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    made = api.create(path, config_map("a", {"k": "v"})).meta
    with api.watch(path, resourceVersion=made["resourceVersion"]) as watch:
        api.delete(namespace.core("configmaps", "a"))
        gone = watch.until("DELETED", "a")
    assert gone["data"] == {"k": "v"}
    assert gone["metadata"]["uid"] == made["uid"]
    assert int(gone["metadata"]["resourceVersion"]) > int(made["resourceVersion"])


def test_a_watch_ends_when_its_time_is_over(api: Client, namespace: Namespace) -> None:
    with api.watch(namespace.core("configmaps"), timeoutSeconds=1) as watch:
        assert watch.code == 200
        assert watch.rest() == []


def test_the_first_events_end_with_a_bookmark_when_asked_for(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    api.create(path, config_map("a"))
    query = {"sendInitialEvents": "true", "allowWatchBookmarks": "true", "resourceVersionMatch": "NotOlderThan"}
    with api.watch(path, **query) as watch:
        assert told(watch.next()) == ("ADDED", "a")
        end = watch.until("BOOKMARK")
        assert end["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert end["kind"] == "ConfigMap"
        api.create(path, config_map("b"))
        assert told(watch.next()) == ("ADDED", "b")


def test_initial_events_need_a_match_and_bookmarks(api: Client, namespace: Namespace) -> None:
    refused = api.get(namespace.core("configmaps"), watch="true", sendInitialEvents="true")
    assert (refused.code, refused.reason) == (422, "Invalid")


def test_a_watch_can_be_a_table(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    version = api.get(path).meta["resourceVersion"]
    with api.watch(path, accept=TABLE, resourceVersion=version) as watch:
        api.create(path, config_map("a"))
        api.create(path, config_map("b"))
        first, second = watch.next(), watch.next()
    assert first is not None
    assert second is not None
    assert first["object"]["kind"] == "Table"
    assert first["object"]["columnDefinitions"][0]["name"] == "Name"
    assert [event["object"]["rows"][0]["cells"][0] for event in (first, second)] == ["a", "b"]


def test_each_version_of_a_kind_is_watched_at_its_own(api: Client, gates: Gates) -> None:
    version = api.get(gates.path()).meta["resourceVersion"]
    with (
        api.watch(gates.path(), resourceVersion=version) as new,
        api.watch(gates.path(version="v1beta1"), resourceVersion=version) as old,
    ):
        api.create(gates.path(), gates.gate("a"))
        assert new.until("ADDED", "a")["apiVersion"] == f"{gates.group}/v1"
        assert old.until("ADDED", "a")["apiVersion"] == f"{gates.group}/v1beta1"


def test_a_hundred_watches_see_the_same(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    version = api.get(path).meta["resourceVersion"]
    watches = [api.watch(path, resourceVersion=version) for _ in range(100)]
    for number in range(3):
        api.create(path, config_map(f"c{number}"))
    for watch in watches:
        with watch:
            assert [told(watch.next())[1] for _ in range(3)] == ["c0", "c1", "c2"]
