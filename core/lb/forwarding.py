"""What a load balancer must do with packets: the full desired set that a data plane makes true, and the prediction of what it does.

A packet is classified (`core.lb.classifier`) to a Flow, the best one that matches. The Flow names a Pool. The Pool's table gives, for
the packet's bucket, one Target, or REJECT (TCP RST, ICMP unreachable). A packet that matches no Flow is dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from core.lb.maglev import DEFAULT_TABLE_SIZE, Table, populate
from core.model import Address, ByteMatch, L4Protocol, PortRange, Prefix

REJECT: Final = -1
"""The table entry of a bucket whose packets are rejected actively."""

DEFAULT_SEED: Final = 0x7469_6465
"""The seed of the flow hash; every load balancer of a gateway uses the same one, so that any of them may get a packet."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Target:
    """One endpoint of a Service: its address on the network behind the gateway, in one family."""

    service: str
    """``namespace/name``."""
    slot: int
    address: Address
    pod: str
    """Name of the Pod, for people; ``""`` when the endpoint is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A weighted share of a pool. Without targets the share is rejected."""

    service: str
    weight: int
    targets: tuple[Target, ...]
    """Sorted by slot, one family, no slot twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Where the packets of a flow may go, in one address family."""

    name: str
    """Unique in a Forwarding, and stable while the route behind it lives."""
    version: int
    """4 or 6."""
    backends: tuple[Backend, ...]
    table_size: int = DEFAULT_TABLE_SIZE

    @property
    def targets(self) -> tuple[Target, ...]:
        """All targets, in the order of the numbers that stand in `table`."""
        if len(self.backends) == 1:
            return self.backends[0].targets
        return tuple(target for backend in self.backends for target in backend.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A classifier rule, in one address family. A packet matches when every dimension contains it.

    Empty `sources` match every address of the family. Port ranges hold for TCP, UDP and SCTP. All `byte_matches` must hold.
    """

    name: str
    version: int
    pool: str
    priority: int
    protocols: tuple[L4Protocol, ...]
    destinations: tuple[Prefix, ...]
    sources: tuple[Prefix, ...]
    destination_ports: tuple[PortRange, ...]
    source_ports: tuple[PortRange, ...]
    byte_matches: tuple[ByteMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """The full desired set of one gateway. `flows` stand in matching order: the first that matches wins."""

    flows: tuple[Flow, ...] = ()
    pools: tuple[Pool, ...] = ()
    seed: int = DEFAULT_SEED

    def pool_of(self, flow: Flow) -> Pool:
        """The pool that `flow` names."""
        return next(pool for pool in self.pools if pool.name == flow.pool)

    def usable_destinations(self) -> Iterator[Prefix]:
        """The destinations behind which at least one target stands: what may be announced."""
        usable = {pool.name for pool in self.pools if any(backend.targets for backend in pool.backends)}
        for flow in self.flows:
            if flow.pool in usable:
                yield from flow.destinations


def pool_table(pool: Pool) -> Table:
    """For each bucket, the index into `pool.targets`, or REJECT; shape (table_size,), int32, read-only.

    Two Maglev tables composed: one divides the buckets among the backends by weight, then each backend's own table says which of
    its targets has the bucket. So a change in one backend never moves a flow of another, and shares stay exact in weights whatever
    the number of targets. A pool without backends of positive weight rejects everything.
    """
    return _pool_table(
        tuple((b.service, b.weight, tuple(target.slot for target in b.targets)) for b in pool.backends),
        pool.table_size,
    )


@lru_cache(maxsize=256)
def _pool_table(backends: tuple[tuple[str, int, tuple[int, ...]], ...], M: int) -> Table:
    weights = {i: weight for i, (_, weight, _) in enumerate(backends)}
    # Names of Services, so that these permutations are none of a slot: a backend must not get the very buckets of one slot.
    share = populate(weights, M, name=lambda i: backends[i][0])
    table = np.full(M, REJECT, np.int32)
    first = 0
    for i, (_, _, slots) in enumerate(backends):
        if slots and share.size:
            slot_of = _slots_table(slots, M)
            mine = share == i
            number = np.zeros(max(slots) + 1, np.int32)
            number[list(slots)] = np.arange(first, first + len(slots))
            table[mine] = number[slot_of[mine]]
        first += len(slots)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=256)
def _slots_table(slots: tuple[int, ...], M: int) -> Table:
    return populate(dict.fromkeys(slots, 1), M)
