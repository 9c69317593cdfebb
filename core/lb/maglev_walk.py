"""The walk that fills a Maglev table: what it is given, and how it goes, to be read. core/lb/maglev.c is the same for speed.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4, Pseudocode 1.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int32]

Walk = Callable[[Numbers, Numbers, Numbers, int], Numbers]
"""(order, offsets, skips, M) -> which i has each entry, shape (M,), int32.

`order`: whose turn it is, each i an index into `offsets` and `skips`; from its end it begins again. M is prime, 0 <= offset < M and
0 < skip < M. Arguments are C-contiguous and int32, and remain as they are.
"""

FEW_LEFT = 256
"""So many empty entries are looked through at once: a walk would meet M over that many before it finds one of them."""


def walk(order: Numbers, offsets: Numbers, skips: Numbers, M: int) -> Numbers:
    """Pseudocode 1 of the paper (see `Walk`): whose turn it is takes the first entry of its permutation that is still empty.

    The permutation is walked, not stored: entry j of it is (offset + j * skip) mod M. All together would take about M ln M steps,
    more than half of them for the last 256 of 65,537 entries; for these the walk's end is computed instead.
    """
    next_, skip_of = offsets.tolist(), skips.tolist()
    entry = [-1] * M
    taken = bytearray(M)
    turns = cycle(order.tolist())
    for i in islice(turns, max(M - FEW_LEFT, 0)):
        c = next_[i]
        if taken[c]:
            skip = skip_of[i]
            while taken[c]:
                c += skip
                if c >= M:
                    c -= M
            next_[i] = c
        entry[c] = i
        taken[c] = 1
    left = np.flatnonzero(np.frombuffer(taken, np.uint8) == 0)
    for i in islice(turns, len(left)):
        # j of each empty entry in the permutation of i: the least one is the next that the walk would find.
        nearest = int(np.argmin((left - next_[i]) * pow(skip_of[i], -1, M) % M))
        entry[left[nearest]] = i
        left = np.delete(left, nearest)
    return np.array(entry, np.int32)
