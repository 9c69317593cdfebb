"""Maglev tables: C and Python have the same ones, and turns are those of the paper's rounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.lb import maglev_native, maglev_walk
from core.lb.maglev import DEFAULT_TABLE_SIZE, MAX_WEIGHT, populate, turns
from core.lb.maglev_walk import Walk
from tests.conftest import require

SIZES = (2, 3, 5, 7, 13, 61, 251, 257, 263, 509, 1009, 4099)
WEIGHTS = st.one_of(st.integers(0, 10), st.integers(0, 1_000_000), st.sampled_from((1, MAX_WEIGHT)))
SLOTS = st.dictionaries(st.integers(0, 2**31 - 1), WEIGHTS, max_size=40)
EQUAL_SLOTS = st.builds(lambda count, weight: dict.fromkeys(range(count), weight), st.integers(0, 300), WEIGHTS)


@pytest.fixture(scope="module")
def native() -> Walk:
    walk = maglev_native.native_walk()
    require("bpf", not isinstance(walk, str), f"the walk in C is not there: {walk}")
    assert not isinstance(walk, str)
    return walk


def outcome(weights: dict[int, int], size: int, prefix: str, walk: Walk) -> list[int] | str:
    """The table, or what is said against it."""
    try:
        table = populate(weights, size, name=lambda slot: f"{prefix}{slot}", walk=walk)
    except ValueError as error:
        return str(error)
    return list(map(int, table))


@given(weights=st.one_of(SLOTS, EQUAL_SLOTS), size=st.sampled_from(SIZES), prefix=st.text(max_size=5))
def test_c_and_python_have_the_same_tables(native: Walk, weights: dict[int, int], size: int, prefix: str) -> None:
    ours = outcome(weights, size, prefix, native)
    assert ours == outcome(weights, size, prefix, maglev_walk.walk)
    used = {slot for slot, weight in weights.items() if weight}
    if len(used) > size:
        assert "do not fit" in ours
    else:
        assert len(ours) == (size if used else 0)
        assert set(ours) <= used


@pytest.mark.parametrize(
    "weights",
    [
        {0: 1, 1: 1},
        dict.fromkeys(range(1000), 1),
        {slot: slot * slot % 97 for slot in range(300)},
        {0: MAX_WEIGHT, 7: 1, 9: 1_000_000, 11: MAX_WEIGHT - 1},
    ],
    ids=["two", "thousand", "weighted", "huge ratios"],
)
def test_default_tables_are_the_same(native: Walk, weights: dict[int, int]) -> None:
    assert DEFAULT_TABLE_SIZE == 65537
    assert np.array_equal(populate(weights, walk=native), populate(weights, walk=maglev_walk.walk))


@given(weights=st.lists(st.integers(1, 60), min_size=1, max_size=12), size=st.sampled_from(SIZES))
def test_turns_are_those_of_rounds_in_which_every_slot_gets_its_share(weights: list[int], size: int) -> None:
    greatest, due, wanted = max(weights), [0] * len(weights), list[int]()
    while len(wanted) < size:
        for i, weight in enumerate(weights):
            due[i] += weight
            if due[i] >= greatest:
                due[i] -= greatest
                wanted.append(i)
    order = turns(np.array(weights), size).tolist()
    assert [order[t % len(order)] for t in range(size)] == wanted[:size]


@given(weights=st.lists(st.one_of(st.integers(1, MAX_WEIGHT), st.just(1)), min_size=2, max_size=30))
def test_shares_are_exact_within_a_round(weights: list[int]) -> None:
    counts = np.bincount(populate(dict(enumerate(weights)), 4099), minlength=len(weights))
    greatest = max(weights)
    # The slot of the greatest weight has a turn in each round; the last may have ended early.
    rounds = int(counts[weights.index(greatest)])
    for count, weight in zip(counts.tolist(), weights, strict=True):
        assert (rounds - 1) * weight // greatest <= count <= (rounds + 1) * weight // greatest
