"""What was written and is not seen yet."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from core.kube import Json, ObjectName
from live.kube_http import WATCH_READ_TIMEOUT_S
from live.store import LOOK_AGAIN_S, OWN_WRITE_S, OwnWrites


class Seen:
    """An informer that holds what the test says."""

    def __init__(self) -> None:
        self.held: dict[ObjectName, Json] = {}
        self.version: str | None = None

    @property
    def synced(self) -> bool:
        return True

    def objects(self) -> Mapping[ObjectName, Json]:
        return self.held


def slice_(version: int, **more: object) -> Json:
    return {"metadata": {"namespace": "blue", "name": "svc-ipv4", "resourceVersion": str(version)}, **more}


NAME = ("blue", "svc-ipv4")


def test_a_write_is_there_before_the_watch_tells_of_it() -> None:
    """Slots are remembered on the slices alone: forgotten for one turn, a Pod could get another one."""
    seen, now_s = Seen(), [0.0]
    writes = OwnWrites(seen, lambda: now_s[0])
    seen.held[NAME] = slice_(5)
    writes.note(slice_(7, ours=True))
    assert writes.objects()[NAME] == slice_(7, ours=True)
    seen.held[NAME] = slice_(6)
    assert writes.objects()[NAME] == slice_(7, ours=True)
    seen.held[NAME] = slice_(8, theirs=True)
    assert writes.objects()[NAME] == slice_(8, theirs=True)
    seen.held[NAME] = slice_(6)
    assert writes.objects()[NAME] == slice_(6), "what was seen once is not ours to say any more"


def test_a_write_stands_while_the_watch_is_silent() -> None:
    """A connection may be half open for as long as that, and each informer has one of its own."""
    seen, now_s = Seen(), [0.0]
    writes = OwnWrites(seen, lambda: now_s[0])
    seen.held[NAME], seen.version = slice_(5), "6"
    writes.note(slice_(7, ours=True))
    now_s[0] = WATCH_READ_TIMEOUT_S + 30.0
    assert writes.objects()[NAME] == slice_(7, ours=True)
    assert writes.look_again_s() == LOOK_AGAIN_S
    seen.held[NAME], seen.version = slice_(7), "7"
    assert writes.objects()[NAME] == slice_(7, ours=True), "still the object that we know"
    assert writes.look_again_s() is None


def test_a_write_stands_when_the_watch_tells_of_a_later_one_first() -> None:
    """Events out of order are garbage, and a list follows."""
    seen = Seen()
    writes = OwnWrites(seen, lambda: 0.0)
    seen.held[NAME], seen.version = slice_(5), "6"
    writes.note(slice_(7))
    seen.version = "8"
    assert writes.objects()[NAME] == slice_(7)


@pytest.mark.parametrize("told", ["7", "8"], ids=["version of the last write", "version of its own"])
def test_a_deletion_right_after_a_write_is_believed_at_once(told: str) -> None:
    seen = Seen()
    writes = OwnWrites(seen, lambda: 0.0)
    writes.note(slice_(7))
    seen.held[NAME], seen.version = slice_(7), "7"
    assert NAME in writes.objects()
    del seen.held[NAME]
    seen.version = told
    assert NAME not in writes.objects()


def test_a_write_that_was_undone_before_a_list_is_not_believed() -> None:
    """The list has nothing of it, and so wakes nobody."""
    seen = Seen()
    writes = OwnWrites(seen, lambda: 0.0)
    writes.note(slice_(7))
    seen.version = "6"
    assert NAME in writes.objects()
    assert writes.look_again_s() == LOOK_AGAIN_S
    seen.version = "9"
    assert NAME not in writes.objects()
    assert writes.look_again_s() is None


def test_a_write_that_a_restored_store_does_not_have_is_not_believed_for_ever() -> None:
    seen, now_s = Seen(), [0.0]
    writes = OwnWrites(seen, lambda: now_s[0])
    seen.version = "3"
    writes.note(slice_(7))
    assert NAME in writes.objects()
    now_s[0] = OWN_WRITE_S
    assert NAME not in writes.objects()
    writes.note(slice_(9))
    writes.forget(NAME)
    assert NAME not in writes.objects()


def test_a_write_that_was_seen_does_not_stand_against_a_store_that_went_back() -> None:
    seen = Seen()
    writes = OwnWrites(seen, lambda: 0.0)
    writes.note(slice_(7, ours=True))
    seen.held[NAME], seen.version = slice_(7), "7"
    assert writes.objects()[NAME] == slice_(7, ours=True)
    seen.held[NAME], seen.version = slice_(4), "5"
    assert writes.objects()[NAME] == slice_(4)
