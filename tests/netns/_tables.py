"""Whole tables in a form that can be compared: the address behind each bucket."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from core.kube import Json
from core.lb.forwarding import pool_table
from core.model import Address
from scenarios.predict import plan_of


def by_bucket(addresses: Sequence[Address | None], table: NDArray[np.integer]) -> bytes:
    """The table whose buckets are indices into `addresses`, as bytes that are equal when the targets are."""
    names: NDArray[np.str_] = np.array(list(map(str, addresses)), "U40")
    return bytes(names[table].tobytes())


def planned_tables(objects: Iterable[Json]) -> tuple[set[bytes], int]:
    """Every table that the objects lead to, and how many buckets each has."""
    found, sizes = set(), set()
    for gateway in plan_of(objects).gateways:
        for pool in {
            pool.name: pool for flow in gateway.forwarding.flows for pool in [gateway.forwarding.pool_of(flow)]
        }.values():
            # The table says -1 for rejection, which is the last one here.
            found.add(by_bucket([*(target.address for target in pool.targets), None], pool_table(pool)))
            sizes.add(pool.table_size)
    (size,) = sizes
    return found, size
