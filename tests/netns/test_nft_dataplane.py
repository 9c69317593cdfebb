"""The nft data plane in the kernel: every packet where the core predicts it."""

from __future__ import annotations

import random
import socket
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import assert_never

import pytest

from core.errors import DataplaneError
from core.lb.classifier import Packet, decide
from core.lb.forwarding import Forwarding, Target
from core.model import L4Protocol, PortRange
from live.dataplane.nft import NftDataplane, probe
from sim.net.namespaces import ip_batch, within
from tests.netns._lab import Lab, target_address
from tests.netns._nft_gateway import (
    CLIENT,
    VIP,
    Gateway,
    client_packet,
    expected_targets,
    flow,
    placed,
    pool,
    random_forwarding,
    simple,
    tables,
    unmatched,
)
from tests.netns._packets import build, build_error, fragments, with_extension_headers

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def rng() -> random.Random:
    return random.Random(20261123)


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def gateway(lab: Lab) -> Gateway:
    return Gateway(lab)


@pytest.mark.parametrize("version", [4, 6])
def test_random_packets_reach_the_predicted_target(gateway: Gateway, rng: random.Random, version: int) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(rng, version) for _ in range(2000)]
    expected = expected_targets(forwarding, packets)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    assert len(expected) == 2000
    counts = gateway.counts()
    for n, packets_to in Counter(expected.values()).items():
        assert counts["route", target_address(n, version)] == packets_to


def interesting_packet(rng: random.Random) -> Packet:
    """Most of these lie on the bounds of the flows above."""
    version = rng.choice((4, 6))
    source = CLIENT[version] + rng.choice((0, 255, 256, 0x7FFF, 0x8000, rng.randrange(1 << 16)))
    destination = ip_address("20.0.0.0" if version == 4 else "2000::") + rng.randrange(4)
    port = [3999, 4000, 4001, 4002, 4500, 4501, 4502, 4503, 0, 65535]
    packet = client_packet(
        rng,
        version,
        source=source,
        destination=destination,
        source_port=rng.choice(port),
        destination_port=rng.choice(port),
    )
    ports = packet.source_port.to_bytes(2, "big") + packet.destination_port.to_bytes(2, "big")
    match packet.protocol:
        case L4Protocol.TCP:
            rest = bytes([0, 0, 0, 1, 0, 0, 0, 0, 0x50, rng.choice((0x02, 0x10)), 1, 0, 0, 0, 0, 0])
        case L4Protocol.UDP:
            rest = b"\0\x14\0\0"  # 8 bytes of header, 12 of payload
        case L4Protocol.SCTP:
            rest = bytes([rng.randrange(2), 0, 0, 0, 0, 0, 0, 0])
        case None:
            return packet
        case _:
            assert_never(packet.protocol)
    return replace(packet, header=ports + rest)


@pytest.mark.parametrize("flows", [3, 12, 60])
def test_the_classifier_agrees_with_the_oracle(gateway: Gateway, rng: random.Random, flows: int) -> None:
    for _ in range(3):
        forwarding = random_forwarding(rng, flows)
        packets = [interesting_packet(rng) for _ in range(600)]
        before = unmatched(gateway) if gateway.plane._states else 0
        gateway.apply(forwarding)
        expected = expected_targets(forwarding, packets)
        fates = Counter(
            "dropped" if (made := decide(forwarding, packet)).flow is None else "sent" if made.target else "rejected"
            for packet in packets
        )
        placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
        outside_all_vips = sum(
            not any(packet.destination in vip for each in forwarding.flows for vip in each.destinations)
            for packet in packets
        )
        assert unmatched(gateway) - before == fates["dropped"] - outside_all_vips
        assert expected or flows == 3


@pytest.mark.parametrize("version", [4, 6])
def test_routes_of_single_addresses_and_ports(gateway: Gateway, version: int) -> None:
    """What the kernel finds by hash; random routes have ranges, which it finds otherwise."""
    draw = random.Random(version)
    vips = [ip_address(VIP[version]) + 2 * n for n in range(12)]
    ports = [53, 80, 443, 5000, 8080, 65535]
    forwarding = Forwarding(
        flows=tuple(
            flow(
                f"route-{vip}-{port}",
                version,
                pool=f"pool-{draw.randrange(3)}",
                destinations=(ip_network(vip),),
                destination_ports=(PortRange(first=port, last=port),),
            )
            for vip in vips
            for port in ports
        ),
        pools=tuple(pool(f"pool-{n}", version, targets) for n, targets in enumerate(((0, 1), (1, 2, 3), (3,)))),
    )
    gateway.apply(forwarding)
    packets = [
        client_packet(
            draw,
            version,
            protocol=draw.choice(tuple(L4Protocol)),
            destination=draw.choice(vips) + draw.choice((0, 0, 0, 1)),
            destination_port=draw.choice((*ports, 81)),
        )
        for _ in range(600)
    ]
    expected = expected_targets(forwarding, packets)
    assert 300 < len(expected) < 500
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", [1, -1])
def test_fragments_reach_the_target_of_their_first_in_any_order(
    gateway: Gateway, rng: random.Random, version: int, order: int
) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(rng, version, protocol=rng.choice((L4Protocol.TCP, L4Protocol.UDP))) for _ in range(200)]
    wires = [wire for n, packet in enumerate(packets) for wire in list(fragments(packet, n))[::order]]
    placed(gateway.lab, wires, expected_targets(forwarding, packets))


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_errors_reach_the_target_of_the_packet_inside(gateway: Gateway, rng: random.Random, version: int) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(rng, version) for _ in range(500)]
    router = ip_address("10.1.0.2" if version == 4 else "fd01::2")
    wires = (build_error(router, packet, n) for n, packet in enumerate(packets))
    placed(gateway.lab, wires, expected_targets(forwarding, packets))


def test_ipv6_extension_headers_are_passed_over(gateway: Gateway, rng: random.Random) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(rng, 6) for _ in range(300)]
    wires = (with_extension_headers(packet, n) for n, packet in enumerate(packets))
    placed(gateway.lab, wires, expected_targets(forwarding, packets))


def test_sctp_goes_by_its_ports_from_any_address(gateway: Gateway, rng: random.Random) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [
        client_packet(rng, 4, protocol=L4Protocol.SCTP, source_port=5000 + n // 50, destination_port=3868)
        for n in range(200)
    ]
    expected = expected_targets(forwarding, packets)
    assert all(len({expected[n] for n in range(first, first + 50)}) == 1 for first in range(0, 200, 50))
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)


# --- what is refused, dropped, left alone ------------------------------------------------------------------------------------


def attempt(lab: Lab, version: int, kind: int, port: int) -> str:
    """What a client outside learns when it connects, or sends a datagram: the error's name, or "silence"."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with within(lab.outside, lambda: socket.socket(family, kind)) as client:
        client.settimeout(1)
        try:
            client.connect((VIP[version], port))
            client.send(b"x")
            client.recv(1)
        except TimeoutError:
            return "silence"
        except OSError as error:
            return type(error).__name__
    return "answer"


@pytest.mark.parametrize("version", [4, 6])
def test_a_pool_without_targets_rejects_actively_and_what_matches_nothing_is_dropped(
    gateway: Gateway, version: int
) -> None:
    web = PortRange(first=80, last=80)
    forwarding = Forwarding(
        flows=(flow("web", version, destination_ports=(web,), pool="none"),), pools=(pool("none", version, ()),)
    )
    gateway.apply(forwarding)
    assert attempt(gateway.lab, version, socket.SOCK_STREAM, 80) == "ConnectionRefusedError"
    assert attempt(gateway.lab, version, socket.SOCK_DGRAM, 80) == "ConnectionRefusedError"
    assert gateway.counts()["web", None] == 2
    assert unmatched(gateway) == 0
    assert attempt(gateway.lab, version, socket.SOCK_DGRAM, 81) == "silence"
    assert unmatched(gateway) == 1


def test_rejection_is_in_proportion_to_the_weights(gateway: Gateway, rng: random.Random) -> None:
    forwarding = simple(rejected=1, weight=3)
    gateway.apply(forwarding)
    packets = [client_packet(rng, 4, protocol=L4Protocol.TCP) for _ in range(800)]
    expected = expected_targets(forwarding, packets)
    assert 500 < len(expected) < 700
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    assert gateway.counts()["route", None] == 800 - len(expected)


def test_rejections_leave_by_the_replies_table_or_not_at_all(lab: Lab) -> None:
    gateway = Gateway(lab, NftDataplane(reply_table=4096))
    gateway.apply(
        Forwarding(
            flows=(flow("web", 4, pool="none"), flow("web6", 6, pool="none6")),
            pools=(pool("none", 4, ()), pool("none6", 6, ())),
        )
    )
    kinds = [(version, kind) for version in (4, 6) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    assert {attempt(lab, *each, 80) for each in kinds} == {"silence"}
    ip_batch(lab.gateway, ["route add default via 10.1.0.2 table 4096", "route add ::/0 via fd01::2 table 4096"])
    assert {attempt(lab, *each, 80) for each in kinds} == {"ConnectionRefusedError"}


def test_other_addresses_and_other_interfaces_are_left_alone(gateway: Gateway, rng: random.Random) -> None:
    """To a target's own address, through the gateway; and to a VIP by an interface that is not the plane's."""
    ip_batch(gateway.lab.gateway, ["route add 20.0.0.1 via 10.2.0.12"])
    gateway.apply(simple(), interfaces=("net1",))
    vip = [client_packet(rng, 4) for _ in range(50)]
    own = [client_packet(rng, 4, destination=target_address(1, 4)) for _ in range(50)]
    packets = vip + own
    expected = {n: 2 if packet in vip else 1 for n, packet in enumerate(packets)}
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)


# --- what cannot be --------------------------------------------------------------------------------------------------------


def test_without_any_of_the_interfaces_nothing_changes(gateway: Gateway) -> None:
    before = tables(gateway.lab)
    with pytest.raises(DataplaneError, match=r"no interface net6, net7 in this network namespace, only ext0, lo, net1"):
        gateway.apply(simple(), interfaces=("net6", "net7"))
    assert tables(gateway.lab) == before


def test_a_target_on_no_network_loses_only_its_own_packets(gateway: Gateway, rng: random.Random) -> None:
    whole = simple()
    far = Target(service="default/a", slot=4, address=ip_address("192.0.2.7"), pod="")
    backend = replace(whole.pools[0].backends[0], targets=(*whole.pools[0].backends[0].targets, far))
    forwarding = replace(whole, pools=(replace(whole.pools[0], backends=(backend,)), whole.pools[1]))
    gateway.apply(forwarding)
    packets = [client_packet(rng, 4) for _ in range(400)]
    near = {n: target for n, target in expected_targets(forwarding, packets).items() if target != 4}
    assert 200 < len(near) < 390
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), near)


def test_probe_changes_nothing(lab: Lab) -> None:
    before = tables(lab)
    assert within(lab.gateway, probe) is None
    assert tables(lab) == before


def test_the_plane_sets_the_parameters_that_it_needs(lab: Lab, rng: random.Random) -> None:
    def unset() -> None:
        for name, value in {
            "ipv4/ip_forward": "0",
            "ipv6/conf/all/forwarding": "0",
            "ipv4/conf/all/rp_filter": "1",
            "ipv4/conf/ext0/rp_filter": "1",
        }.items():
            Path("/proc/sys/net", name).write_text(value)

    within(lab.gateway, unset)
    forwarding = simple()
    Gateway(lab).apply(forwarding)
    packets = [client_packet(rng, n % 2 * 2 + 4) for n in range(50)]
    wires = (build(packet, n) for n, packet in enumerate(packets))
    placed(lab, wires, expected_targets(forwarding, packets))
