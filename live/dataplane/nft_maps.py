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


def marks_of(pool: Pool, marks: Mapping[Address, int]) -> Marks:
    """The mark of each bucket of `pool`, 0 where it rejects; shape (table_size,), uint32."""
    foreign = [target.address for target in pool.targets if target.address.version != pool.version]
    if foreign:
        raise DataplaneError(f"pool {pool.name} is for IPv{pool.version} but has the target {foreign[0]}")
    table = pool_table(pool)
    if not pool.targets:
        return np.zeros(len(table), np.uint32)
    of_target = np.array([marks[target.address] for target in pool.targets], np.uint32)
    return np.where(table == REJECT, np.uint32(0), of_target[np.maximum(table, 0)])


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
