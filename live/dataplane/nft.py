"""The `nft` data plane: bucket -> mark -> rule -> route, for machines and users that may not load BPF.

    ingress                    what needs nothing but its target goes there at once (nft_fast); the rest, as if that were not there:
    prerouting, priority raw   iif in interfaces, daddr in VIPs: notrack, goto the classifier of the family
    classifier                 protocol, destination, ports, source, byte matches -> the flow's chain
    the flow's chain           mark = map[jhash(addresses, ports)], count by mark, accept
    routing                    rule fwmark -> table of the target -> default route by the target

A bucket that rejects is missing from the map. Such packets get a mark of their own, set out on the way of the VIPs' replies, and are
refused in the forward hook: earlier there is no route by which the kernel could answer, and as a local packet it would not, because
the VIP is no address of this host. Fragments are put together before all that (a rule with `ct` asks the kernel to).

What the kernel must have: nf_tables with hash, ct, fib, notrack, reject and counters in sets; policy routing. A user namespace will do.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Final

import numpy as np

from core.lb.forwarding import Flow, Forwarding
from core.model import ANY_PORT, Address, L4Protocol
from core.ports import FlowCounter
from live import sysctl
from live.dataplane.egress import Link, check_all, links, there_of
from live.dataplane.fence import Fence
from live.dataplane.grace import wait_for_packets_under_way
from live.dataplane.loop import Loop
from live.dataplane.nft_counts import COUNTS, count_sets, counts_of, flow_of
from live.dataplane.nft_expressions import intercepted
from live.dataplane.nft_fast import compile_fast
from live.dataplane.nft_features import Features, features
from live.dataplane.nft_maps import marks_of
from live.dataplane.nft_marks import MARK_BASE, MARK_MASK, REJECT_MARK, MarkRoutes
from live.dataplane.nft_program import Destination, compile_program, flow_key
from live.dataplane.nft_tables import Desired, State, load, together, transactions, unmatched_counts
from live.dataplane.nft_wire import INET, NETDEV, Marks, NftSocket, Table
from live.netlink import NetlinkError
from live.routes import GATEWAY_TABLE
from live.rtnetlink import RouteSocket

TABLE: Final = "tidegate"
OWN: Final = Loop("tg-own0", "tg-own1")
"""What this host itself sends to a VIP comes in at its peer (live.dataplane.fence)."""
_OWN_MTU_BYTES: Final = 1500
_LEAST_MTU_BYTES: Final = {4: 68, 6: 1280}
"""RFC 791, RFC 8200 section 5."""


class NftDataplane:
    """`core.ports.Dataplane` by nftables and policy routing, in the network namespace of the calling thread.

    What is in the kernel when it starts is adopted by the first `apply`, and stays when the process ends.
    """

    def __init__(self, *, reply_table: int = GATEWAY_TABLE, transaction_bytes: int | None = None) -> None:
        """`reply_table`: the routing table by which the gateway's own answers about VIP packets leave (resets, ICMP errors): the one
        of the VIPs' replies. `transaction_bytes`: how large a transaction may be, if not as large as the kernel allows.
        """
        self._table, self._fast = Table(TABLE), Table(TABLE, NETDEV)
        self._marks = MarkRoutes(reply_table=reply_table)
        self._transaction_bytes = transaction_bytes
        self._states: Mapping[int, State] = {}
        """Of the tables, by family."""
        self._indices: Mapping[str, int] = {}
        self._features: Features | None = None
        self._flows: dict[str, Flow] = {}
        self._fence = Fence()
        self._own: tuple[Link, Link] | None = None
        self._forwarding: Forwarding | None = None
        self._surroundings: tuple[tuple[str, ...], Sequence[int], Mapping[str, Link]] | None = None
        """Interfaces, IP versions and all links, as of the last `apply` that succeeded."""

    def apply(self, forwarding: Forwarding, *, interfaces: Sequence[str]) -> None:
        """See `core.ports.Dataplane`. Packets see the old set or the new one: it is switched in one transaction, in which only those
        buckets stand that have changed. What the new set needs is there before; what only the old one needs goes when the last packet
        of before has left. A target on no network of this namespace loses its share of the packets, and nobody else does.

        Raises DataplaneError when the kernel refuses, or, when all is done for the others, when an interface does not exist.
        """
        there = links()
        self._apply(forwarding, there_of(interfaces, there), there)
        check_all(interfaces, there)

    def _apply(self, forwarding: Forwarding, interfaces: tuple[str, ...], there: Mapping[str, Link]) -> None:
        versions = sorted({flow.version for flow in forwarding.flows})
        known = {pool.name: pool for pool in forwarding.pools}
        pools = {flow.pool: known[flow.pool] for flow in forwarding.flows}
        surroundings = interfaces, versions, there
        known_surroundings, self._surroundings = self._surroundings, None
        # The same set again is an occasion to look whether all that it rests on is still there. A new one need not wait for that.
        look = forwarding is self._forwarding or surroundings != known_surroundings
        with RouteSocket() as routes, NftSocket() as kernel:
            if look or self._own is None:
                _set_parameters(interfaces, versions)
                self._own = OWN.ensure(_OWN_MTU_BYTES, ipv6=6 in versions)
                self._fence.look_again()
            entrance, exit_ = self._own
            vips = {vip for flow in forwarding.flows for vip in flow.destinations}
            self._fence.extend(vips, interfaces, entrance.index)
            targets = {target.address for pool in pools.values() for target in pool.targets}
            marks = self._marks.acquire(routes, targets, versions, look=look)
            # With an interface goes its chain.
            indices = {name: there[name].index for name in interfaces}
            states = self._states if indices == self._indices else {}
            self._states, self._indices = {}, indices
            wanted = self._wanted(kernel, forwarding, marks_of(pools, marks), (*interfaces, exit_.name), states)
            capacity_bytes = self._transaction_bytes or kernel.transaction_bytes
            plan = together(transactions(*one, capacity_bytes) for one in wanted)
            for messages in (*plan.additions, plan.switch):
                kernel.commit(messages)
            # Otherwise what is too much stays until the next change finds it.
            if wait_for_packets_under_way():
                for messages in plan.deletions:
                    kernel.commit(messages)
                self._marks.release(routes, marks)
                self._states = {table.family: desired.state() for table, _, desired in wanted}
            self._fence.narrow(vips, interfaces)
        self._flows = {flow_key(flow): flow for flow in forwarding.flows}
        self._forwarding, self._surroundings = forwarding, surroundings

    def _wanted(
        self,
        kernel: NftSocket,
        forwarding: Forwarding,
        tables: dict[str, Marks],
        interfaces: Sequence[str],
        states: Mapping[int, State],
    ) -> list[tuple[Table, State, Desired]]:
        """What each table has and should have; the last of `interfaces` is that of what this host itself sends."""
        self._features = self._features or features(kernel)
        # What changes in both must fit into one transaction.
        room_bytes = (self._transaction_bytes or kernel.transaction_bytes) // 2
        state = states.get(INET) or load(kernel, self._table)
        desired = _desired(forwarding, tables, interfaces, state, room_bytes, self._features.defragment)
        if not self._features.forwards:
            return [(self._table, state, desired)]
        fast = states.get(NETDEV) or load(kernel, self._fast)
        desired_fast = _desired_fast(forwarding, tables, self._marks.hops(), interfaces[:-1], fast, room_bytes)
        return [(self._table, state, desired), (self._fast, fast, desired_fast)]

    def counters(self) -> Sequence[FlowCounter]:
        """See `core.ports.Dataplane`: for each flow and target of the last `apply`, since the target joined the flow."""
        flows = self._flows
        with NftSocket() as kernel:
            targets: dict[int, Address | None] = {mark: target for target, mark in self._marks.marks().items()}
            targets[REJECT_MARK] = None
            counted: Counter[tuple[str, Address | None]] = Counter()
            octets: Counter[tuple[str, Address | None]] = Counter()
            found = [
                (flows[key].name, mark, numbers)
                for table in (self._table, self._fast)
                for name in kernel.sets(table.name, table.family)
                if name.startswith(COUNTS) and (key := flow_of(name)) in flows
                for mark, numbers in _counts(kernel, table, name).items()
            ]
            for flow, mark, (packets, length_bytes) in found:
                if mark in targets:
                    counted[flow, targets[mark]] += packets
                    octets[flow, targets[mark]] += length_bytes
        return [
            FlowCounter(flow=name, target=target, packets=packets, bytes=octets[name, target])
            for (name, target), packets in counted.items()
        ]

    def unmatched(self) -> tuple[int, int]:
        """(packets, bytes) to a VIP that matched no flow and were dropped, of both families."""
        with NftSocket() as kernel:
            return unmatched_counts(kernel, self._table)

    def remove(self) -> None:
        """See `core.ports.Dataplane`. Kernel parameters stay as they are."""
        with RouteSocket() as routes, NftSocket() as kernel:
            # Adding it first makes deleting it succeed in any case.
            kernel.commit(
                [message for table in (self._table, self._fast) for message in (table.create(), table.delete())]
            )
            self._marks.remove(routes)
        self._fence.remove()
        OWN.remove()
        self._states, self._own, self._surroundings = {}, None, None
        self._flows = {}


def at_work() -> bool:
    """Whether this data plane forwards in this network namespace, whoever gave it what."""
    try:
        with NftSocket() as kernel:
            return bool(kernel.chains(TABLE))
    except NetlinkError:  # a kernel without nf_tables
        return False


def probe() -> str | None:
    """Why the nft data plane cannot be used in this network namespace, in the kernel's words; None: it can be. Changes nothing."""
    flow = Flow(
        name="probe",
        version=4,
        pool="probe",
        priority=0,
        protocols=tuple(L4Protocol),
        destinations=(ip_network("192.0.2.0/30"),),
        sources=(),
        destination_ports=(ANY_PORT,),
        source_ports=(ANY_PORT,),
    )
    table = Table(f"{TABLE}-probe")
    try:
        with NftSocket() as kernel:
            tables = {"probe": np.arange(11, dtype=np.uint32)}  # with a bucket that rejects
            defragment, room_bytes = features(kernel).defragment, kernel.transaction_bytes
            desired = _desired(Forwarding(flows=(flow,)), tables, ("lo",), State(), room_bytes, defragment)
            plan = transactions(table, State(), desired, room_bytes)
            kernel.commit([*itertools.chain(*plan.additions), *plan.switch], only_check=True)
    except NetlinkError as error:
        return str(error)
    return None


def _desired(
    forwarding: Forwarding,
    tables: dict[str, Marks],
    interfaces: Sequence[str],
    state: State,
    capacity_bytes: int,
    defragment: bytes = intercepted(),
) -> Desired:
    """`tables`: the mark of each bucket of each pool."""
    maps, map_of = state.place(tables, capacity_bytes)
    distinct = {id(table): table for table in tables.values()}
    marks_in = {number: dict.fromkeys(_marks_in(table), b"") for number, table in distinct.items()}
    counted = {flow_key(flow): marks_in[id(tables[flow.pool])] for flow in forwarding.flows}
    sets = count_sets(state.counts, counted)
    destinations = _destinations(forwarding, tables, map_of, sets)
    program = compile_program(
        forwarding.flows,
        destinations,
        interfaces=interfaces,
        seed=forwarding.seed,
        reject_mark=REJECT_MARK,
        defragment=defragment,
    )
    return Desired(program, maps, counts_of(state.counts, counted, sets))


def _desired_fast(
    forwarding: Forwarding,
    tables: dict[str, Marks],
    hops: Mapping[int, tuple[Address, int]],
    interfaces: Sequence[str],
    state: State,
    capacity_bytes: int,
) -> Desired:
    """What the table of frames should have; `hops`: where packets with a mark go.

    Replies come in where targets are, and have no use for it: frames from there are looked at only if targets are everywhere.
    """
    maps, map_of = state.place(tables, capacity_bytes)
    distinct = {id(table): table for table in tables.values()}
    packed = {mark: address.packed + index.to_bytes(4, sys.byteorder) for mark, (address, index) in hops.items()}
    hops_in = {
        number: {mark: packed[mark] for mark in _marks_in(table) if mark in packed}
        for number, table in distinct.items()
    }
    counted = {flow_key(flow): hops_in[id(tables[flow.pool])] for flow in forwarding.flows}
    sets = count_sets(state.counts, counted)
    reached = {pool: name for pool, name in map_of.items() if hops_in[id(tables[pool])]}
    destinations = _destinations(forwarding, tables, reached, sets)
    there = links()
    used = {hops[mark] for known in counted.values() for mark in known}
    mtu_bytes = _narrowest(used, there)
    program = compile_fast(forwarding.flows, destinations, seed=forwarding.seed, mtu_bytes=mtu_bytes)
    with_targets = {index for _, index in used}
    outer = [name for name in interfaces if name in there and there[name].index not in with_targets]
    return Desired(program, maps, counts_of(state.counts, counted, sets), tuple(outer or interfaces))


def _destinations(
    forwarding: Forwarding, tables: Mapping[str, Marks], map_of: Mapping[str, str], sets: Mapping[str, str]
) -> dict[str, Destination]:
    """By the key of each flow; `map_of`: bucket maps by pool, `sets`: counting sets by flow."""
    return {
        flow_key(flow): Destination(
            bucket_map=map_of.get(flow.pool), table_size=len(tables[flow.pool]), counts=sets[flow_key(flow)]
        )
        for flow in forwarding.flows
    }


def _narrowest(hops: set[tuple[Address, int]], there: Mapping[str, Link]) -> dict[int, int]:
    """The least MTU on the way to any of them, by IP version; without those of which no network may have so small a one."""
    mtu_of = {link.index: link.mtu_bytes for link in there.values()}
    versions = sorted({address.version for address, _ in hops})
    narrowest = {v: min(mtu_of.get(index, 0) for address, index in hops if address.version == v) for v in versions}
    return {version: mtu_bytes for version, mtu_bytes in narrowest.items() if mtu_bytes >= _LEAST_MTU_BYTES[version]}


def _counts(kernel: NftSocket, table: Table, name: str) -> dict[int, tuple[int, int]]:
    """(packets, bytes) by mark that a set has counted."""
    found = kernel.counts(table.name, name, table.family)
    return {int.from_bytes(key, sys.byteorder): numbers for key, numbers in found.items()}


def _marks_in(table: Marks) -> frozenset[int]:
    """The marks in a table; of a bucket that has none, REJECT_MARK."""
    found = np.zeros((REJECT_MARK & ~MARK_MASK) + 1, np.bool_)
    found[np.where(table, table, REJECT_MARK) & ~np.uint32(MARK_MASK)] = True
    return frozenset((np.flatnonzero(found) | MARK_BASE).tolist())


def _set_parameters(interfaces: Sequence[str], versions: Sequence[int]) -> None:
    """The kernel forwards, does not ask where packets come from, and gives its answers the mark of what they answer.

    Source: Documentation/networking/ip-sysctl.rst (of send_redirects the "all" value and the interface's both count).
    """
    if 4 in versions:
        sysctl.ensure("net/ipv4/ip_forward", "1")
        sysctl.ensure("net/ipv4/fwmark_reflect", "1")
        sysctl.accept_any_source(interfaces)
        sysctl.accept_mixed_fragments()
        for name in ("all", *interfaces):
            sysctl.ensure(f"net/ipv4/conf/{name}/send_redirects", "0")
        for name in interfaces:
            # Otherwise, because there are policy rules, the kernel walks through all of them a second time for each packet, just to see
            # whether its source is one of our addresses. nft_program drops such packets. Source: fib_validate_source.
            sysctl.ensure(f"net/ipv4/conf/{name}/accept_local", "1")
    if 6 in versions:
        sysctl.ensure("net/ipv6/conf/all/forwarding", "1")
        sysctl.ensure("net/ipv6/fwmark_reflect", "1")
