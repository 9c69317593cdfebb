"""What stands in the maps of one program, and how it becomes what a Forwarding says.

Order of a change, so that no packet meets a gap or a mixture:

    1. targets that are new are written, where no table points to yet
    2. the tables of pools that are new or changed are swapped in, each whole; the kernel waits until no packet sees an old one
    3. the decision image is swapped in, if flows have changed; all flows at once, with the pools and counters that they lead to
    4. pools that no flow leads to any more are freed, then targets that no table points to any more

A pool keeps its slot as long as it lives, so between 2 and 3 the old flows lead to new tables of the same pools: each service is
either as it was or as it will be.

What a change needs is given out before step 1, so one that does not fit changes nothing that packets see. One that the kernel breaks
off leaves the maps in doubt: tables of the change may stand in them, targets and counters be taken that nobody uses. Both times these
maps are given up, and others take their place (tc.py), which go on with what these have counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.lb.forwarding import Flow, Forwarding, Pool, pool_table
from core.model import Address
from live.dataplane.tc_image import CELL_BYTES, Decisions, Place, compile_flows
from live.dataplane.tc_places import PoolPlaces, Record, address_in
from live.dataplane.tc_program import REJECT_TARGET, TARGET, Program, Sizes

FlowKey = tuple[str, str]
"""Name and pool of a flow; flows that share both share their counters."""
Totals = dict[tuple[FlowKey, Address | None], tuple[int, int]]
"""Packets and bytes by flow and target; None: rejected."""

REJECTED: Final = 0
"""The counter of rejected packets, from the flow's first counter; targets have the following ones."""
_LEAST_COUNTERS: Final = 8


class NoRoomError(Exception):
    """The program's maps are too small: load a bigger one and fill that. What packets see has not changed."""


@dataclass(slots=True)
class _Numbers:
    """Hands out the lowest numbers below `limit` that are free."""

    limit: int
    free: list[int] = field(default_factory=list)
    end: int = 0

    def take(self) -> int:
        if self.free:
            return self.free.pop()
        if self.end == self.limit:
            raise NoRoomError
        self.end += 1
        return self.end - 1


@dataclass(frozen=True, slots=True)
class _PoolState:
    """A pool whose table is in the kernel."""

    slot: int
    pool: Pool
    records: tuple[Record, ...]
    """By the order of `pool.targets`."""
    counters: Mapping[Record, int]
    """By target, from the flow's first counter. Those of targets that are gone stay taken until `room` is used up; then the pool moves
    to another slot, and its flows to other counters, in one go."""
    room: int
    """How many counters a flow with this pool has; a power of two."""


@dataclass(frozen=True, slots=True)
class _FlowState:
    """The counters of a flow: `room` of them from `first` on, numbered by `numbers` as the table in `slot` does."""

    first: int
    room: int
    slot: int
    numbers: Mapping[Record, int]


PoolKey = tuple[str, int]
"""Name and table size: a table of another size is another pool."""


def _key(pool: Pool) -> PoolKey:
    return pool.name, pool.table_size


def _room(targets: int) -> int:
    return max(_LEAST_COUNTERS, 1 << (2 * targets).bit_length())


def sizes_of(forwarding: Forwarding, decisions: Decisions, places: Mapping[str, PoolPlaces]) -> Sizes:
    """The least sizes of a program that a change to `forwarding` fits into, from anything of half these sizes."""
    pools = {pool.name: pool for pool in forwarding.pools}
    keys = {(flow.name, flow.pool) for flow in forwarding.flows}
    # Routes to one Service have the same targets, and often the same tuple of them.
    distinct = {id(found.records): found.records for found in places.values()}
    records = {record for found in distinct.values() for record in found}
    return Sizes(
        image_bytes=len(decisions.image) * CELL_BYTES,
        pools=len(pools),
        table_entries=max((pool.table_size for pool in pools.values()), default=1),
        targets=len(records),
        counters=sum(_room(len(places[pool].records)) for _, pool in keys),
    )


class Tables:
    """The content of one program's maps."""

    def __init__(self, program: Program, *, carried: Totals) -> None:
        """`carried`: what the program before has counted."""
        self.program = program
        self.decisions = compile_flows(())
        self._flows: tuple[Flow, ...] | None = None
        self._placed: tuple[list[Place], int] | None = None
        self._pools: dict[PoolKey, _PoolState] = {}
        self._slots = _Numbers(program.sizes.pools)
        self._targets: dict[Record, int] = {}
        self._target_numbers = _Numbers(program.sizes.targets)
        self._uses: Counter[Record] = Counter()
        """How many pools lead to a target."""
        self._counters: dict[FlowKey, _FlowState] = {}
        self._retired: dict[FlowKey, _FlowState] = {}
        """What flows had before the change that goes on; packets may still be counted there."""
        self._counters_end = 0
        self._free_counters: dict[int, list[int]] = {}
        self._carried = dict(carried)
        self.in_doubt = False
        """A change has ended half-way: these maps may not be filled any more, only read."""

    def has_flows(self, flows: tuple[Flow, ...]) -> bool:
        """Whether `decisions` are those of `flows`."""
        return self._flows is not None and self._flows == flows

    def fill(self, forwarding: Forwarding, decisions: Decisions, places: Mapping[str, PoolPlaces]) -> None:
        """Makes the maps say `forwarding`, whose flows `decisions` decides.

        Raises NoRoomError when the maps are too small, DataplaneError when the kernel refuses; then they are `in_doubt`.
        """
        assert not self.in_doubt
        self.in_doubt = True
        by_name = {pool.name: pool for pool in forwarding.pools}
        pools = {_key(by_name[flow.pool]): by_name[flow.pool] for flow in forwarding.flows}
        changed = self._changed(pools, places)
        replaced = [state for key, state in self._pools.items() if key in changed or key not in pools]
        new_targets = self._use_targets(changed)
        self._pools = {key: changed[key] if key in changed else self._pools[key] for key in pools}
        self._place_counters(forwarding.flows, by_name)
        self.program.write_targets(new_targets)
        self.program.publish_tables({state.slot: self._entries(state) for state in changed.values()})
        placed = [self._place(flow, by_name[flow.pool]) for flow in forwarding.flows], forwarding.seed
        if not self.has_flows(forwarding.flows) or placed != self._placed:
            self.program.publish_image(decisions.placed(*placed))
        self.decisions, self._flows, self._placed = decisions, forwarding.flows, placed
        self._carry()
        self._free(replaced)
        self.in_doubt = False

    def _changed(self, pools: Mapping[PoolKey, Pool], places: Mapping[str, PoolPlaces]) -> dict[PoolKey, _PoolState]:
        """The pools whose tables must be swapped, as they will be."""
        found: dict[PoolKey, _PoolState] = {}
        for key, pool in pools.items():
            records = places[pool.name].records
            state = self._pools.get(key)
            if state is None or state.pool != pool or state.records != records:
                found[key] = self._state(key, pool, records)
        return found

    def _use_targets(self, changed: Mapping[PoolKey, _PoolState]) -> dict[int, Record]:
        """Returns those that are new, by the numbers that they get."""
        gained = Counter[Record]()
        for key, state in changed.items():
            old = self._pools.get(key)
            gained.update(set(state.records).difference(old.records if old is not None else ()))
        numbers = {record: self._target_numbers.take() for record in sorted(gained.keys() - self._targets.keys())}
        self._targets |= numbers
        self._uses.update(gained)
        return {number: record for record, number in numbers.items()}

    def _state(self, key: PoolKey, pool: Pool, records: tuple[Record, ...]) -> _PoolState:
        old = self._pools.get(key)
        distinct = dict.fromkeys(records)
        if old is not None:
            new = [record for record in distinct if record not in old.counters]
            if len(old.counters) + len(new) < old.room:
                counters = {**old.counters, **{r: n for n, r in enumerate(new, len(old.counters) + 1)}}
                return _PoolState(old.slot, pool, records, counters, old.room)
        counters = {record: n for n, record in enumerate(distinct, REJECTED + 1)}
        return _PoolState(self._slots.take(), pool, records, counters, _room(len(distinct)))

    def _entries(self, state: _PoolState) -> NDArray[np.uint64]:
        """The table as struct bucket has it: which target, and which counter; shape (table_size,)."""
        entries = [self._targets[record] | state.counters[record] << 32 for record in state.records]
        # The table says -1 for rejection, which is the last one here.
        return np.array([*entries, REJECT_TARGET | REJECTED << 32], np.uint64)[pool_table(state.pool)]

    def _place(self, flow: Flow, pool: Pool) -> Place:
        counters = self._counters[flow.name, flow.pool]
        return Place(pool=self._pools[_key(pool)].slot, table_size=pool.table_size, counters=counters.first)

    # --- counters ----------------------------------------------------------------------------------------------------------

    def _place_counters(self, flows: tuple[Flow, ...], pools: Mapping[str, Pool]) -> None:
        """Gives every flow counters that fit its pool."""
        retired = dict(self._counters)
        placed: dict[FlowKey, _FlowState] = {}
        for flow in flows:
            key = flow.name, flow.pool
            if key in placed:
                continue
            state = self._pools[_key(pools[flow.pool])]
            old = self._counters.get(key)
            if old is None or old.slot != state.slot:
                placed[key] = _FlowState(self._take_counters(state.room), state.room, state.slot, state.counters)
            else:
                del retired[key]
                placed[key] = old if old.numbers is state.counters else replace(old, numbers=state.counters)
        self._counters, self._retired = placed, retired

    def _take_counters(self, room: int) -> int:
        if free := self._free_counters.get(room):
            first = free.pop()
            self.program.reset_counters(first, room)
            return first
        if self._counters_end + room > self.program.sizes.counters:
            raise NoRoomError
        self._counters_end += room
        return self._counters_end - room

    def _carry(self) -> None:
        """Keeps what retired counters have counted for flows that go on."""
        if not self._retired:
            return
        values = self.program.counters()
        for key, state in self._retired.items():
            self._free_counters.setdefault(state.room, []).append(state.first)
            if key in self._counters:
                _add(self._carried, key, values, state)
        self._retired = {}
        self._carried = {key: total for key, total in self._carried.items() if key[0] in self._counters}

    def totals(self) -> Totals:
        """What has been counted, by flow and target (None: rejected)."""
        values = self.program.counters()
        found = dict(self._carried)
        for key, state in (*self._retired.items(), *self._counters.items()):
            _add(found, key, values, state)
        return found

    # --- the end -----------------------------------------------------------------------------------------------------------

    def _free(self, replaced: Sequence[_PoolState]) -> None:
        slots = {state.slot for state in replaced} - {state.slot for state in self._pools.values()}
        self.program.withdraw_tables(sorted(slots))
        self._slots.free += sorted(slots, reverse=True)
        unused: list[Record] = []
        for state in replaced:
            successor = self._pools.get(_key(state.pool))
            lost = set(state.records).difference(successor.records if successor is not None else ())
            self._uses.subtract(lost)
            unused += (record for record in sorted(lost) if not self._uses[record])
        numbers = {self._targets.pop(record): bytes(TARGET.size) for record in unused}
        self.program.write_targets(numbers)
        self._target_numbers.free += sorted(numbers, reverse=True)
        for record in unused:
            del self._uses[record]


def _add(totals: Totals, flow: FlowKey, values: NDArray[np.uint64], state: _FlowState) -> None:
    where = [(address_in(record), number) for record, number in state.numbers.items()]
    for address, number in ((None, REJECTED), *where):
        packets, octets = values[state.first + number].tolist()
        before = totals.get((flow, address), (0, 0))
        totals[flow, address] = before[0] + packets, before[1] + octets
