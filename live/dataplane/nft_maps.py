"""Bucket maps: which of the kernel's maps becomes which of the wanted tables, so that as few elements as possible change.

Pools with equal tables share one map: 2,000 routes to one service are one map of 65,537 elements, not 2,000.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count
from typing import Final

import numpy as np

from core.errors import DataplaneError
from core.lb.forwarding import REJECT, Pool, pool_table
from core.model import Address
from live.dataplane.nft_wire import Marks

PREFIX: Final = "pool-"


def marks_of(pools: Mapping[str, Pool], marks: Mapping[Address, int]) -> dict[str, Marks]:
    """The mark of each bucket of each pool, 0 where it rejects; shape (table_size,), uint32. Equal pools share one array.

    Raises DataplaneError for a target of the other address family.
    """
    known: dict[tuple[object, ...], Marks] = {}
    result = {}
    for name, pool in pools.items():
        addresses = tuple(target.address for target in pool.targets)
        if foreign := [address for address in addresses if address.version != pool.version]:
            raise DataplaneError(f"pool {name} is for IPv{pool.version} but has the target {foreign[0]}")
        shares = tuple((b.service, b.weight, *(target.slot for target in b.targets)) for b in pool.backends)
        content = (shares, addresses, pool.table_size)
        if content not in known:
            known[content] = _marks_of(pool, np.array([0, *(marks[address] for address in addresses)], np.uint32))
        result[name] = known[content]
    return result


def _marks_of(pool: Pool, of_target: Marks) -> Marks:
    """`of_target` begins with the entry for REJECT."""
    return of_target[pool_table(pool) - REJECT]


def assign(
    present: Mapping[str, Marks], wanted: Mapping[bytes, Marks], *, taken: Collection[str] = ()
) -> dict[bytes, str]:
    """A map name for each wanted table (by its bytes): that of an equal map, else of the most similar one that no other table gets,
    else a name that is neither present nor `taken`.
    """
    by_content = {content.tobytes(): name for name, content in present.items()}
    names = {key: by_content[key] for key in wanted if key in by_content}
    left = {name: content for name, content in present.items() if name not in names.values()}
    unused = (name for n in count() if (name := f"{PREFIX}{n}") not in present and name not in taken)
    for key, table in wanted.items():
        if key in names:
            continue
        differences = {
            name: int(np.count_nonzero(content != table))
            for name, content in left.items()
            if len(content) == len(table)
        }
        nearest = min(differences, key=differences.__getitem__, default=None)
        if nearest is None or differences[nearest] == len(table):
            names[key] = next(unused)
        else:
            names[key] = nearest
            del left[nearest]
    return names
