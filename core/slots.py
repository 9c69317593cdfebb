"""Slots: the small integers that endpoints keep for as long as their Pods live.

The Maglev permutation belongs to the slot, so a Pod that takes over a slot takes over its table entries: a rolling update moves only
the flows of the Pod that was replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def assign(uids: Iterable[str], previous: Mapping[str, int], limit: int) -> dict[str, int]:
    """The slot of every Pod UID, 0 <= slot < `limit`; a UID that finds no free slot is left out.

    A UID in `previous` keeps its slot, unless the slot is beyond the limit or taken by an earlier UID; the others take, in the order
    given, the lowest free one.
    """
    order = list(dict.fromkeys(uids))
    slots: dict[str, int] = {}
    taken: set[int] = set()
    for uid in order:
        slot = previous.get(uid)
        if slot is not None and 0 <= slot < limit and slot not in taken:
            slots[uid] = slot
            taken.add(slot)
    lowest = 0
    for uid in order:
        if uid in slots:
            continue
        while lowest in taken:
            lowest += 1
        if lowest >= limit:
            break
        slots[uid] = lowest
        taken.add(lowest)
    return {uid: slots[uid] for uid in order if uid in slots}
