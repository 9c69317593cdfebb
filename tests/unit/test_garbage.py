"""Garbage is collected among what is new, and what stays is set aside."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from core.garbage import WHOLE_S, GarbageCollector


class Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself: Ring | None = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_new_is_collected_and_what_stays_is_not_looked_at_again() -> None:
    collector = GarbageCollector()
    collector.collect(0.0)
    kept = Ring()
    gone = weakref.ref(Ring())
    collector.collect(1.0)
    assert gone() is None
    assert gc.get_freeze_count() > 0
    assert all(found is not kept for found in gc.get_objects())


def test_what_comes_to_refer_to_itself_later_is_collected_once_in_a_while() -> None:
    collector = GarbageCollector()
    ring = Ring()
    left = weakref.ref(ring)
    collector.collect(0.0)
    del ring
    collector.collect(WHOLE_S / 2)
    assert left() is not None
    collector.collect(WHOLE_S)
    assert left() is None
