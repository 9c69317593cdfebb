"""Maglev's consistent hashing table, in the paper's own letters.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4, with weights as in
section 3.4's last paragraph ("altering the relative frequency of the backends' turns").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import cycle, islice
from math import isqrt

import numpy as np
from numpy.typing import NDArray

DEFAULT_TABLE_SIZE = 65537
"""M: prime, and more than a hundred times the slots of a default Service (paper, section 5.3)."""

Table = NDArray[np.int32]


@lru_cache(maxsize=1 << 14)
def offset_and_skip(name: str, M: int) -> tuple[int, int]:
    """The two numbers that generate the permutation of a name: 0 <= offset < M, 1 <= skip < M."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    offset = int.from_bytes(digest[:8], "little") % M
    skip = int.from_bytes(digest[8:], "little") % (M - 1) + 1
    return offset, skip


@lru_cache(maxsize=64)
def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


def populate(weights: Mapping[int, int], M: int = DEFAULT_TABLE_SIZE, *, name: Callable[[int], str] = str) -> Table:
    """The lookup table of the slots in `weights` (slot -> weight): which slot has each entry, shape (M,).

    The share of a slot is its weight over the sum of weights, within one entry a round. Slots of weight zero get nothing. Without
    slots the table is empty, shape (0,). M must be prime, so that every skip generates the whole permutation.
    The permutation of a slot is that of its `name`: tables whose entries must be independent of each other use different names.

    Raises ValueError for a negative weight, a table smaller than the number of slots, or a size that is not prime.
    """
    if not _is_prime(M):
        raise ValueError(
            f"a table of {M} entries: the size must be prime, or a permutation would not reach every entry"
        )
    if any(weight < 0 for weight in weights.values()):
        raise ValueError(f"negative weight in {dict(weights)}")
    slots = sorted(slot for slot, weight in weights.items() if weight > 0)
    if not slots:
        return np.empty(0, np.int32)
    if len(slots) > M:
        raise ValueError(f"{len(slots)} slots do not fit into a table of {M} entries")
    if len(slots) == 1:
        return np.full(M, slots[0], np.int32)
    heaviest = max(weights[slot] for slot in slots)
    turns = [weights[slot] / heaviest for slot in slots]
    return _populate(slots, [offset_and_skip(name(slot), M) for slot in slots], turns, M)


FEW_LEFT = 256
"""So many empty entries are looked through at once: a walk would meet M over that many before it finds one of them."""


def _populate(slots: list[int], generators: list[tuple[int, int]], turns: list[float], M: int) -> Table:
    """Pseudocode 1 of the paper. A slot takes its turn whenever its accumulated share (0 < turns[i] <= 1 a round) is one entry.

    The permutation is walked, not stored: entry j of it is (offset + j * skip) mod M. All slots together would take about M ln M steps,
    more than half of them for the last 256 of 65,537 entries; for these the walk's end is computed instead.
    """
    next_ = [offset for offset, _ in generators]
    skips = [skip for _, skip in generators]
    entry = [-1] * M
    taken = bytearray(M)
    order = _turns(turns)
    for i in islice(order, max(M - FEW_LEFT, 0)):
        c = next_[i]
        if taken[c]:
            skip = skips[i]
            while taken[c]:
                c += skip
                if c >= M:
                    c -= M
            next_[i] = c
        entry[c] = slots[i]
        taken[c] = 1
    left = np.flatnonzero(np.frombuffer(taken, np.uint8) == 0)
    for i in islice(order, len(left)):
        offset, skip = generators[i]
        # j of each empty entry in the permutation of i: the least one is the next that the walk would find.
        nearest = int(np.argmin((left - offset) * pow(skip, -1, M) % M))
        entry[left[nearest]] = slots[i]
        left = np.delete(left, nearest)
    return np.array(entry, np.int32)


def _turns(turns: list[float]) -> Iterator[int]:
    """Whose turn it is, for ever."""
    if all(turn == 1.0 for turn in turns):
        return cycle(range(len(turns)))
    return _weighted_turns(turns)


def _weighted_turns(turns: list[float]) -> Iterator[int]:
    due = [0.0] * len(turns)
    while True:
        for i, turn in enumerate(turns):
            due[i] += turn
            if due[i] >= 1.0:
                due[i] -= 1.0
                yield i
