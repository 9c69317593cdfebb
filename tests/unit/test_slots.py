"""Slots stay with their Pods."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.slots import assign

uids = st.lists(st.sampled_from([f"pod-{i}" for i in range(30)]), unique=True)


def test_a_replacement_takes_the_lowest_free_slot() -> None:
    before = assign(["a", "b", "c", "d"], {}, 100)
    assert before == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert assign(["a", "d", "e"], before, 100) == {"a": 0, "d": 3, "e": 1}


def test_who_finds_no_slot_is_left_out() -> None:
    assert assign(["a", "b", "c"], {}, 2) == {"a": 0, "b": 1}


def test_a_slot_beyond_the_limit_or_given_twice_is_given_anew() -> None:
    assert assign(["a", "b"], {"a": 7, "b": 1}, 2) == {"a": 0, "b": 1}
    assert assign(["a", "b"], {"a": 1, "b": 1}, 5) == {"a": 1, "b": 0}


@given(first=uids, second=uids, limit=st.integers(1, 40))
def test_who_stays_keeps_the_slot(first: list[str], second: list[str], limit: int) -> None:
    before = assign(first, {}, limit)
    after = assign(second, before, limit)
    assert len(set(after.values())) == len(after) == min(limit, len(second))
    assert all(0 <= slot < limit for slot in after.values())
    assert all(after[uid] == before[uid] for uid in second if uid in before)
