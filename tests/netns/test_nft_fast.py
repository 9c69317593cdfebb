"""The short way of the nft data plane: what takes it, and that the plane does without it."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from core.lb.classifier import Packet
from core.model import ByteMatch, L4Protocol, PortRange
from live.dataplane import nft_expressions as nft
from live.dataplane.nft import TABLE
from live.dataplane.nft_counts import COUNTS
from live.dataplane.nft_features import Features
from live.dataplane.nft_wire import INET, NETDEV, NftSocket
from sim.net.namespaces import ip_batch, within
from tests.netns._lab import DEADLINE_S, Lab
from tests.netns._nft_gateway import Gateway, client_packet, expected_targets, flow, placed, simple
from tests.netns._packets import build, checksum, fragments, with_extension_headers

pytestmark = pytest.mark.sandbox


@pytest.fixture
def gateway() -> Gateway:
    return Gateway(Lab())


def counted(gateway: Gateway, family: int) -> int:
    """Packets that a table has sent to targets."""

    def count() -> int:
        with NftSocket() as kernel:
            names = [name for name in kernel.sets(TABLE, family) if name.startswith(COUNTS)]
            return sum(packets for name in names for packets, _ in kernel.counts(TABLE, name, family).values())

    return within(gateway.lab.gateway, count)


@pytest.mark.parametrize("version", [4, 6])
def test_whole_packets_take_the_short_way_and_fragments_the_long_one(gateway: Gateway, version: int) -> None:
    draw = random.Random(version)
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(draw, version, protocol=draw.choice((L4Protocol.TCP, L4Protocol.UDP))) for _ in range(100)]
    expected = expected_targets(forwarding, packets)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    assert (counted(gateway, NETDEV), counted(gateway, INET)) == (100, 0)
    placed(gateway.lab, (wire for n, packet in enumerate(packets) for wire in fragments(packet, n)), expected)
    assert (counted(gateway, NETDEV), counted(gateway, INET)) == (100, 100)


def bytes_of_ip(packet: Packet, number: int, *, ttl: int = 64, options: bytes = b"", payload: bytes = b"") -> bytes:
    """`packet` with `number`, with that many hops left, IPv4 options, and more behind its number; not to be fragmented."""
    raw = build(packet, number) + payload
    if packet.source.version == 6:
        return raw[:4] + (len(raw) - 40).to_bytes(2, "big") + raw[6:7] + bytes([ttl]) + raw[8:]
    length = (len(raw) + len(options)).to_bytes(2, "big")
    head = bytes([0x45 + len(options) // 4, 0]) + length + raw[4:6] + b"\x40\0" + bytes([ttl]) + raw[9:10]
    ends = raw[12:20] + options
    return head + checksum(head + ends).to_bytes(2, "big") + ends + raw[20:]


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_no_ordinary_packet_takes_the_long_way(gateway: Gateway, version: int) -> None:
    """Each kind arrives at its target, or is answered from the IP stack; none has gone past it."""
    draw = random.Random(version)
    ip_batch(gateway.lab.gateway, ["link set dev net1 mtu 1400"])
    forwarding = simple()
    source_low = ByteMatch(protocol=L4Protocol.UDP, offset=0, length=1, mask=0x80, value=0)
    port = PortRange(first=4000, last=4000)
    matching = flow(
        "matching", version, protocols=(L4Protocol.UDP,), destination_ports=(port,), byte_matches=(source_low,)
    )
    gateway.apply(replace(forwarding, flows=(matching, *forwarding.flows)))
    udp = [client_packet(draw, version, protocol=L4Protocol.UDP, destination_port=80) for _ in range(20)]
    echoes = [client_packet(draw, version, protocol=None) for _ in range(20)]
    matched = [client_packet(draw, version, protocol=L4Protocol.UDP, destination_port=4000) for _ in range(20)]
    behind_headers = (
        [bytes_of_ip(packet, n, options=b"\x01" * 4) for n, packet in enumerate(udp)]
        if version == 4
        else [with_extension_headers(packet, n) for n, packet in enumerate(udp)]
    )
    header_bytes = 20 if version == 4 else 40
    # Ordinary ones first: with two hops left, and just as long as fits.
    fitting = [bytes_of_ip(p, n, ttl=2, payload=bytes(1400 - header_bytes - 8 - 12)) for n, p in enumerate(udp)]
    assert {len(raw) for raw in fitting} == {1400}
    placed(gateway.lab, fitting, expected_targets(forwarding, udp))
    assert (counted(gateway, NETDEV), counted(gateway, INET)) == (20, 0)
    placed(gateway.lab, behind_headers, expected_targets(forwarding, udp))
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(echoes)), expected_targets(forwarding, echoes))
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(matched)), expected_targets(forwarding, matched))
    assert (counted(gateway, NETDEV), counted(gateway, INET)) == (20, 60)
    too_long = [bytes_of_ip(p, n, payload=bytes(1401 - header_bytes - 8 - 12)) for n, p in enumerate(udp)]
    at_the_end = [bytes_of_ip(packet, n, ttl=1) for n, packet in enumerate(udp)]
    placed(gateway.lab, [*too_long, *at_the_end], {})
    deadline_s = time.monotonic() + DEADLINE_S
    while sum(found := (counted(gateway, NETDEV), counted(gateway, INET))) < 120 and time.monotonic() < deadline_s:
        pass
    assert found == (20, 100)


@pytest.mark.parametrize("version", [4, 6])
def test_what_comes_from_where_targets_are_takes_the_long_way_unless_they_are_everywhere(
    gateway: Gateway, version: int
) -> None:
    draw = random.Random(version)
    forwarding = simple()
    packets = [client_packet(draw, version, protocol=L4Protocol.UDP) for _ in range(100)]
    expected = {n: target for n, target in expected_targets(forwarding, packets).items() if target != 3}
    wires = [build(packets[n], n) for n in expected]
    gateway.apply(forwarding)
    placed(gateway.lab, wires, expected, sender=3)
    assert (counted(gateway, NETDEV), counted(gateway, INET)) == (0, len(wires))
    gateway.apply(forwarding, interfaces=["net1"])
    placed(gateway.lab, wires, expected, sender=3)
    assert (counted(gateway, NETDEV), counted(gateway, INET)) == (len(wires), len(wires))


@pytest.mark.parametrize("version", [4, 6])
def test_a_kernel_without_the_short_way_places_the_same(gateway: Gateway, version: int) -> None:
    draw = random.Random(version)
    gateway.plane._features = Features(forwards=False, defragment=nft.connection_state())
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(draw, version) for _ in range(200)]
    expected = expected_targets(forwarding, packets)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    assert counted(gateway, NETDEV) == 0
