"""Maglev tables: shares, minimal disruption, emptiness."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from core.lb import maglev, maglev_walk
from core.lb.maglev import DEFAULT_TABLE_SIZE, MAX_WEIGHT, offset_and_skip, populate
from core.lb.maglev_walk import Walk


def test_the_papers_example() -> None:
    """Table 1 of the paper, by the same rule with the paper's permutations: B1 joins B0 and B2."""
    size = 7
    table = populate({0: 1, 1: 1, 2: 1}, size)
    counts = np.bincount(table, minlength=3)
    assert sorted(counts.tolist()) == [2, 2, 3]
    for slot in range(3):
        offset, skip = offset_and_skip(str(slot), size)
        assert 0 <= offset < size
        assert 1 <= skip < size
    # The first slot takes the first entry of its permutation, as Pseudocode 1 says.
    assert table[offset_and_skip("0", size)[0]] == 0


def test_no_slots_no_table() -> None:
    assert populate({}).shape == (0,)
    assert populate({3: 0}).shape == (0,)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100])
def test_equal_shares_within_one_entry(count: int) -> None:
    counts = np.bincount(populate(dict.fromkeys(range(count), 1)), minlength=count)
    assert counts.sum() == DEFAULT_TABLE_SIZE
    assert counts.max() - counts.min() <= 1


def test_weights_are_shares() -> None:
    counts = np.bincount(populate({0: 1, 1: 2, 2: 5}), minlength=3) / DEFAULT_TABLE_SIZE
    assert np.allclose(counts, [1 / 8, 2 / 8, 5 / 8], atol=1e-4)


def test_removing_a_slot_moves_its_entries_and_few_others() -> None:
    before = populate(dict.fromkeys(range(10), 1))
    after = populate(dict.fromkeys((s for s in range(10) if s != 4), 1))
    moved = before != after
    assert (before[moved] == 4).sum() == (before == 4).sum()
    assert (before[moved] != 4).mean() < 0.35
    assert (before[moved] != 4).sum() < 0.05 * DEFAULT_TABLE_SIZE


def test_the_order_of_slots_does_not_count() -> None:
    assert (populate({5: 1, 1: 2, 9: 1}) == populate({9: 1, 5: 1, 1: 2})).all()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="negative weight"):
        populate({0: -1})
    with pytest.raises(ValueError, match="do not fit"):
        populate(dict.fromkeys(range(8), 1), 7)
    with pytest.raises(ValueError, match="prime"):
        populate({0: 1}, 9)
    with pytest.raises(ValueError, match="divide all"):
        populate({0: 1, 1: MAX_WEIGHT + 1})


@pytest.mark.parametrize("walk", dict.fromkeys((maglev_walk.walk, maglev.best_walk())))
@pytest.mark.parametrize("size", [13, 257, 4099])
def test_every_entry_is_where_the_papers_pseudocode_puts_it(size: int, walk: Walk) -> None:
    weights = {3: 2, 5: 1, 8: 3, 13: 3}
    entry: dict[int, int] = {}
    permutations = {slot: permutation(slot, size) for slot in weights}
    due = dict.fromkeys(weights, 0)
    while len(entry) < size:
        for slot, weight in weights.items():
            due[slot] += weight
            if due[slot] >= 3 and len(entry) < size:
                due[slot] -= 3
                entry[next(c for c in permutations[slot] if c not in entry)] = slot
    assert populate(weights, size, walk=walk).tolist() == [entry[c] for c in range(size)]


def permutation(slot: int, size: int) -> Iterator[int]:
    offset, skip = offset_and_skip(str(slot), size)
    return ((offset + j * skip) % size for j in range(size))
