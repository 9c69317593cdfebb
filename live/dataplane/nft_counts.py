"""Counting sets: the packets of each flow to each of its targets, in sets (or maps to hops) of marks whose elements count.

Each is a hash table of fixed size: in one that may grow the kernel reads two more cache lines for each packet (nft_rhash_lookup against
nft_hash_lookup_fast). So there is room for four times as many targets. A flow that outgrows its set gets another; no packet asks the
old one any more, but what it has counted counts, so it stays until the flow or the targets in it go.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

COUNTS: Final = "count-"
"""How the names of these sets begin."""
_LEAST: Final = 16
_SPARE: Final = 4


def count_sets(present: Mapping[str, Collection[int]], wanted: Mapping[str, Collection[int]]) -> dict[str, str]:
    """The name of the set for each flow, by its key, that is to count `wanted` marks: the one that is there if it has room for them
    beside those that it has, else a new one. `present`: marks by name.
    """
    there = {flow_of(name): name for name in sorted(present, key=capacity_of)}
    result = {}
    for key, marks in wanted.items():
        name = there.get(key)
        if name is None or len({*present[name], *marks}) > capacity_of(name):
            room = max(_LEAST, _SPARE * len({*(present[name] if name else ()), *marks}))
            name = f"{COUNTS}{key}-{1 << (room - 1).bit_length()}"
        result[key] = name
    return result


def counts_of(
    present: Mapping[str, Mapping[int, bytes]], wanted: Mapping[str, Mapping[int, bytes]], sets: Mapping[str, str]
) -> dict[str, Mapping[int, bytes]]:
    """What each set should have, by its name: `wanted` by flow in that of `sets`; in outgrown ones, what is still wanted of theirs."""
    result = {sets[key]: marks for key, marks in wanted.items()}
    for name in present.keys() - result.keys():
        now = wanted.get(flow_of(name), {}) if capacity_of(name) else {}
        result[name] = {mark: hop for mark, hop in present[name].items() if now.get(mark) == hop}
    return {name: marks for name, marks in result.items() if marks}


def capacity_of(name: str) -> int:
    """How many elements the set of that name may have."""
    capacity = name.rpartition("-")[2]
    return int(capacity) if capacity.isdecimal() else 0


def flow_of(name: str) -> str:
    """The key of the flow that the set of that name counts."""
    return name.removeprefix(COUNTS).rpartition("-")[0]
