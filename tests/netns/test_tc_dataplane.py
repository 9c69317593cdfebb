"""What only the tc data plane has: its own answers, maps that grow, TCP with offloads, and frames that are none of its business."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from core.errors import DataplaneError, InputError, MachineError
from core.lb.classifier import Packet
from core.lb.forwarding import Forwarding, Target
from core.model import L4Protocol
from live.dataplane import bpf, tc
from live.dataplane.choose import choose
from live.dataplane.nft import NftDataplane
from live.dataplane.tc_program import Drop
from tests.conftest import require
from tests.contract.dataplane.conftest import bpf_file_system
from tests.contract.dataplane.packets import big, expected, fates, frame, random_packet, sent
from tests.contract.dataplane.sets import CLIENTS, PORTS, VIP, flow, pool, random_forwarding, simple
from tests.contract.dataplane.test_path_mtu import NARROW_BYTES, narrow_targets
from tests.contract.dataplane.world import DEADLINE_S, World, world

CLIENT = {4: "200.1.0.9", 6: "2001:db8:c1::9"}


@pytest.fixture(scope="module")
def lab() -> Iterator[World]:
    require("netns", os.geteuid() == 0, "only root makes network namespaces and loads BPF")
    reason = tc.why_not_bpf()
    require("bpf", reason is None, str(reason))
    with world(target_count=2) as made:
        yield made


@pytest.fixture(scope="module")
def pins() -> Path:
    return bpf_file_system() / "gateway"


@pytest.fixture
def plane(lab: World, pins: Path) -> Iterator[tc.TcDataplane]:
    made = lab.gateway.run(lambda: tc.TcDataplane(pins=pins, answers_per_s=100_000))
    yield made
    lab.gateway.run(made.remove)


def apply(lab: World, plane: tc.TcDataplane, forwarding: Forwarding) -> None:
    lab.gateway.run(lambda: plane.apply(forwarding, interfaces=lab.interfaces))


def udp(version: int, number: int) -> Packet:
    return Packet(
        source=ip_address(CLIENT[version]),
        destination=VIP[version].network_address,
        protocol=L4Protocol.UDP,
        source_port=3000 + number,
        destination_port=4000,
    )


@pytest.mark.parametrize("what", ["refused", "too big", "out of hops"])
@pytest.mark.parametrize("version", [4, 6])
def test_answers_are_limited(lab: World, pins: Path, version: int, what: str) -> None:
    packets = [
        big(udp(version, n), n, NARROW_BYTES + 1)
        if what == "too big"
        else sent(udp(version, n), n, ttl=1 if what == "out of hops" else 64)
        for n in range(250)
    ]
    limited = lab.gateway.run(lambda: tc.TcDataplane(pins=pins, answers_per_s=20))
    try:
        with narrow_targets(lab):
            apply(lab, limited, simple(lab, version, [] if what == "refused" else [0, 1]))
            began_s = time.monotonic()
            seen = lab.exchange([frame(lab, p.raw) for p in packets])
            lasted_s = time.monotonic() - began_s
        answered = [p for p in packets if any(p.token in f for f in seen.client)]
        # A second's worth at once, of each CPU, and what accrues while the packets pass.
        assert 20 <= len(answered) <= 20 * bpf.possible_cpus() * (1 + lasted_s)
        assert limited.drops()[Drop.UNANSWERED] == len(packets) - len(answered)
        assert not any(p.token in f for p in packets for frames in (seen.primary, *seen.targets) for f in frames)
    finally:
        lab.gateway.run(limited.remove)


def test_counters_go_on_when_maps_grow(lab: World, plane: tc.TcDataplane) -> None:
    """More targets than the pool had room for, then more flows than the program had: another place, the same counts."""
    few = simple(lab, 4, [0, 1])
    apply(lab, plane, few)
    packets = [sent(udp(4, n), n) for n in range(100)]
    assert fates(lab, packets) == [expected(lab, few, p.packet) for p in packets]
    far = tuple(
        Target(service="default/far", slot=10 + i, address=ip_address("172.16.0.10") + i, pod=f"far-{i}")
        for i in range(40)
    )
    backend = few.pools[0].backends[0]
    more = replace(few, pools=(replace(few.pools[0], backends=(replace(backend, targets=(*backend.targets, *far)),)),))
    many = Forwarding(
        flows=(
            *more.flows,
            *(flow(f"flow{i}", [ip_network(f"20.3.{i >> 8}.{i & 255}")], to=f"pool{i}") for i in range(700)),
        ),
        pools=(*more.pools, *(pool(lab, f"pool{i}", 4, (1, [i % 2]), table_size=11) for i in range(700))),
    )
    before = counts(plane)
    assert sum(before.values()) == len(packets)
    for forwarding in (more, many, few):
        apply(lab, plane, forwarding)
        assert {k: v for k, v in counts(plane).items() if v} == before
    assert fates(lab, packets) == [expected(lab, few, p.packet) for p in packets]
    assert counts(plane) == {key: 2 * packets_ for key, packets_ in before.items()}


def counts(plane: tc.TcDataplane) -> dict[tuple[str, str], int]:
    return {(c.flow, str(c.target)): c.packets for c in plane.counters() if c.packets}


def test_targets_of_both_families_on_no_network_are_told_once(
    lab: World, plane: tc.TcDataplane, caplog: pytest.LogCaptureFixture
) -> None:
    far = [
        Target(service="default/far", slot=1, address=ip_address(a), pod="far") for a in ("192.0.2.1", "2001:db8:ff::1")
    ]
    both = [simple(lab, version, [0]) for version in (4, 6)]
    pools = tuple(
        replace(f.pools[0], name=f"pool{n}", backends=(replace(f.pools[0].backends[0], targets=(far[n],)),))
        for n, f in enumerate(both)
    )
    forwarding = Forwarding(flows=tuple(replace(f.flows[0], pool=f"pool{n}") for n, f in enumerate(both)), pools=pools)
    for _ in range(2):
        apply(lab, plane, forwarding)
    assert [record.__dict__["target"] for record in caplog.records] == [str(target.address) for target in far]
    assert fates(lab, [sent(udp(4, 1), 1), sent(udp(6, 2), 2)]) == ["dropped"] * 2
    # Connections of earlier tests may still send again what they lost.
    assert plane.drops()[Drop.NO_TARGET] >= 2


def test_unknown_neighbours_are_asked_for(lab: World, plane: tc.TcDataplane) -> None:
    forwarding = simple(lab, 4, [0, 1])
    apply(lab, plane, forwarding)
    lab.gateway.ip("neigh flush dev t0 nud permanent")
    try:
        # The first packet to a neighbour waits in the kernel until it has answered; the markers behind it wait, too.
        packets = [sent(udp(4, n), n) for n in range(20)]
        assert fates(lab, packets) == [expected(lab, forwarding, p.packet) for p in packets]
    finally:
        mac = lab.target_ports[0].mac.hex(":")
        lab.gateway.ip(f"neigh replace 172.16.0.2 lladdr {mac} dev t0 nud permanent")


def test_garbage_is_dropped_or_passed_never_more(lab: World, plane: tc.TcDataplane) -> None:
    """BPF_PROG_TEST_RUN over packets with bytes changed and ends cut off: a verdict for each, none of them internal trouble."""
    draw = random.Random(5)
    verdicts = {-1: 0, 2: 0, 7: 0}
    for version in (4, 6):
        apply(lab, plane, random_forwarding(draw, lab, version, 8))
        frames = []
        for n in range(1500):
            raw = bytearray(sent(random_packet(draw, CLIENTS[version], [VIP[version]], PORTS), n).raw)
            for _ in range(draw.randint(0, 3)):
                raw[draw.randrange(len(raw))] = draw.getrandbits(8)
            # The kernel refuses test frames without a whole IP header.
            cut = draw.randint(20 if version == 4 else 40, len(raw)) if draw.random() < 0.3 else len(raw)
            # Test frames come from lo, whose address is all zeros.
            head = bytes(12) + (b"\x08\x00" if version == 4 else b"\x86\xdd")
            frames.append(head + bytes(raw[:cut]))
        for code in lab.gateway.run(partial(run_all, plane.program_descriptor(), frames)):
            verdicts[code] += 1
    assert min(verdicts.values()) > 100, verdicts
    assert plane.drops()[Drop.INTERNAL] == 0


def run_all(program: int, frames: list[bytes]) -> list[int]:
    """The verdicts about all frames, as signed numbers."""
    return [struct.unpack("=i", struct.pack("=I", bpf.run_once(program, f)[0]))[0] for f in frames]


def test_pins_of_a_namespace_that_is_gone_are_swept_by_the_next_one(pins: Path) -> None:
    require("netns", os.geteuid() == 0, "only root makes network namespaces and loads BPF")
    first, second = pins.parent / "tidegate-1", pins.parent / "tidegate-2"
    for folder in (first, second):
        with world(target_count=1) as short_lived:
            plane = short_lived.gateway.run(partial(tc.TcDataplane, pins=folder))
            apply(short_lived, plane, simple(short_lived, 4, [0]))
            assert folder.exists()
            plane.close()
        await_end_of_namespaces(folder)
    assert not first.exists()
    # A number that a dead namespace had comes back: what it left is replaced.
    with world(target_count=1) as again:
        plane = again.gateway.run(partial(tc.TcDataplane, pins=second))
        forwarding = simple(again, 4, [0])
        apply(again, plane, forwarding)
        packets = [sent(udp(4, n), n) for n in range(5)]
        assert fates(again, packets) == ["target 0"] * 5
        again.gateway.run(plane.remove)
    assert not second.exists()


def await_end_of_namespaces(folder: Path) -> None:
    """The kernel takes namespaces apart in the background: until no link in `folder` is attached any more."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        fd = bpf.pinned(folder / "slow")
        assert fd is not None
        with bpf.closing(fd):
            if bpf.link_ifindex(fd) == 0:
                return
        assert time.monotonic() < deadline, f"{folder} is still attached"
        os.sched_yield()


def test_a_folder_on_another_file_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="BPF file system"):
        tc.TcDataplane(pins=tmp_path / "pins")


def test_an_object_that_is_not_compiled_is_named(pins: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="make setup"):
        tc.TcDataplane(pins=pins, object_path=tmp_path / "tc.bpf.o")


def test_an_object_that_is_none_is_refused(lab: World, pins: Path, tmp_path: Path) -> None:
    broken = tmp_path / "tc.bpf.o"
    broken.write_bytes(b"not an object")
    plane = lab.gateway.run(lambda: tc.TcDataplane(pins=pins, object_path=broken))
    try:
        with pytest.raises(DataplaneError, match="no BPF object"):
            apply(lab, plane, simple(lab, 4, [0]))
    finally:
        lab.gateway.run(plane.remove)


def test_the_choice_says_why() -> None:
    chosen = choose("nft")
    assert (chosen.name, type(chosen.dataplane).__name__, chosen.reason) == ("nft", "NftDataplane", "asked for")
    assert "tc" in choose("auto").reason
    with pytest.raises(InputError, match="auto, tc or nft"):
        choose("xdp")


def test_an_agent_that_starts_anew_stays_with_what_is_at_work(
    lab: World, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables of the other plane would go on to forward, and nobody would change them."""
    monkeypatch.setattr(tc, "default_pins", lambda: pins)

    def chosen(reason: str | None) -> str:
        monkeypatch.setattr(tc, "probe", lambda: reason)
        choice = lab.gateway.run(lambda: choose("auto"))
        return f"{choice.name}: {choice.reason}"

    plane = lab.gateway.run(lambda: tc.TcDataplane(pins=pins))
    try:
        apply(lab, plane, simple(lab, 4, [0]))
        assert chosen(None) == "tc: it is at work already"
        with pytest.raises(MachineError, match="the tc data plane is at work, and cannot be used any more: no memory"):
            chosen("no memory")
    finally:
        lab.gateway.run(plane.remove)
    assert chosen("no memory") == "nft: tc cannot be used: no memory"
    other = lab.gateway.run(NftDataplane)
    try:
        lab.gateway.run(lambda: other.apply(simple(lab, 4, [0]), interfaces=["ext0"]))
        assert chosen(None) == "nft: it is at work already"
    finally:
        lab.gateway.run(other.remove)
    assert chosen(None) == "tc: BPF may be loaded here, and tc is the faster one"
