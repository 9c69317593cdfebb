"""Maglev's consistent hashing table, in the paper's own letters.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4, with weights as in
section 3.4's last paragraph ("altering the relative frequency of the backends' turns").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.lb import maglev_native, maglev_walk
from core.lb.maglev_walk import Walk

DEFAULT_TABLE_SIZE = 65537
"""M: prime, and more than a hundred times the slots of a default Service (paper, section 5.3)."""

MAX_WEIGHT: Final = 2**31 - 1
"""Above what an API object can say (1,000,000); rounds times weights stay below 2^63."""

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


def populate(
    weights: Mapping[int, int],
    M: int = DEFAULT_TABLE_SIZE,
    *,
    name: Callable[[int], str] = str,
    walk: Walk | None = None,
) -> Table:
    """The lookup table of the slots in `weights` (slot -> weight): which slot has each entry, shape (M,).

    The share of a slot is its weight over the sum of weights, within one entry a round. Slots of weight zero get nothing. Without
    slots the table is empty, shape (0,). M must be prime, so that every skip generates the whole permutation.
    The permutation of a slot is that of its `name`: tables whose entries must be independent of each other use different names.
    `walk` is the one in C where it is there, else the one in Python; the table is the same.

    Raises ValueError for a weight below 0 or above 2^31 - 1, a table smaller than the number of slots, or a size that is not prime.
    """
    if not _is_prime(M):
        raise ValueError(
            f"a table of {M} entries: the size must be prime, or a permutation would not reach every entry"
        )
    if any(weight < 0 for weight in weights.values()):
        raise ValueError(f"negative weight in {dict(weights)}")
    if any(weight > MAX_WEIGHT for weight in weights.values()):
        raise ValueError(f"weight over {MAX_WEIGHT} in {dict(weights)}: divide all by the same number")
    slots = sorted(slot for slot, weight in weights.items() if weight > 0)
    if not slots:
        return np.empty(0, np.int32)
    if len(slots) > M:
        raise ValueError(f"{len(slots)} slots do not fit into a table of {M} entries")
    if len(slots) == 1:
        return np.full(M, slots[0], np.int32)
    generators = np.array([offset_and_skip(name(slot), M) for slot in slots], np.int32)
    order = turns(np.array([weights[slot] for slot in slots], np.int64), M)
    offsets, skips = generators.T.copy()
    which = (walk or best_walk())(order, offsets, skips, M)
    # Most Services have the slots 0 to n - 1.
    return which if slots[-1] == len(slots) - 1 and slots[0] == 0 else np.array(slots, np.int32)[which]


def best_walk() -> Walk:
    """The walk in C where `make setup` has compiled it, else the one in Python."""
    native = maglev_native.native_walk()
    return maglev_walk.walk if isinstance(native, str) else native


def turns(weights: NDArray[np.int64], M: int) -> NDArray[np.int32]:
    """Whose turn it is, one index into `weights` (each 1 to MAX_WEIGHT) for each entry; one round of it where all weights are equal.

    In each round a slot's due grows by its weight over the greatest weight, and it takes a turn when that is one whole, in the order
    of slots. So its turn number k is in round ceil(k * greatest / weight): in integers, and without the rounds in which few take turns.
    """
    greatest = int(weights.max())
    if int(weights.min()) == greatest:
        return np.arange(len(weights), dtype=np.int32)
    taken = weights * _rounds(weights, greatest, M) // greatest
    who = np.repeat(np.arange(len(weights)), taken)
    k = np.arange(1, len(who) + 1) - np.repeat(taken.cumsum() - taken, taken)
    round_ = -(-k * greatest // weights[who])
    # Sorted by round, then by slot: both in one number, M < 2^31 each.
    bits = len(weights).bit_length()
    in_turn = np.sort(round_ << bits | who)[:M]
    return (in_turn & ((1 << bits) - 1)).astype(np.int32)


def _rounds(weights: NDArray[np.int64], greatest: int, M: int) -> int:
    """The fewest rounds with M turns; M are enough, for the greatest weight takes a turn in each."""
    few, enough = 0, M
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if int((weights * middle // greatest).sum()) >= M else (middle, enough)
    return enough
