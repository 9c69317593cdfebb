"""The list-and-watch state machine: what it asks for next, what it reports as changed, how long it waits."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from core.backoff import Backoff
from core.kube import PODS, Json
from core.reflector import (
    ABSENT_GRACE_S,
    PAGE_LIMIT,
    SILENT_WATCH_S,
    STALE_GRACE_S,
    Cause,
    Failure,
    ListPage,
    OpenWatch,
    Reflector,
    WaitUntil,
)

FIRST_LIST = ListPage(limit=PAGE_LIMIT, continue_token=None)


def pod(name: str, version: int, **spec: object) -> Json:
    return {
        "metadata": {
            "namespace": "blue",
            "name": name,
            "resourceVersion": str(version),
            "managedFields": [{"time": version}],
        },
        "spec": spec,
    }


def page(version: int, items: Iterable[Json], token: str | None = None) -> Json:
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}


def event(kind: str, obj: Json) -> Json:
    return {"type": kind, "object": obj}


def expired() -> Json:
    return event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


def new_reflector() -> Reflector:
    return Reflector(PODS, jitter=lambda: 0.0)


def listed(*items: Json, version: int = 10) -> Reflector:
    reflector = new_reflector()
    reflector.page_received(page(version, items), 0.0)
    return reflector


def waits_until_s(reflector: Reflector, now_s: float) -> float:
    action = reflector.next_action(now_s)
    assert isinstance(action, WaitUntil)
    return action.at_s


def test_lists_first_then_watches_from_the_lists_version() -> None:
    reflector = new_reflector()
    assert reflector.next_action(0.0) == FIRST_LIST
    assert not reflector.synced
    changed = reflector.page_received(page(10, [pod("a", 7)]), 0.0)
    assert changed == (("blue", "a"),)
    assert reflector.synced
    assert reflector.next_action(0.0) == OpenWatch(resource_version="10", timeout_s=240)


def test_pages_become_visible_all_at_once() -> None:
    reflector = new_reflector()
    assert reflector.page_received(page(10, [pod("a", 7)], token="more"), 0.0) == ()
    assert reflector.objects() == {}
    assert not reflector.synced
    assert reflector.next_action(0.0) == ListPage(limit=PAGE_LIMIT, continue_token="more")
    assert reflector.page_received(page(10, [pod("b", 8)]), 0.0) == (("blue", "a"), ("blue", "b"))
    assert set(reflector.objects()) == {("blue", "a"), ("blue", "b")}


def test_an_expired_continue_token_lists_everything_at_once() -> None:
    reflector = new_reflector()
    reflector.page_received(page(10, [pod("a", 7)], token="more"), 0.0)
    reflector.failed(Failure(cause=Cause.REFUSED, what="Expired", code=410), 0.0)
    assert reflector.next_action(0.0) == ListPage(limit=None, continue_token=None)
    assert reflector.page_received(page(20, [pod("b", 15)]), 0.0) == (("blue", "b"),)


def test_objects_are_kept_without_managed_fields_and_with_their_type() -> None:
    (stored,) = listed(pod("a", 7)).objects().values()
    assert stored["apiVersion"] == "v1"
    assert stored["kind"] == "Pod"
    assert "managedFields" not in stored["metadata"]


def test_events_change_the_objects_and_the_version() -> None:
    reflector = listed(pod("a", 7))
    reflector.watch_opened(0.0)
    assert reflector.event_received(event("ADDED", pod("b", 11)), 0.0) == (("blue", "b"),)
    assert reflector.event_received(event("MODIFIED", pod("a", 12, image="x")), 0.0) == (("blue", "a"),)
    assert reflector.event_received(event("DELETED", pod("b", 13)), 0.0) == (("blue", "b"),)
    assert reflector.event_received(event("DELETED", pod("b", 13)), 0.0) == ()
    assert reflector.objects()["blue", "a"]["spec"] == {"image": "x"}
    reflector.watch_ended(240.0)
    assert reflector.next_action(240.0) == OpenWatch(resource_version="13", timeout_s=240)


def test_a_write_that_changes_only_bookkeeping_is_no_change_but_its_version_is_kept() -> None:
    reflector = listed(pod("a", 7))
    assert reflector.event_received(event("MODIFIED", pod("a", 12)), 0.0) == ()
    assert reflector.objects()["blue", "a"]["metadata"]["resourceVersion"] == "12"


def test_bookmarks_move_the_version_only() -> None:
    reflector = listed(pod("a", 7))
    bookmark = event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "99"}})
    assert reflector.event_received(bookmark, 0.0) == ()
    action = reflector.next_action(0.0)
    assert isinstance(action, OpenWatch)
    assert action.resource_version == "99"


def test_an_expired_watch_lists_at_once_and_reports_the_difference() -> None:
    reflector = listed(pod("a", 7), pod("b", 8), pod("c", 9))
    reflector.watch_opened(0.0)
    assert reflector.event_received(expired(), 0.0) == ()
    assert not reflector.watching
    assert reflector.next_action(0.0) == FIRST_LIST
    changed = reflector.page_received(page(50, [pod("a", 7), pod("b", 40, image="x"), pod("d", 41)]), 0.0)
    assert set(changed) == {("blue", "b"), ("blue", "c"), ("blue", "d")}


def test_a_server_that_always_expires_is_not_asked_without_pause() -> None:
    reflector = listed()
    waits = []
    for _ in range(5):
        reflector.watch_opened(0.0)
        reflector.event_received(expired(), 0.0)
        action = reflector.next_action(0.0)
        waits.append(action.at_s if isinstance(action, WaitUntil) else 0.0)
        reflector.page_received(page(50, []), 0.0)
    assert waits == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.6])


def test_the_old_objects_stay_while_the_server_is_away() -> None:
    reflector = listed(pod("a", 7))
    reflector.watch_opened(0.0)
    reflector.failed(Failure(cause=Cause.UNREACHABLE, what="reset"), 100.0)
    assert set(reflector.objects()) == {("blue", "a")}
    assert waits_until_s(reflector, 100.0) == pytest.approx(100.1)
    assert reflector.next_action(100.2) == OpenWatch(resource_version="10", timeout_s=240)


def test_waits_double_up_to_the_cap_and_start_again_after_success() -> None:
    reflector = new_reflector()
    now_s, waits = 0.0, []
    for _ in range(9):
        reflector.failed(Failure(cause=Cause.UNREACHABLE, what="refused"), now_s)
        until_s = waits_until_s(reflector, now_s)
        waits.append(round(until_s - now_s, 3))
        now_s = until_s
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    reflector.page_received(page(10, []), now_s)
    reflector.watch_opened(now_s)
    reflector.event_received(event("ADDED", pod("a", 11)), now_s)
    reflector.failed(Failure(cause=Cause.UNREACHABLE, what="reset"), now_s)
    assert waits_until_s(reflector, now_s) == pytest.approx(now_s + 0.1)


def test_jitter_spreads_the_upper_half_of_a_wait() -> None:
    backoff = Backoff(first_s=0.2, cap_s=10.0)
    assert backoff.delay_s(1, 0.0) == pytest.approx(0.1)
    assert backoff.delay_s(1, 0.999) < 0.2
    assert backoff.delay_s(5000, 0.0) == pytest.approx(5.0)


@pytest.mark.parametrize(("asked_s", "waited_s"), [(7.0, 7.0), (0.01, 0.1), (86_400.0, 60.0)])
def test_retry_after_is_honoured_within_reason(asked_s: float, waited_s: float) -> None:
    reflector = listed()
    reflector.watch_opened(0.0)
    reflector.failed(Failure(cause=Cause.REFUSED, what="busy", code=429, retry_after_s=asked_s), 0.0)
    assert waits_until_s(reflector, 0.0) == pytest.approx(waited_s)
    assert isinstance(reflector.next_action(waited_s + 0.01), OpenWatch)


def test_a_version_that_the_server_does_not_know_leads_to_a_list() -> None:
    """A server that came back with an empty store answers 504 "Too large resource version"."""
    reflector = listed(pod("a", 7), version=1000)
    reflector.failed(Failure(cause=Cause.REFUSED, what="Too large resource version", code=504), 0.0)
    assert reflector.next_action(1.0) == FIRST_LIST
    assert reflector.page_received(page(3, []), 1.0) == ()
    assert reflector.page_received(page(3, []), 1.0 + STALE_GRACE_S) == (("blue", "a"),)


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "BOOKMARK"])
def test_a_store_that_has_gone_back_leads_to_a_list(kind: str) -> None:
    """A watch from a version to come is accepted; the first thing that it tells gives the loss away."""
    reflector = listed(pod("a", 7), version=1000)
    reflector.watch_opened(0.0)
    assert reflector.event_received(event(kind, pod("b", 999)), 0.0) == ()
    assert reflector.next_action(1.0) == FIRST_LIST
    restored = page(999, [pod("b", 999)])
    assert reflector.page_received(restored, 1.0) == ()
    assert set(reflector.page_received(restored, 1.0 + STALE_GRACE_S)) == {("blue", "a"), ("blue", "b")}


def test_an_old_deletion_of_an_object_that_was_made_again_leads_to_a_list() -> None:
    """Events out of order: the object that is told to be gone is not the one that is there."""
    reflector = listed(pod("a", 12), version=12)
    reflector.watch_opened(0.0)
    assert reflector.event_received(event("DELETED", pod("a", 11)), 0.0) == ()
    assert set(reflector.objects()) == {("blue", "a")}
    assert not reflector.watching
    assert reflector.next_action(1.0) == FIRST_LIST


def test_a_deletion_with_the_version_of_the_last_write_does_not_take_the_version_back() -> None:
    """Otherwise an older change that is told late would be believed."""
    reflector = listed(pod("a", 20), pod("b", 100), version=100)
    reflector.watch_opened(0.0)
    assert reflector.event_received(event("DELETED", pod("a", 20)), 0.0) == (("blue", "a"),)
    assert reflector.event_received(event("MODIFIED", pod("b", 60)), 0.0) == ()
    assert reflector.objects()["blue", "b"]["metadata"]["resourceVersion"] == "100"
    assert not reflector.watching


def test_a_list_of_a_replica_that_lags_is_not_believed() -> None:
    """It would bring back what is gone and take away what has come; the next list, of the replica that knows, is."""
    reflector = listed(pod("new", 20), version=20)
    reflector.watch_opened(0.0)
    reflector.event_received(event("DELETED", pod("gone", 15)), 0.0)
    reflector.failed(Failure(cause=Cause.REFUSED, what="boom", code=500), 0.0)
    assert reflector.page_received(page(19, [pod("gone", 5)]), 0.5) == ()
    assert set(reflector.objects()) == {("blue", "new")}
    assert isinstance(reflector.next_action(0.5), WaitUntil)
    assert reflector.page_received(page(21, [pod("new", 20), pod("newer", 21)]), 1.0) == (("blue", "newer"),)
    # Only lists that are stale one after the other count.
    reflector.failed(Failure(cause=Cause.REFUSED, what="boom", code=500), 2 * STALE_GRACE_S)
    assert reflector.page_received(page(19, []), 2 * STALE_GRACE_S) == ()


def test_versions_that_are_no_numbers_are_not_compared() -> None:
    reflector = new_reflector()
    reflector.page_received({"metadata": {"resourceVersion": "z"}, "items": []}, 0.0)
    for name, version in (("a", "b"), ("c", "9" * 5000), ("d", "1")):
        metadata = {"name": name, "resourceVersion": version}
        assert reflector.event_received(event("ADDED", {"metadata": metadata}), 0.0) == (("", name),)


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "ADDED"},
        {"type": "ADDED", "object": {"metadata": {"name": "a"}}},
        {"type": "ADDED", "object": {"metadata": {"resourceVersion": "11"}}},
        {"type": "ADDED", "object": {"metadata": {"name": ["a"], "resourceVersion": "11"}}},
        {"type": "PRUNED", "object": pod("a", 11)},
        {"object": 3},
    ],
)
def test_garbage_in_a_watch_leads_to_a_pause_and_a_list(broken: Json) -> None:
    reflector = listed(pod("a", 7))
    reflector.watch_opened(0.0)
    assert reflector.event_received(broken, 0.0) == ()
    assert not reflector.watching
    assert isinstance(reflector.next_action(0.0), WaitUntil)
    assert reflector.next_action(0.2) == FIRST_LIST
    assert set(reflector.objects()) == {("blue", "a")}


@pytest.mark.parametrize(
    "broken", [{}, {"metadata": {}, "items": []}, {"metadata": {"resourceVersion": "1"}, "items": 3}]
)
def test_garbage_instead_of_a_list_leads_to_a_pause(broken: Json) -> None:
    reflector = new_reflector()
    reflector.page_received(broken, 0.0)
    assert not reflector.synced
    assert isinstance(reflector.next_action(0.0), WaitUntil)


def test_an_empty_list_of_a_go_server_is_null() -> None:
    reflector = new_reflector()
    reflector.page_received({"metadata": {"resourceVersion": "1"}, "items": None}, 0.0)
    assert reflector.synced


def test_a_watch_that_ends_at_once_counts_as_a_failure() -> None:
    reflector = listed()
    reflector.watch_opened(0.0)
    reflector.watch_ended(0.5)
    assert waits_until_s(reflector, 0.5) == pytest.approx(0.6)
    reflector.watch_opened(1.0)
    reflector.event_received(event("ADDED", pod("a", 11)), 1.0)
    reflector.watch_ended(1.1)
    assert isinstance(reflector.next_action(1.1), OpenWatch)


@pytest.mark.parametrize("ends", ["in order", "by a time-out"])
def test_after_a_watch_that_told_nothing_for_long_a_list_is_asked_for(ends: str) -> None:
    """A real server whose store went back sends nothing until its versions have come to the one that was asked for."""
    reflector = listed(pod("a", 7))
    for told, then in ((True, OpenWatch), (False, ListPage)):
        reflector.watch_opened(0.0)
        if told:
            reflector.event_received(event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "11"}}), 1.0)
        if ends == "in order":
            reflector.watch_ended(SILENT_WATCH_S)
        else:
            reflector.failed(Failure(cause=Cause.UNREACHABLE, what="timed out"), SILENT_WATCH_S)
        assert isinstance(reflector.next_action(SILENT_WATCH_S + 10.0), then)
    reflector.page_received(page(3, [pod("b", 2)]), 200.0)
    reflector.page_received(page(3, [pod("b", 2)]), 200.0 + STALE_GRACE_S)
    assert set(reflector.objects()) == {("blue", "b")}


def test_a_resource_that_is_not_served_is_synced_with_nothing_and_asked_for_slowly() -> None:
    reflector = new_reflector()
    missing = Failure(cause=Cause.REFUSED, what="not found", code=404)
    assert reflector.failed(missing, 0.0) == ()
    assert reflector.synced
    assert reflector.absent
    assert reflector.next_action(0.0) == WaitUntil(at_s=15.0)
    assert reflector.next_action(15.0) == FIRST_LIST
    assert reflector.page_received(page(5, [pod("a", 4)]), 15.0) == (("blue", "a"),)
    assert not reflector.absent


def test_a_resource_that_was_served_must_stay_absent_before_its_objects_go() -> None:
    reflector = listed(pod("a", 7))
    missing = Failure(cause=Cause.REFUSED, what="not found", code=404)
    assert reflector.failed(missing, 0.0) == ()
    assert reflector.failed(missing, ABSENT_GRACE_S - 1) == ()
    assert set(reflector.objects()) == {("blue", "a")}
    assert reflector.failed(missing, ABSENT_GRACE_S) == (("blue", "a"),)
    assert reflector.objects() == {}


def test_a_snapshot_does_not_change_under_its_reader() -> None:
    reflector = listed(pod("a", 7))
    before = reflector.objects()
    reflector.event_received(event("ADDED", pod("b", 11)), 0.0)
    assert set(before) == {("blue", "a")}
    assert reflector.objects() is reflector.objects()
