"""What our nftables table holds and what it should hold, and the transactions that lead from one to the other.

Most of it is content under names that say the content (`nft_program`): added before anything leads to it, deleted after nothing does
any more. What switches packets over is one transaction between.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from live.dataplane import nft_expressions as nft
from live.dataplane.nft_counts import COUNTS, capacity_of
from live.dataplane.nft_expressions import Compare, Meta, Reject, Verdict
from live.dataplane.nft_maps import PREFIX, assign
from live.dataplane.nft_marks import REJECT_MARK
from live.dataplane.nft_packets import FAMILY
from live.dataplane.nft_program import UNMATCHED, Program
from live.dataplane.nft_wire import FAMILY_KEY, HOP, INTERVAL, MARK_KEY, NETDEV, Marks, NftSocket, Table, element, pair
from live.netlink import Message

ENTRY: Final = "prerouting"
REFUSE: Final = "refuse"
INGRESS: Final = "ingress-"
"""How the names of chains begin that see all frames of an interface."""
_HOOKS: Final = {ENTRY: 0, REFUSE: 2}
"""NF_INET_PRE_ROUTING, NF_INET_FORWARD."""
_RAW_PRIORITY: Final = -300
_MESSAGE_BYTES: Final = 16
_CHANGED_BUCKET_BYTES: Final = 16 + 28
_HOP_OF: Final = {hop.length: hop for hop in HOP.values()}
_FAMILY_KEYS: Final = tuple(bytes([number]) for number in FAMILY.values())


Counted = Mapping[int, bytes]
"""Marks of which the packets are counted, and where they go: address and interface, or nothing where only the mark says it."""


@dataclass(frozen=True, slots=True)
class State:
    """What the kernel has. `base` are the rules of the base chains, None when unknown."""

    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    maps: Mapping[str, Marks] = field(default_factory=dict)
    """The mark of each bucket, 0 for none, by the map's name."""
    counts: Mapping[str, Counted] = field(default_factory=dict)
    """Marks by the name of the set that counts them."""
    base: Mapping[str, tuple[bytes, ...]] | None = None
    lengths: Mapping[str, int] = field(default_factory=dict)
    """How many rules a chain has, or elements a set, that somebody else made: who was interrupted left some of them unfinished."""

    def place(self, tables: Mapping[str, Marks], capacity_bytes: int) -> tuple[dict[str, Marks], dict[str, str]]:
        """(content by map name, map name by pool) for the table of each pool; pools that reject everything need no map.

        Maps that would have to change in more places than a transaction holds are made anew instead.
        """
        arrays = {id(table): table for table in tables.values() if table.any()}
        contents = {number: table.tobytes() for number, table in arrays.items()}
        unique = {contents[number]: table for number, table in arrays.items()}
        room = capacity_bytes // 2
        kept: dict[str, Marks] = {}
        for content, name in assign(self.maps, unique).items():
            if name in self.maps:
                change_bytes = int(np.count_nonzero(self.maps[name] != unique[content])) * _CHANGED_BUCKET_BYTES
                if change_bytes <= room:
                    kept[name] = self.maps[name]
                    room -= change_bytes
        names = assign(kept, unique, taken=self.maps)
        return (
            {name: unique[content] for content, name in names.items()},
            {pool: names[contents[id(table)]] for pool, table in tables.items() if id(table) in contents},
        )


@dataclass(frozen=True, slots=True)
class Desired:
    """What the kernel should have."""

    program: Program
    maps: Mapping[str, Marks]
    counts: Mapping[str, Counted]
    interfaces: Sequence[str] | None = None
    """Of a table of frames: whose frames it sees."""

    def state(self) -> State:
        """The state when it has."""
        return State(
            chains=frozenset(self.program.chains) | self.base.keys(),
            sets=frozenset(self.program.sets) | ({UNMATCHED} if self.interfaces is None else frozenset()),
            maps=self.maps,
            counts=self.counts,
            base=self.base,
        )

    @property
    def base(self) -> dict[str, tuple[bytes, ...]]:
        """The rules of the base chains; that which refuses is there only while some packets are to be rejected, for every packet that
        is forwarded passes it."""
        if self.interfaces is not None:
            return {INGRESS + name: self.program.entry for name in self.interfaces}
        chains = {ENTRY: self.program.entry}
        if any(REJECT_MARK in marks for marks in self.counts.values()):
            mark = REJECT_MARK.to_bytes(4, sys.byteorder)
            load_mark = nft.meta(Meta.MARK)
            forwarded = load_mark + nft.compare(mark, operator=Compare.NOT_EQUAL) + nft.decide(Verdict.ACCEPT)
            tcp = nft.meta(Meta.PROTOCOL) + nft.compare(bytes([6]))
            chains[REFUSE] = (forwarded, tcp + nft.reject(Reject.TCP_RESET), nft.reject(Reject.ICMP))
        return chains


def load(kernel: NftSocket, table: Table) -> State:
    """What the kernel has in `table`."""
    where = table.name, table.family
    chains, sets = kernel.chains(*where), kernel.sets(*where)
    maps = {}
    for name, size in sets.items():
        if name.startswith(PREFIX):
            buckets, marks = kernel.pairs(table.name, name, table.family)
            maps[name] = np.zeros(size, np.uint32)
            maps[name][buckets] = marks
    counts = {
        name: {
            int.from_bytes(key, sys.byteorder): hop for key, hop in kernel.data(table.name, name, table.family).items()
        }
        for name in sets
        if name.startswith(COUNTS)
    }
    others = frozenset(sets.keys() - maps.keys() - counts.keys())
    lengths = dict.fromkeys(chains, 0) | kernel.rules(*where)
    lengths |= {name: kernel.length(table.name, name, table.family) for name in others}
    return State(chains=frozenset(chains), sets=others, maps=maps, counts=counts, lengths=lengths)


def unmatched_counts(kernel: NftSocket, table: Table) -> tuple[int, int]:
    """(packets, bytes) that were dropped because no flow matched."""
    found = kernel.counts(table.name, UNMATCHED).values()
    return sum(packets for packets, _ in found), sum(octets for _, octets in found)


@dataclass(frozen=True, slots=True)
class Plan:
    """Transactions that lead from one state to another. Each is atomic, but what it does to sets is not atomic for every packet:

    * Intervals that a transaction adds to a set become visible a little after its new rules (the set's `commit` comes last in
      nf_tables_commit). So all that the switch leads to is there before.
    * A packet that is under way goes on with the rules of before, but finds in sets only what is there after. So what the old rules ask
      stays until no such packet is left.
    """

    additions: Sequence[Sequence[Message]]
    """What nothing leads to yet, as many transactions as the room in one makes necessary."""
    switch: Sequence[Message]
    """Changed buckets, and the rules that lead to all else."""
    deletions: Sequence[Sequence[Message]]
    """What nothing leads to any more."""


def transactions(table: Table, state: State, desired: Desired, capacity_bytes: int) -> Plan:
    """The changes, in transactions of at most `capacity_bytes`."""
    return Plan(
        list(_slices(list(_additions(table, state, desired)), capacity_bytes)),
        list(_switch(table, state, desired)),
        list(_slices(list(_deletions(table, state, desired)), capacity_bytes)),
    )


def together(plans: Iterable[Plan]) -> Plan:
    """Plans of several tables as one, which switches them at once."""
    them = list(plans)
    return Plan(
        [some for plan in them for some in plan.additions],
        [message for plan in them for message in plan.switch],
        [some for plan in them for some in plan.deletions],
    )


def _additions(table: Table, state: State, desired: Desired) -> Iterator[Message]:
    chains = desired.program.chains
    new = [name for name in chains if name not in state.chains]
    unfinished = [name for name, rules in chains.items() if state.lengths.get(name, len(rules)) != len(rules)]
    if not state.chains:
        yield table.create()
    for name in desired.base.keys() - state.chains:
        yield _base_chain(table, name)
    for name in new:
        yield table.chain(name)
    yield from _added_sets(table, state, desired)
    for name in unfinished:
        yield table.delete_rules(name)
    for name in (*new, *unfinished):
        for rule in chains[name]:
            yield table.rule(name, rule)


def _added_sets(table: Table, state: State, desired: Desired) -> Iterator[Message]:
    if UNMATCHED in desired.state().sets:
        if UNMATCHED not in state.sets:
            yield table.counting_set(UNMATCHED, FAMILY_KEY)
        if state.base is None:
            yield from table.add_elements(UNMATCHED, [element(key) for key in _FAMILY_KEYS])
    for name, content in desired.program.sets.items():
        whole = len(content.elements)
        if name not in state.sets:
            flags, size = (INTERVAL, 0) if content.intervals else (0, whole)
            yield table.set(name, content.key, flags=flags, verdicts=content.verdicts, size=size)
        if name not in state.sets or state.lengths.get(name, whole) != whole:
            yield from table.add_elements(name, content.elements)
    for name, marks in desired.counts.items():
        if name not in state.counts:
            hop = _HOP_OF.get(next(map(len, marks.values()), 0))
            yield table.counting_set(name, MARK_KEY, data=hop, size=capacity_of(name))
        yield from table.add_elements(name, _elements(marks, marks.keys() - state.counts.get(name, {}).keys()))
    for name, mark_of in desired.maps.items():
        if name not in state.maps:
            yield table.set(name, MARK_KEY, data=MARK_KEY, size=len(mark_of))
            buckets = np.flatnonzero(mark_of).astype(np.uint32)
            yield from table.add_pairs(name, buckets, mark_of[buckets])


def _switch(table: Table, state: State, desired: Desired) -> Iterator[Message]:
    for name, new in desired.maps.items():
        if name not in state.maps:
            continue
        old = state.maps[name]
        changed = np.flatnonzero(old != new).astype(np.uint32)
        yield from table.delete_keys(name, changed[old[changed] != 0])
        added = changed[new[changed] != 0]
        yield from table.add_pairs(name, added, new[added])
    for name, marks in desired.counts.items():
        known = state.counts.get(name, {})
        moved = {mark for mark, hop in marks.items() if known.get(mark, hop) != hop}
        yield from table.delete_elements(name, _elements(known, moved))
        yield from table.add_elements(name, _elements(marks, moved))
    base = desired.base
    for chain, rules in base.items():
        if state.base is None or state.base.get(chain) != rules:
            yield table.delete_rules(chain)
            for rule in rules:
                yield table.rule(chain, rule)
    # Frames that still come to an interface that is left go the way of all others.
    for chain in state.chains - base.keys():
        if chain.startswith(INGRESS):
            yield table.delete_rules(chain)


def _deletions(table: Table, state: State, desired: Desired) -> Iterator[Message]:
    after = desired.state()
    for name, marks in desired.counts.items():
        known = state.counts.get(name, {})
        yield from table.delete_elements(name, _elements(known, known.keys() - marks.keys()))
    # Without rules and sets nothing leads to a chain, so the order of the chains does not matter.
    for name in state.chains - after.chains:
        yield table.delete_rules(name)
    for name in (*(state.sets - after.sets), *(state.maps.keys() - after.maps), *(state.counts.keys() - after.counts)):
        yield table.delete_set(name)
    for name in state.chains - after.chains:
        yield table.delete_chain(name)


def _base_chain(table: Table, name: str) -> Message:
    if table.family == NETDEV:
        return table.ingress_chain(name, name.removeprefix(INGRESS))
    return table.base_chain(name, _HOOKS[name], _RAW_PRIORITY)


def _elements(counted: Counted, marks: Iterable[int]) -> list[bytes]:
    """Those of some marks."""
    found = ((mark.to_bytes(4, sys.byteorder), counted[mark]) for mark in sorted(marks))
    return [pair(key, hop) if hop else element(key) for key, hop in found]


def _slices(messages: list[Message], capacity_bytes: int) -> Iterator[list[Message]]:
    some: list[Message] = []
    used = 0
    for message in messages:
        size = len(message.body) + _MESSAGE_BYTES
        if some and used + size > capacity_bytes:
            yield some
            some, used = [], 0
        some.append(message)
        used += size
    if some:
        yield some
