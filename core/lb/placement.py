"""Where a million connections go: `core.lb.classifier.decide` over whole arrays.

The classifier is the oracle; this file gives the same answers for all connections of one kind of traffic at once. Cost: flows times
source addresses, then a few numpy operations over the connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.lb.classifier import Packet, byte_match_holds
from core.lb.forwarding import Flow, Forwarding, Pool, Target, pool_table
from core.lb.jhash import Words, address_words, jhash2_array, port_words, reciprocal_scale_array
from core.model import Address, L4Protocol

REJECTED: Final = -1
"""In `Placement.target`: rejected actively."""
DROPPED: Final = -2
"""In `Placement.target`: no flow matches."""

Indices = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FiveTuples:
    """Connections from some clients to one address and port, in columns; n of them."""

    protocol: L4Protocol
    sources: tuple[Address, ...]
    source: Indices
    """Index into `sources`, shape (n,)."""
    source_port: NDArray[np.uint16]
    """Shape (n,)."""
    destination: Address
    destination_port: int

    def __len__(self) -> int:
        return len(self.source)

    def packet(self, i: int) -> Packet:
        """The i-th connection as the classifier sees it."""
        return Packet(
            source=self.sources[self.source[i]],
            destination=self.destination,
            protocol=self.protocol,
            source_port=int(self.source_port[i]),
            destination_port=self.destination_port,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """Where each connection goes."""

    targets: tuple[Target, ...]
    """Every target that connections of this kind may reach, whether one does or not."""
    target: Indices
    """Index into `targets`, REJECTED or DROPPED; shape (n,)."""


def place(forwarding: Forwarding, tuples: FiveTuples) -> Placement:
    """The fate of every connection, as `core.lb.classifier.decide` has it."""
    return Placer(tuples).place(forwarding)


class Placer:
    """Places the same connections under one forwarding set after another. What does not depend on the targets, which are what changes
    most, is computed once: hashes, buckets, and which flow each connection matches.
    """

    def __init__(self, tuples: FiveTuples) -> None:
        self._tuples = tuples
        self._seed: int | None = None
        self._hashes: Words = np.empty(0, np.uint32)
        self._buckets: dict[int, Indices] = {}
        self._flows: tuple[Flow, ...] | None = None
        self._matches: list[tuple[Flow, NDArray[np.bool_] | None]] = []

    def place(self, forwarding: Forwarding) -> Placement:
        """The fate of every connection. O(n), of which a change of targets alone costs one look into a table of the size of M."""
        targets: list[Target] = []
        fate: Indices | None = None
        for flow, mine in self._matching(forwarding.flows):
            pool = forwarding.pool_of(flow)
            found = _table_of(pool, targets)
            if mine is None:
                fate = found[self._bucket(forwarding.seed, pool.table_size)]
                continue
            if fate is None:
                fate = np.full(len(self._tuples), DROPPED, np.int32)
            fate[mine] = found[self._bucket(forwarding.seed, pool.table_size)[mine]]
        if fate is None:
            fate = np.full(len(self._tuples), DROPPED, np.int32)
        return Placement(targets=tuple(targets), target=fate)

    def _matching(self, flows: tuple[Flow, ...]) -> list[tuple[Flow, NDArray[np.bool_] | None]]:
        """The flows that get connections, with a mask of them; None: all."""
        if self._flows == flows:
            return self._matches
        self._flows, self._matches = flows, []
        undecided = np.ones(len(self._tuples), np.bool_)
        for flow in flows:
            mine = undecided & _matches(flow, self._tuples)
            if mine.all():
                self._matches.append((flow, None))
                break
            if mine.any():
                undecided &= ~mine
                self._matches.append((flow, mine))
        return self._matches

    def _bucket(self, seed: int, table_size: int) -> Indices:
        if self._seed != seed:
            self._seed, self._hashes, self._buckets = seed, hash_tuples(self._tuples, seed), {}
        if table_size not in self._buckets:
            self._buckets[table_size] = reciprocal_scale_array(self._hashes, table_size).astype(np.int32)
        return self._buckets[table_size]


def _table_of(pool: Pool, targets: list[Target]) -> Indices:
    """For each bucket the index into `targets`, to which those of the pool are added, or REJECTED; shape (table_size,)."""
    new = pool.targets
    if not targets and len(pool.backends) == 1:
        # The numbers are those of the table: the usual case, with a thousand targets that need not be hashed.
        targets.extend(new)
        return pool_table(pool)
    number = {target: i for i, target in enumerate(targets)}
    for target in new:
        if target not in number:
            number[target] = len(targets)
            targets.append(target)
    # REJECT is -1 in the table, and the last element here.
    index_of = np.array([number[target] for target in new] + [REJECTED], np.int32)
    return index_of[pool_table(pool)]


def _matches(flow: Flow, tuples: FiveTuples) -> NDArray[np.bool_]:
    """Which connections `flow` matches; shape (n,)."""
    nothing = np.zeros(len(tuples), np.bool_)
    destination = tuples.destination
    if (
        destination.version != flow.version
        or tuples.protocol not in flow.protocols
        or not any(destination in prefix for prefix in flow.destinations)
        or not any(tuples.destination_port in ports for ports in flow.destination_ports)
    ):
        return nothing
    mine = nothing
    for ports in flow.source_ports:
        mine |= (tuples.source_port >= ports.first) & (tuples.source_port <= ports.last)
    if flow.sources:
        known = np.array([any(source in prefix for prefix in flow.sources) for source in tuples.sources], np.bool_)
        mine &= known[tuples.source]
    for match in flow.byte_matches:
        for i in np.flatnonzero(mine):
            mine[i] = byte_match_holds(match, tuples.packet(int(i)))
    return mine


def hash_tuples(tuples: FiveTuples, seed: int) -> Words:
    """The 32-bit flow hash of every connection, shape (n,)."""
    n = len(tuples)
    ports = [port_words(tuples.source_port), np.full(n, port_words(np.array([tuples.destination_port]))[0], np.uint32)]
    if tuples.protocol is L4Protocol.SCTP:
        return jhash2_array(ports, seed)
    by_source = np.array([address_words(source.packed) for source in tuples.sources], np.uint32)
    columns = [np.ascontiguousarray(by_source[tuples.source, i]) for i in range(by_source.shape[1])]
    columns += [np.full(n, word, np.uint32) for word in address_words(tuples.destination.packed)]
    return jhash2_array(columns + ports, seed)
