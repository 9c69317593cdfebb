"""Maglev's consistent hashing table, in the paper's own letters.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4, with weights as in
section 3.4's last paragraph ("altering the relative frequency of the backends' turns").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
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


def _populate(slots: list[int], generators: list[tuple[int, int]], turns: list[float], M: int) -> Table:
    """Pseudocode 1 of the paper. A slot takes its turn whenever its accumulated share (0 < turns[i] <= 1 a round) is one entry.

    The permutation is walked, not stored: entry j of it is (offset + j * skip) mod M. All slots together would take about M ln M steps,
    nearly half of them to the last thousandth of the entries: of those, the nearest is looked for.
    """
    next_ = [offset for offset, _ in generators]
    skips = [skip for _, skip in generators]
    due = [0.0] * len(slots)
    entry = [-1] * M
    n, walked = 0, M - M // 1000
    last = _LastEntries(entry, M)
    while True:
        for i, slot in enumerate(slots):
            due[i] += turns[i]
            if due[i] < 1.0:
                continue
            due[i] -= 1.0
            c, skip = next_[i], skips[i]
            if n < walked:
                while entry[c] >= 0:
                    c += skip
                    if c >= M:
                        c -= M
            else:
                c = last.take(c, skip)
            entry[c] = slot
            next_[i] = c
            n += 1
            if n == M:
                return np.array(entry, np.int32)


class _LastEntries:
    """Those entries of a table that are free when the first of them is taken."""

    def __init__(self, entry: list[int], M: int) -> None:
        self._entry, self._M = entry, M
        self._free: NDArray[np.int64] | None = None

    def take(self, c: int, skip: int) -> int:
        """The first free entry of c, c + skip, c + 2 skip, … mod M; from now on it is taken."""
        if self._free is None:
            self._free = np.flatnonzero(np.array(self._entry) < 0)
        steps = (self._free - c) * pow(skip, -1, self._M) % self._M
        nearest = int(steps.argmin())
        taken = int(self._free[nearest])
        self._free = np.delete(self._free, nearest)
        return taken
