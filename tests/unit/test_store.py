"""What was written and is not seen yet."""

from __future__ import annotations

from collections.abc import Mapping

from core.kube import Json, ObjectName
from live.store import OWN_WRITE_S, OwnWrites


class Seen:
    """An informer that holds what the test says."""

    def __init__(self) -> None:
        self.held: dict[ObjectName, Json] = {}

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


def test_a_write_that_was_undone_is_not_believed_for_ever() -> None:
    seen, now_s = Seen(), [0.0]
    writes = OwnWrites(seen, lambda: now_s[0])
    writes.note(slice_(7))
    assert NAME in writes.objects()
    now_s[0] = OWN_WRITE_S
    assert NAME not in writes.objects()
    writes.note(slice_(9))
    writes.forget(NAME)
    assert NAME not in writes.objects()
