"""A change that does not fit the maps of the tc data plane, or that the kernel breaks off: packets, counters, and what is left."""

from __future__ import annotations

import errno
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from core.errors import DataplaneError
from core.lb.classifier import Packet
from core.lb.forwarding import Backend, Forwarding, Target
from core.model import L4Protocol, Prefix
from live.dataplane import bpf, tc, tc_program
from live.dataplane.tc_program import TARGET
from tests.conftest import require
from tests.contract.dataplane.conftest import bpf_file_system
from tests.contract.dataplane.packets import Sent, expected, fates, sent
from tests.contract.dataplane.sets import VIP, flow, pool
from tests.contract.dataplane.world import World, world

OTHER = ip_network("20.0.0.2/32")


@pytest.fixture(scope="module")
def lab() -> Iterator[World]:
    require("netns", os.geteuid() == 0, "only root makes network namespaces and loads BPF")
    reason = tc.why_not_bpf()
    require("bpf", reason is None, str(reason))
    with world(target_count=2) as made:
        yield made


@pytest.fixture
def plane(lab: World) -> Iterator[tc.TcDataplane]:
    pins = bpf_file_system() / "gateway"
    made = lab.gateway.run(lambda: tc.TcDataplane(pins=pins))
    yield made
    lab.gateway.run(made.remove)


def apply(lab: World, plane: tc.TcDataplane, forwarding: Forwarding) -> None:
    lab.gateway.run(lambda: plane.apply(forwarding, interfaces=lab.interfaces))


def some_packets(count: int, vip: Prefix = VIP[4]) -> list[Sent]:
    """UDP packets to the VIP, from a port each."""
    return [
        sent(
            Packet(
                source=ip_address("200.1.0.9"),
                destination=vip.network_address,
                protocol=L4Protocol.UDP,
                source_port=3000 + n,
                destination_port=4000,
            ),
            n + int(vip.network_address) % 256 * 1000,
        )
        for n in range(count)
    ]


def counts(plane: tc.TcDataplane) -> dict[tuple[str, str], int]:
    return {(c.flow, str(c.target)): c.packets for c in plane.counters() if c.packets}


def beside(count: int) -> Backend:
    """Targets of a pool that no packet goes to: they take their places and their counters."""
    far = (
        Target(service="default/far", slot=i, address=ip_address("172.16.0.10") + i, pod=f"far-{i}")
        for i in range(count)
    )
    return Backend(service="default/far", weight=0, targets=tuple(far))


def test_counters_go_on_when_there_is_no_room_for_old_and_new_ones_together(
    lab: World, plane: tc.TcDataplane, caplog: pytest.LogCaptureFixture
) -> None:
    """Each set fits by itself, so that the program is kept; but a pool that outgrows its place takes other counters beside its own."""
    caplog.set_level("INFO", tc.__name__)
    flows = (
        flow("flow", [VIP[4]]),
        *(flow(f"flow{i}", [ip_network(f"20.3.0.{i}")]) for i in range(14)),
    )
    near = pool(lab, "pool", 4, (1, [0, 1]))
    sets = {
        count: Forwarding(flows=flows, pools=(replace(near, backends=(*near.backends, beside(count - 2))),))
        for count in (2, 20, 50, 100)
    }
    packets = some_packets(100)
    apply(lab, plane, sets[2])
    assert fates(lab, packets) == [expected(lab, sets[2], p.packet) for p in packets]
    once = counts(plane)
    assert sum(once.values()) == len(packets)
    for count, forwarding in (*sets.items(), (2, sets[2])):
        apply(lab, plane, forwarding)
        assert counts(plane) == once, f"{count} targets"
    assert "the maps are full, loading a bigger program" in caplog.messages
    assert fates(lab, packets) == [expected(lab, sets[2], p.packet) for p in packets]
    assert counts(plane) == {key: 2 * number for key, number in once.items()}


@contextmanager
def refused(number: int) -> Iterator[list[str]]:
    """The kernel has no memory for the bpf(2) call of that number, from 1; what this call was for, if there were so many."""
    real, calls, what_failed = bpf._bpf, 0, list[str]()

    def scarce(command: int, attributes: bytes, what: str) -> tuple[int, bytes]:
        nonlocal calls
        calls += 1
        if calls == number:
            what_failed.append(what)
            raise bpf.BpfError(what, errno.ENOMEM)
        return real(command, attributes, what)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bpf, "_bpf", scarce)
        yield what_failed


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def addresses_written(plane: tc.TcDataplane) -> list[str]:
    """The targets that stand in the maps of the program at work."""
    assert plane._tables is not None
    program = plane._tables.program
    entries = program.sizes.targets
    raw = bpf.lookup_all(program._maps["targets"], entries=entries, value_bytes=TARGET.size, what="reading targets")
    found = (TARGET.unpack_from(raw, n * TARGET.size) for n in range(entries))
    return [str(ip_address(packed[:4])) for _, _, packed, family in found if family]


@pytest.mark.parametrize("afterwards", ["back", "again"])
def test_a_change_that_the_kernel_breaks_off_leaves_nothing_wrong(
    lab: World, plane: tc.TcDataplane, monkeypatch: pytest.MonkeyPatch, afterwards: str
) -> None:
    """Whichever call fails: packets go by old tables or new ones, then by those that are asked for; all are counted, each once.

    The mending is broken off at the same place, before it is let through.
    """
    monkeypatch.setattr(tc_program, "_MAPS_AT_ONCE", 1)
    here, there = change(lab)
    packets = some_packets(2, VIP[4]), some_packets(2, OTHER)
    counted: Counter[tuple[str, str]] = Counter()

    def exchange() -> list[set[str]]:
        found = fates(lab, [*packets[0], *packets[1]])
        counted.update((flow, fate) for flow, fate in zip(("kept", "kept", "moved", "moved"), found, strict=True))
        return [set(found[:2]), set(found[2:])]

    tried: list[str] = []
    for number in itertools.count(1):
        apply(lab, plane, here)
        assert exchange() == [{"target 0"}] * 2
        descriptors = open_descriptors()
        failed = attempt(lab, plane, there, number)
        if not failed:
            break
        tried += failed
        assert all(found in ({"target 0"}, {"target 1"}) for found in exchange()), f"after {failed}"
        wanted, fate = (here, "target 0") if afterwards == "back" else (there, "target 1")
        attempt(lab, plane, wanted, number)
        apply(lab, plane, wanted)
        assert exchange() == [{fate}] * 2, f"after {failed}"
        total = {
            (c.flow, f"target {lab.number_of(c.target)}"): c.packets for c in plane.counters() if c.packets and c.target
        }
        assert total == dict(counted), f"after {failed}"
        targets = {str(target.address) for pool in wanted.pools for target in pool.targets}
        assert sorted(addresses_written(plane)) == sorted(targets), f"after {failed}"
        assert open_descriptors() == descriptors, f"after {failed}"
    assert len(tried) > 10, tried


def attempt(lab: World, plane: tc.TcDataplane, forwarding: Forwarding, number: int) -> list[str]:
    """Applies it while the kernel refuses the call of that number; returns what the call was for, if there were so many."""
    with refused(number) as failed:
        try:
            apply(lab, plane, forwarding)
        except DataplaneError:
            assert failed
    return failed


def change(lab: World) -> tuple[Forwarding, Forwarding]:
    """From target 0 to target 1: of a pool that keeps its place; of one that needs another place and other counters; of a pool that
    goes; of one that comes."""

    def between(target: int, last: str, far: int) -> Forwarding:
        pools = [pool(lab, name, 4, (1, [target])) for name in ("kept", "moved", last)]
        pools[1] = replace(pools[1], backends=(*pools[1].backends, beside(far)))
        vips = VIP[4], OTHER, ip_network("20.3.0.1")
        return Forwarding(
            flows=tuple(flow(p.name, [vip], to=p.name) for p, vip in zip(pools, vips, strict=True)), pools=tuple(pools)
        )

    return between(0, "gone", 0), between(1, "new", 10)
