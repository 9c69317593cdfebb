"""Random routes and random packets: what the core's classifier and hash say is what both data planes do, packet by packet.

On the wire with every kind of packet; and, faster, with the tc program alone on test frames (BPF_PROG_TEST_RUN), which counts what it
would have done.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

import pytest
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply
from scapy.layers.sctp import SCTP
from scapy.packet import Packet as Layers

from core.lb.classifier import Packet, decide
from core.lb.forwarding import Forwarding
from core.model import L4Protocol
from live.dataplane import bpf
from live.dataplane.tc import TcDataplane
from live.dataplane.tc_program import Drop
from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.packets import Sent, expected, fates, frame, random_packet, sent
from tests.contract.dataplane.routes import random_route_set
from tests.contract.dataplane.sets import CLIENTS, PORTS, VIPS
from tests.contract.dataplane.test_fragments import IDENTITIES, payloads, pieces_of
from tests.contract.dataplane.test_odd_packets import LAYER, ROUTER, errors_about, token
from tests.contract.dataplane.world import World

PACKETS, ERRORS, DATAGRAMS = 700, 300, 60
TEST_RUNS = 3000


def drawn(draw: random.Random, version: int) -> Packet:
    return random_packet(draw, CLIENTS[version], VIPS[version], PORTS)


def distinct(draw: random.Random, version: int, count: int) -> list[Packet]:
    """Random packets, no two of one connection: the answers to them could not be told from each other."""
    found: dict[object, Packet] = {}
    while len(found) < count:
        p = drawn(draw, version)
        found[p.source, p.destination, p.protocol, p.source_port, p.destination_port] = p
    return list(found.values())


def error(draw: random.Random, packet: Packet, number: int) -> Sent:
    """An ICMP error from a router about the reply to a packet."""
    version, ports = packet.source.version, {"sport": packet.destination_port, "dport": packet.source_port}
    reply: Layers
    match packet.protocol:
        case L4Protocol.TCP:
            reply = TCP(**ports, flags="A")
        case L4Protocol.UDP:
            reply = UDP(**ports)
        case L4Protocol.SCTP:
            reply = SCTP(**ports)
        case None:
            reply = ICMP(type=0, id=7) if version == 4 else ICMPv6EchoReply(id=7)
        case _:
            assert_never(packet.protocol)
    inside = LAYER[version](src=str(packet.destination), dst=str(packet.source)) / reply
    about = draw.choice(errors_about(version, inside))
    raw = bytes(LAYER[version](src=ROUTER[version], dst=str(packet.destination)) / about / token(number))
    return Sent(packet=packet, raw=raw, token=b"tg%08x-" % number)


def wanted(world: World, forwarding: Forwarding, packet: Sent, *, is_error: bool) -> str:
    """An ICMP error is never answered with another one."""
    fate = expected(world, forwarding, packet.packet)
    return "dropped" if is_error and fate == "rejected" else fate


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Packets of one family, ICMP errors among them, and what should become of each."""

    packets: list[tuple[Sent, bool]]
    """And whether it is an error."""
    hopes: list[str]

    @property
    def is_varied(self) -> bool:
        """Whether there is enough of everything."""
        kinds = Counter(hope.split()[0] for hope in self.hopes)
        return min(kinds["target"], kinds["rejected"], kinds["dropped"]) > len(self.hopes) / 30


def traffic(draw: random.Random, world: World, forwarding: Forwarding, version: int) -> Traffic:
    connections = distinct(draw, version, PACKETS + ERRORS)
    packets = [(sent(p, n), False) for n, p in enumerate(connections[:PACKETS])]
    packets += [(error(draw, p, PACKETS + n), True) for n, p in enumerate(connections[PACKETS:])]
    draw.shuffle(packets)
    return Traffic(packets=packets, hopes=[wanted(world, forwarding, p, is_error=is_error) for p, is_error in packets])


def varied(draw: random.Random, world: World) -> tuple[Forwarding, dict[int, Traffic]]:
    """Routes, and traffic of both families of which some is forwarded, some refused and some dropped: nine of ten draws are such."""
    while True:
        forwarding = random_route_set(draw, world, routes=10)
        both = {version: traffic(draw, world, forwarding, version) for version in (4, 6)}
        if all(each.is_varied for each in both.values()):
            return forwarding, both


@pytest.mark.parametrize("seed", range(3), indirect=True)
def test_random_packets_to_random_routes(plane: Plane, gateway_world: World, seed: int) -> None:
    draw = random.Random(seed)
    forwarding, both = varied(draw, gateway_world)
    assert len(forwarding.flows) > 10
    plane.apply(forwarding)
    for version, each in both.items():
        found = fates(gateway_world, [p for p, _ in each.packets])
        wrong = [
            f"{'error about ' if is_error else ''}{p.packet}: {fate}, not {hope}"
            for (p, is_error), fate, hope in zip(each.packets, found, each.hopes, strict=True)
            if fate != hope
        ]
        assert wrong == []
        assert_fragments_follow(gateway_world, forwarding, draw, version)


def assert_fragments_follow(world: World, forwarding: Forwarding, draw: random.Random, version: int) -> None:
    """Fragments of many datagrams, all mixed: each datagram arrives whole at its target, or nowhere."""
    frames, hopes = [], {}
    for number in range(DATAGRAMS):
        payload = draw.randbytes(3000)
        packet = replace(drawn(draw, version), protocol=L4Protocol.UDP, source_port=10_000 + number)
        packet = replace(packet, destination_port=draw.choice(PORTS))
        pieces = pieces_of(packet, next(IDENTITIES), payload)
        known = replace(packet, header=pieces[0][20 if version == 4 else 48 :])
        frames += [frame(world, piece) for piece in pieces]
        hopes[f"{packet.source} {packet.source_port}"] = expected(world, forwarding, known), payload
    draw.shuffle(frames)
    seen = world.exchange(frames)
    found = {
        key: (f"target {i}", payload)
        for i, arrived in enumerate(seen.targets)
        for key, payload in payloads(arrived, version).items()
    }
    assert found == {key: hope for key, hope in hopes.items() if hope[0].startswith("target")}


@pytest.mark.parametrize("plane", ["tc"], indirect=True)
@pytest.mark.parametrize("seed", range(100, 106), indirect=True)
def test_the_program_counts_what_the_core_says(plane: Plane, gateway_world: World, seed: int) -> None:
    """Its verdict about each frame, and the flow and target that it counts it for."""
    draw = random.Random(seed)
    forwarding = random_route_set(draw, gateway_world, routes=draw.randint(1, 40))
    plane.apply(forwarding)
    assert isinstance(plane.adapter, TcDataplane)
    version = draw.choice((4, 6))
    packets = [sent(drawn(draw, version), n) for n in range(TEST_RUNS)]
    # Test frames come from lo, whose address is all zeros.
    head = bytes(12) + (b"\x08\x00" if version == 4 else b"\x86\xdd")
    program = plane.adapter.program_descriptor()
    verdicts = gateway_world.gateway.run(partial(run_all, program, [head + p.raw for p in packets]))
    decided = [decide(forwarding, p.packet) for p in packets]
    balanced = [any(p.packet.destination in d for flow in forwarding.flows for d in flow.destinations) for p in packets]
    redirect, drop, none_of_ours = 7, 2, 0xFFFFFFFF
    assert verdicts == [
        redirect if decision.flow else drop if ours else none_of_ours
        for decision, ours in zip(decided, balanced, strict=True)
    ]
    counted = {(c.flow, c.target): c.packets for c in plane.counters() if c.packets}
    assert counted == dict(Counter((d.flow.name, d.target.address if d.target else None) for d in decided if d.flow))
    assert plane.adapter.drops()[Drop.NO_FLOW] == verdicts.count(drop)


def run_all(program: int, frames: list[bytes]) -> list[int]:
    return [bpf.run_once(program, each)[0] for each in frames]
