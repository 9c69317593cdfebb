"""What is refused and what is dropped: clients whose share has no target learn it at once; what no flow matches gets no answer."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from core.lb.classifier import Packet
from core.lb.forwarding import Backend, Forwarding, Pool, Target
from core.model import Address, L4Protocol, PortRange
from live.dataplane.nft import NftDataplane
from live.dataplane.nft_expressions import intercepted
from live.dataplane.nft_features import Features
from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.packets import Sent, answers, fates, frame, random_packet, sent
from tests.contract.dataplane.sets import CLIENTS, VIP, flow, pool
from tests.contract.dataplane.world import REPLY_TABLE, VIP_NETWORKS, World, target_address

PACKETS = 1200
SILENCE_S = 0.3
DEADLINE_S = 20.0
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP])
@pytest.mark.parametrize("version", [4, 6])
def test_rejection_is_in_proportion_to_the_weights(
    plane: Plane, gateway_world: World, version: int, protocol: L4Protocol
) -> None:
    """Of weights 3 and 1 the second backend has no target: a quarter is refused, the rest is not."""
    shares = pool(gateway_world, "pool", version, (3, [0, 1, 2, 3]), (1, []))
    plane.apply(Forwarding(flows=(flow("flow", [VIP[version]]),), pools=(shares,)))
    draw = random.Random(version)
    packets = [
        sent(replace(random_packet(draw, CLIENTS[version], [VIP[version]], [80]), protocol=protocol, source_port=n), n)
        for n in range(PACKETS)
    ]
    found = fates(gateway_world, packets)
    assert "dropped" not in found
    assert found.count("rejected") / PACKETS == pytest.approx(1 / 4, abs=0.05)


@contextmanager
def way_to_the_vip(world: World, version: int) -> Iterator[None]:
    network = next(n for n in VIP_NETWORKS if (":" in n) == (version == 6))
    route = f"{network} via {'169.254.1.1' if version == 4 else 'fd00:1::1'} dev c0"
    family = "-6 " if version == 6 else ""
    world.client.ip(f"{family}route add {route}")
    try:
        yield
    finally:
        world.client.ip(f"{family}route delete {route}")


def attempt(version: int, kind: int, port: int) -> str:
    """What a client learns when it connects, or sends a datagram: the error's name, or "silence"."""
    with socket.socket(FAMILY[version], kind) as client:
        client.settimeout(SILENCE_S)
        try:
            client.connect((str(VIP[version].network_address), port))
            client.send(b"x")
            client.recv(1)
        except TimeoutError:
            return "silence"
        except OSError as error:
            return type(error).__name__
    return "answer"


@pytest.mark.parametrize("version", [4, 6])
def test_clients_are_refused_at_once_or_hear_nothing(plane: Plane, gateway_world: World, version: int) -> None:
    """TCP and UDP sockets take the answers for what they are."""
    web = PortRange(first=80, last=80)
    plane.apply(
        Forwarding(
            flows=(flow("web", [VIP[version]], destination_ports=[web]),),
            pools=(pool(gateway_world, "pool", version, (1, [])),),
        )
    )
    with way_to_the_vip(gateway_world, version):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            assert gateway_world.client.run(partial(attempt, version, kind, 80)) == "ConnectionRefusedError"
            assert gateway_world.client.run(partial(attempt, version, kind, 81)) == "silence"
    assert not [
        frame.hex() for frame in gateway_world.exchange([]).primary if VIP[version].network_address.packed in frame
    ]


@contextmanager
def no_way_for_replies(world: World, version: int) -> Iterator[None]:
    family, hop = ("", "169.254.1.2") if version == 4 else ("-6 ", "fd00:1::2")
    route = f"default via {hop} dev ext0 table {REPLY_TABLE}"
    world.gateway.ip(f"{family}route delete {route}")
    try:
        yield
    finally:
        world.gateway.ip(f"{family}route add {route}")


@pytest.mark.parametrize("version", [4, 6])
def test_answers_go_the_way_of_replies_or_back_where_the_packet_came_from(
    plane: Plane, gateway_world: World, version: int
) -> None:
    """nft: by the table of the replies, or nowhere. tc: to the MAC address that sent the packet, whatever the tables say."""
    plane.apply(
        Forwarding(
            flows=(flow("flow", [VIP[version]]),),
            pools=(pool(gateway_world, "pool", version, (1, [])),),
        )
    )
    draw = random.Random(version)
    drawn = [replace(random_packet(draw, CLIENTS[version], [VIP[version]], [80]), source_port=n) for n in range(10)]
    packets = [
        sent(replace(packet, protocol=protocol, destination_port=80), n)
        for n, (packet, protocol) in enumerate(zip(drawn, [L4Protocol.TCP, L4Protocol.UDP] * 5, strict=True))
    ]
    sender = b"\x02\x00\x00\x00\x00\x07"
    frames = [(framed := frame(gateway_world, p.raw))[:6] + sender + framed[12:] for p in packets]

    def answered() -> list[bytes]:
        """The MAC address of each answer."""
        seen = gateway_world.exchange(frames)
        vip = VIP[version].network_address.packed
        assert not [arrived.hex() for arrived in seen.primary if vip in arrived]
        return [arrived[:6] for p in packets for arrived in seen.client if answers(arrived, p)]

    next_hop = gateway_world.client_port.mac
    assert answered() == [sender if plane.name == "tc" else next_hop] * len(packets)
    with no_way_for_replies(gateway_world, version):
        assert answered() == ([sender] * len(packets) if plane.name == "tc" else [])


def neighbour_state(address: Address) -> str:
    """Of the calling thread's namespace; empty without one."""
    listed = subprocess.check_output(["ip", "-json", "neighbour", "show", "to", str(address)], text=True)
    return " ".join(state for entry in json.loads(listed) for state in entry["state"])


def to_nobody(plane: Plane, version: int) -> Address:
    """Leads the VIP to an address on a target's network that nobody has; the kernel soon gives up asking for it."""
    address = target_address(0, version) + 7
    nobody = Target(service="default/service", slot=0, address=address, pod="nobody")
    backend = Backend(service="default/service", weight=1, targets=(nobody,))
    plane.apply(
        Forwarding(
            flows=(flow("flow", [VIP[version]]),), pools=(Pool(name="pool", version=version, backends=(backend,)),)
        )
    )
    # Else it gives up after three seconds.
    plane.world.gateway.sysctl(**{f"net__ipv{version}__neigh__t0__retrans_time_ms": "50"})
    return address


@pytest.mark.parametrize("version", [4, 6])
def test_a_target_that_answers_no_question_for_it_is_silence(plane: Plane, gateway_world: World, version: int) -> None:
    """Also when the kernel has given up asking: a client that were told "host unreachable" would take the VIP for gone."""
    nobody = to_nobody(plane, version)
    state, deadline_s = "", time.monotonic() + DEADLINE_S
    with way_to_the_vip(gateway_world, version):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            assert gateway_world.client.run(partial(attempt, version, kind, 80)) == "silence"
        while state != "FAILED":
            assert time.monotonic() < deadline_s, f"the kernel goes on asking: {state}"
            state = gateway_world.gateway.run(partial(neighbour_state, nobody))
            assert gateway_world.client.run(partial(attempt, version, socket.SOCK_DGRAM, 80)) == "silence"


def told(world: World, packet: Sent, nobody: Address) -> list[tuple[int, int]]:
    """Type and code of the ICMP errors about `packet`, when the kernel has given up asking for `nobody`."""
    seen = world.exchange([frame(world, packet.raw)])
    deadline_s = time.monotonic() + DEADLINE_S
    while world.gateway.run(partial(neighbour_state, nobody)) != "FAILED":
        assert time.monotonic() < deadline_s, "the kernel goes on asking"
    arrived = [*seen.client, *world.exchange([]).client]
    icmp_at = 34 if packet.packet.source.version == 4 else 54
    return [(each[icmp_at], each[icmp_at + 1]) for each in arrived if packet.token in each]


@pytest.mark.parametrize("short_way", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_what_takes_the_long_way_hears_of_a_target_that_answers_no_question(
    plane: Plane, gateway_world: World, version: int, short_way: bool
) -> None:
    """nft: "host unreachable" about an echo, and about all where the kernel has no short way. tc: silence."""
    if isinstance(plane.adapter, NftDataplane) and not short_way:
        plane.adapter._features = Features(forwards=False, defragment=intercepted())
    nobody = to_nobody(plane, version)
    client = CLIENTS[version][0][9]
    about = Packet(source=client, destination=VIP[version].network_address, protocol=None)
    echo = sent(about, 1)
    udp = sent(replace(about, protocol=L4Protocol.UDP, source_port=4000, destination_port=80), 2)
    unreachable = [(3, 1) if version == 4 else (1, 3)]
    heard = unreachable if plane.name == "nft" else []
    assert told(gateway_world, echo, nobody) == heard
    assert told(gateway_world, udp, nobody) == (heard if not short_way else [])
