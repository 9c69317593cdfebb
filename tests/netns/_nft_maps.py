"""What the nft data plane has in the kernel of the calling thread's namespace, against what it should have."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from core.lb.forwarding import REJECT, Forwarding, Pool, pool_table
from core.model import Address
from live.dataplane import nft
from live.dataplane.nft_expressions import Meta, Verdict, contained, decide, meta
from live.dataplane.nft_features import features
from live.dataplane.nft_listing import listing
from live.dataplane.nft_maps import PREFIX
from live.dataplane.nft_marks import _PRIORITIES, GROUPS, MARK_BASE, MARK_MASK, TARGETS, MarkRoutes, _route, _to_group
from live.dataplane.nft_program import UNMATCHED
from live.dataplane.nft_tables import Desired, State, load, transactions
from live.dataplane.nft_wire import GETRULE, GETSET, NETDEV, Marks, NftSocket, Table, element
from live.netlink import Message, attributes, each_attribute, string
from live.routes import GATEWAY_TABLE
from live.rtnetlink import Change, RouteSocket
from sim.net.namespaces import ip_batch, within
from tests.netns._ways import ways_out

TABLES: Final = (Table(nft.TABLE), Table(nft.TABLE, NETDEV))
"""That of the IP packets, and that of the frames."""
_HOST: Final = Path("/proc/self/ns/net")
_EMPTY: Final = "nft-wanted"
"""A namespace in which the wanted rules stand alone, so that the kernel says how it lists them."""

_RULE_CHAIN, _RULE_EXPRESSIONS, _SET_NAME = 2, 4, 2
_OF_ONE_SET: Final = (10, 16, 20)
"""NFTA_SET_ID, NFTA_SET_HANDLE, NFTA_SET_COUNT: no two sets have the same. Source: linux/netfilter/nf_tables.h."""

Element = tuple[bytes, bytes, bytes]
"""Key, flags, data."""


class Content(NamedTuple):
    """A table as the kernel lists it, without handles and counters."""

    chains: dict[str, list[bytes]]
    """The expressions of rules, in their order, by chain."""
    sets: dict[str, dict[int, bytes]]
    """What a set is, by name."""
    elements: dict[str, list[Element]]
    """Of all sets but the bucket maps, sorted."""


def _marks_of(pool: Pool, marks: Mapping[Address, int]) -> Marks:
    """The mark of each bucket, as the core's table has it: what the plane thinks that pools have in common does not count here."""
    return np.array([0, *(marks[target.address] for target in pool.targets)], np.uint32)[pool_table(pool) - REJECT]


def differences(forwarding: Forwarding, interfaces: Sequence[str]) -> Iterator[str]:
    """Every rule, every element of every set and map, and the route behind each mark are those of `forwarding`; no other is there."""
    pools = {flow.pool: forwarding.pool_of(flow) for flow in forwarding.flows}
    targets = {target.address for pool in pools.values() for target in pool.targets}
    routes = MarkRoutes(reply_table=GATEWAY_TABLE)
    marks = routes.marks()
    if marks.keys() != targets:
        yield f"marks lead to {sorted(map(str, marks))}; targets are {sorted(map(str, targets))}"
        return
    yield from _unlike_routes(marks, routes)
    buckets = {name: _marks_of(pool, marks) for name, pool in pools.items()}
    with NftSocket() as kernel:
        features_, capacity_bytes = features(kernel), kernel.transaction_bytes
        packets, frames = (load(kernel, table) for table in TABLES)
        desired = [
            nft._desired(
                forwarding, buckets, (*interfaces, nft.OWN.peer), packets, capacity_bytes, features_.defragment
            ),
            nft._desired_fast(forwarding, buckets, routes.hops(), interfaces, frames, capacity_bytes)
            if features_.forwards
            else None,
        ]
        for table, state, should in zip(TABLES, (packets, frames), desired, strict=True):
            found = _content(kernel, table)
            wanted = _wanted(table, should, capacity_bytes) if should else Content({}, {}, {})
            for text in _unlike_table(state, should, found, wanted):
                yield f"{'frames' if table.family == NETDEV else 'packets'}: {text}"


def _unlike_table(state: State, should: Desired | None, found: Content, wanted: Content) -> Iterator[str]:
    yield from _unlike_maps(state, should.maps if should else {})
    for kind in Content._fields:
        yield from _unlike(kind, getattr(found, kind), getattr(wanted, kind))


@contextmanager
def spoiled(what: str) -> Iterator[None]:
    """Meanwhile a "bucket" of a map leads elsewhere, or a set has one "element" too much, or a chain one "rule", or one of the maps or
    chains of frames does ("bucket of frames", "rule of frames"), or the route of a mark leaves by another interface ("mark route").
    """
    if what == "mark route":
        with _wrong_mark_route():
            yield
        return
    packets, frames = TABLES
    with NftSocket() as kernel:
        extra = [element(b"\x07")]
        chain = next(name for name in kernel.chains(packets.name) if name.startswith("unmatched"))
        rule = decide(Verdict.DROP)
        matched = packets.rule(chain, meta(Meta.FAMILY) + contained(UNMATCHED) + rule)
        change, mend = {
            "bucket": lambda: _wrong_bucket(kernel, packets),
            "bucket of frames": lambda: _wrong_bucket(kernel, frames),
            "element": lambda: (
                [*packets.add_elements(UNMATCHED, extra)],
                [*packets.delete_elements(UNMATCHED, extra)],
            ),
            "rule": lambda: (
                [packets.rule(chain, rule)],
                [packets.delete_rules(chain), matched, packets.rule(chain, rule)],
            ),
            "rule of frames": lambda: (
                [frames.chain("wrong"), frames.rule("wrong", rule)],
                [frames.delete_rules("wrong"), frames.delete_chain("wrong")],
            ),
        }[what]()
        kernel.commit(change)
        try:
            yield
        finally:
            kernel.commit(mend)


@contextmanager
def _wrong_mark_route() -> Iterator[None]:
    """The route of one mark leaves by another interface meanwhile."""
    mark, (target, interface) = next(iter(MarkRoutes(reply_table=GATEWAY_TABLE).hops().items()))
    other = next(index for index, name in socket.if_nameindex() if index != interface and name != "lo")
    with RouteSocket() as kernel:
        kernel.apply(Change(routes=[_route(target, mark, other)]))
        try:
            yield
        finally:
            kernel.apply(Change(routes=[_route(target, mark, interface)]))


def _wrong_bucket(kernel: NftSocket, table: Table) -> tuple[list[Message], list[Message]]:
    """What leads one bucket elsewhere, and what leads it back."""
    where = table.name, next(name for name in kernel.sets(table.name, table.family) if name.startswith(PREFIX))
    keys, marks = kernel.pairs(*where, table.family)
    key, good = keys[:1], marks[:1]
    other = marks[marks != good][:1]
    away = table.delete_keys(where[1], key)
    return (
        [*away, *table.add_pairs(where[1], key, other)],
        [*table.delete_keys(where[1], key), *table.add_pairs(where[1], key, good)],
    )


def _unlike_maps(state: State, maps: Mapping[str, Marks]) -> Iterator[str]:
    """The buckets of every map, one by one."""
    yield from _unlike("maps", dict.fromkeys(state.maps), dict.fromkeys(maps))
    for name in state.maps.keys() & maps.keys():
        found, wanted = state.maps[name], maps[name]
        if len(found) != len(wanted):
            yield f"map {name} has {len(found)} buckets, expected {len(wanted)}"
        elif (found != wanted).any():
            wrong = np.flatnonzero(found != wanted)
            yield f"{len(wrong)} buckets of map {name} lead elsewhere, the first is {wrong[0]}"


def _unlike_routes(marks: Mapping[Address, int], routes: MarkRoutes) -> Iterator[str]:
    """Each mark has one rule to its table, whose route leaves by the interface that the kernel itself would take."""
    there = listing(MARK_BASE, MARK_MASK, TARGETS)
    leaves = {(address.version, mark) for address, mark in marks.items()}
    if there.leaves != leaves:
        yield f"rules lead to the marks {sorted(there.leaves)}, expected {sorted(leaves)}"
    groups, wanted = {rule for rule in there.rules if rule.priority == GROUPS}, {_to_group(*leaf) for leaf in leaves}
    if groups != wanted:
        yield f"rules of groups are {sorted(map(str, groups))}, expected {sorted(map(str, wanted))}"
    fixed = {rule for rule in there.rules if rule.priority in _PRIORITIES - {GROUPS}}
    wanted = {rule for version in {rule.version for rule in fixed} for rule in routes._fixed_rules(version)}
    if fixed != wanted:
        yield f"rules of all marks are {sorted(map(str, fixed))}, expected {sorted(map(str, wanted))}"
    ways = ways_out(marks)
    for address, mark in marks.items():
        if there.hops[mark][1] != ways[address][0]:
            yield f"packets to {address} leave by interface {there.hops[mark][1]}, expected {ways[address][0]}"


def _wanted(table: Table, desired: Desired, capacity_bytes: int) -> Content:
    """What a kernel lists that has been given `desired` and nothing else, ever; without buckets."""

    def fill() -> Content:
        empty = {name: np.zeros_like(marks) for name, marks in desired.maps.items()}
        plan = transactions(table, State(), replace(desired, maps=empty), capacity_bytes)
        with NftSocket() as kernel:
            for messages in (*plan.additions, plan.switch):
                kernel.commit(messages)
            return _content(kernel, table)

    ip_batch(_HOST, [f"netns add {_EMPTY}"])
    try:
        namespace = Path("/run/netns", _EMPTY)
        ip_batch(namespace, [f"link add name {name} type bridge" for name in desired.interfaces or ()])
        return within(namespace, fill)
    finally:
        ip_batch(_HOST, [f"netns delete {_EMPTY}"])


def _content(kernel: NftSocket, table: Table) -> Content:
    where = table.name, table.family
    chains: dict[str, list[bytes]] = {name: [] for name in kernel.chains(*where)}
    for rule in kernel._list(GETRULE, table.name, "listing rules", table.family):
        chains[string(rule[_RULE_CHAIN])].append(rule[_RULE_EXPRESSIONS])
    sets = {
        string(values[_SET_NAME]): values for values in kernel._list(GETSET, table.name, "listing sets", table.family)
    }
    shapes = {
        name: {kind: value for kind, value in values.items() if kind not in _OF_ONE_SET}
        for name, values in sets.items()
    }
    elements = {name: sorted(_elements(kernel, table, name)) for name in sets if not name.startswith(PREFIX)}
    return Content(chains, shapes, elements)


def _elements(kernel: NftSocket, table: Table, name: str) -> Iterator[Element]:
    for chunk in kernel._element_lists(table.name, name, table.family):
        for _, body in each_attribute(chunk):
            values = attributes(body)
            yield values.get(1, b""), values.get(3, b""), values.get(2, b"")


def _unlike(what: str, found: Mapping[str, object], wanted: Mapping[str, object]) -> Iterator[str]:
    for name in sorted(found.keys() | wanted.keys()):
        if name not in wanted:
            yield f"{what}: {name} is too much"
        elif found.get(name, "missing") != wanted[name]:
            yield f"{what}: {name} is {found.get(name, 'missing')}, expected {wanted[name]}"


def leftovers(forwarding: Forwarding, interfaces: Sequence[str]) -> Iterator[str]:
    """What a fresh agent, which adopts what it finds, takes away or adds: nothing, when there is just what should be."""
    before = _names()
    nft.NftDataplane().apply(forwarding, interfaces=interfaces)
    after = _names()
    yield from (f"{name} was left over" for name in before - after)
    yield from (f"{name} was missing" for name in after - before)


def _names() -> set[str]:
    """Everything of ours, by what it is called."""
    with RouteSocket() as routes, NftSocket() as kernel:
        return {
            *(
                f"chain {name} of {table.family}"
                for table in TABLES
                for name in kernel.chains(table.name, table.family)
            ),
            *(f"set {name} of {table.family}" for table in TABLES for name in kernel.sets(table.name, table.family)),
            *map(str, routes.rules()),
            *(f"{route} via {route.next_hops}" for route in routes.routes()),
        }
