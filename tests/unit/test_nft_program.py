"""The parts of the nft plane that need no kernel: ranges, the decision tree, the choice of maps, the size of transactions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DataplaneError
from core.lb.forwarding import Backend, Flow, Pool, Target, pool_table
from core.model import ANY_PORT, L4Protocol, PortRange
from live.dataplane.nft_counts import count_sets
from live.dataplane.nft_maps import assign, marks_of
from live.dataplane.nft_program import Destination, Program, compile_program, flow_key
from live.dataplane.nft_ranges import cut, merged
from live.dataplane.nft_tables import Desired, Plan, State, transactions
from live.dataplane.nft_wire import DELSETELEM, NEWSETELEM, Marks, Table

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


@given(ranges)
def test_merged_ranges_hold_the_same_values_and_do_not_touch(given_ranges: list[tuple[int, int]]) -> None:
    result = merged(given_ranges)
    values = {v for first, last in given_ranges for v in range(first, last + 1)}
    assert {v for first, last in result for v in range(first, last + 1)} == values
    assert all(later > last + 1 for (_, last), (later, _) in pairwise(result))


@given(st.lists(st.one_of(st.none(), ranges), max_size=6))
def test_each_value_of_a_piece_has_the_flows_that_contain_it(asked: list[list[tuple[int, int]] | None]) -> None:
    flows = [flow(str(n)) for n in range(len(asked))]
    allowed = [None if each is None else merged(each) for each in asked]
    pieces = cut(flows, allowed, limit=10_000)
    assert pieces is not None
    found = {v: [int(f.name) for f in inside] for first, last, inside in pieces for v in range(first, last + 1)}
    for v in range(80):
        asking = [n for n, each in enumerate(asked) if each and any(first <= v <= last for first, last in each)]
        anyone = [n for n, each in enumerate(asked) if each is None]
        assert found.get(v, []) == (sorted(asking + anyone) if asking else [])


def test_a_cut_that_would_multiply_the_flows_is_refused() -> None:
    nested = [((n, 1000 - n),) for n in range(100)]
    flows = [flow(str(n)) for n in range(100)]
    assert cut(flows, nested, limit=800) is None
    assert cut(flows, nested, limit=100_000) is not None


def flow(name: str, **more: Any) -> Flow:
    usual: dict[str, Any] = {
        "version": 4,
        "pool": "pool",
        "priority": 0,
        "protocols": (L4Protocol.TCP,),
        "destinations": (ip_network("20.0.0.1"),),
        "sources": (),
        "destination_ports": (ANY_PORT,),
        "source_ports": (ANY_PORT,),
    }
    return Flow(name=name, **(usual | more))


def counts_of(flow: Flow) -> str:
    """Its only counting set."""
    key = flow_key(flow)
    return count_sets({}, {key: ()})[key]


def compiled(*flows: Flow, bucket_map: str = "pool-0") -> Program:
    destinations = {flow_key(f): Destination(bucket_map=bucket_map, table_size=11, counts=counts_of(f)) for f in flows}
    return compile_program(flows, destinations, interfaces=("net1",), seed=1, reject_mark=9)


def test_equal_flows_compile_to_equal_names_and_a_change_touches_few() -> None:
    web = [flow(f"f{n}", destinations=(ip_network(f"20.0.{n}.1"),)) for n in range(50)]
    before, again = compiled(*web), compiled(*web)
    assert before == again
    web[7] = flow("f7", destinations=web[7].destinations, destination_ports=(PortRange(first=80, last=80),))
    after = compiled(*web)
    new = after.chains.keys() - before.chains.keys()
    # for packets and for ICMP errors: the list of the flow, the cut by destination, the protocols above
    assert 0 < len(new) < 10
    assert all(after.chains[name] == before.chains[name] for name in after.chains.keys() & before.chains.keys())


def test_flows_that_none_can_reach_are_left_out() -> None:
    shadowed = compiled(*(flow(f"f{n}") for n in range(6)))
    terminals = {name.split("-v4-")[-2].split("-")[-1] for name in shadowed.chains if name.startswith("to-")}
    assert terminals == {"f0"}


def test_flow_keys_are_readable_unique_and_stable() -> None:
    keys = {flow_key(flow(name, version=version)) for name in ("a/b", "a:b", "a b", "ä" * 90, "") for version in (4, 6)}
    assert len(keys) == 10
    assert flow_key(flow("default/route")).startswith("default/route-v4-")
    assert all(len(key) < 100 and key.isascii() for key in keys)


def pool(slots: tuple[int, ...], version: int = 4, *, nothing: int = 0) -> Pool:
    members = tuple(Target(service="a/b", slot=s, address=ip_address(f"10.0.0.{s}"), pod="") for s in slots)
    backends = (Backend(service="a/b", weight=1, targets=members), Backend(service="a/c", weight=nothing, targets=()))
    return Pool(name="pool", version=version, backends=backends, table_size=101)


def test_marks_follow_the_table_of_the_core() -> None:
    marks = {ip_address(f"10.0.0.{s}"): 1000 + s for s in range(4)}
    pools = {"one": pool((0, 2), nothing=1), "two": pool((0, 2), nothing=1), "none": pool(())}
    tables = marks_of(pools, marks)
    expected = [0 if index < 0 else (1000, 1002)[index] for index in pool_table(pools["one"]).tolist()]
    assert tables["one"].tolist() == expected
    assert tables["one"] is tables["two"]
    assert not tables["none"].any()
    with pytest.raises(DataplaneError, match=r"pool wrong is for IPv6 but has the target 10\.0\.0\.0"):
        marks_of({"wrong": pool((0,), version=6)}, marks)


def table_of(values: list[int]) -> Marks:
    return np.array(values, np.uint32)


def assigned(present: Mapping[str, list[int]], *wanted: list[int]) -> list[str]:
    tables = {table_of(each).tobytes(): table_of(each) for each in wanted}
    names = assign({name: table_of(values) for name, values in present.items()}, tables)
    return [names[table_of(each).tobytes()] for each in wanted]


def test_a_table_gets_the_map_that_is_most_like_it() -> None:
    present = {"pool-0": [1, 1, 1, 1], "pool-1": [2, 2, 2, 2]}
    assert assigned(present, [2, 2, 2, 2], [1, 1, 1, 1]) == ["pool-1", "pool-0"]
    assert assigned(present, [2, 2, 3, 2]) == ["pool-1"]
    assert assigned(present, [1, 1, 1, 3], [1, 1, 1, 1]) == ["pool-2", "pool-0"], "an equal one comes first"
    assert assigned(present, [1, 1, 1]) == ["pool-2"], "another size is another map"
    assert assigned({}, [1], [2]) == ["pool-0", "pool-1"]


def desired(marks: Marks, state: State, capacity_bytes: int = 1 << 30) -> Desired:
    maps, _ = state.place({"pool": marks}, capacity_bytes)
    return Desired(compiled(flow("f"), bucket_map=next(iter(maps))), maps, {counts_of(flow("f")): {1: b""}})


def test_a_change_sends_only_the_buckets_that_changed() -> None:
    rng = random.Random(7)
    marks = np.array([rng.choice((1, 2, 3)) for _ in range(1009)], np.uint32)
    first = desired(marks, State())
    changed = marks.copy()
    changed[[5, 500]] = 9, 0
    second = desired(changed, first.state())
    plan = transactions(Table("t"), first.state(), second, 1 << 30)
    assert plan.additions == plan.deletions == []
    assert [message.kind & 0xFF for message in plan.switch] == [DELSETELEM, NEWSETELEM]
    assert [len(message.body) for message in plan.switch] == [28 + 2 * 16, 28 + 28], "header, elements"
    assert transactions(Table("t"), second.state(), second, 1 << 30) == Plan([], [], [])


def test_small_transactions_add_first_switch_at_once_and_delete_last() -> None:
    """A map that changes in too many places becomes a new one, so that the switch stays small."""
    capacity_bytes = 4096
    first = desired(table_of([1] * 1009), State(), capacity_bytes)
    second = desired(table_of([2] * 1008 + [1]), first.state(), capacity_bytes)
    assert first.maps.keys() == {"pool-0"}
    assert second.maps.keys() == {"pool-1"}
    plan = transactions(Table("t"), first.state(), second, capacity_bytes)
    assert len(plan.additions) > 3
    assert {message.what.split()[1] for part in plan.additions for message in part} == {"adding"}
    assert {message.what.split()[1] for part in plan.deletions for message in part} == {"deleting"}
    assert any("rules of chain prerouting" in message.what for message in plan.switch)
    assert sum(len(message.body) + 16 for message in plan.switch) < capacity_bytes


def test_single_values_are_found_by_their_hash_and_ranges_as_intervals() -> None:
    hosts = [flow(f"f{n}", destinations=(ip_network(f"20.0.{n}.1"),)) for n in range(9)]
    wide = [*hosts, flow("wide", destinations=(ip_network("20.1.0.0/30"),))]
    for flows, intervals in ((hosts, False), (wide, True)):
        sets = compiled(*flows).sets
        assert {content.intervals for name, content in sets.items() if name.startswith(("vips", "by-dest"))} == {
            intervals
        }
    dispatch = next(content for name, content in compiled(*hosts).sets.items() if name.startswith("by-dest"))
    assert dispatch.verdicts
    assert len(dispatch.elements) == 9
