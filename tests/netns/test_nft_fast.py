"""The short way of the nft data plane: what takes it, and that the plane does without it."""

from __future__ import annotations

import random

import pytest

from core.model import L4Protocol
from live.dataplane import nft_expressions as nft
from live.dataplane.nft import TABLE
from live.dataplane.nft_counts import COUNTS
from live.dataplane.nft_features import Features
from live.dataplane.nft_wire import INET, NETDEV, NftSocket
from sim.net.namespaces import within
from tests.netns._lab import Lab
from tests.netns._nft_gateway import Gateway, client_packet, expected_targets, placed, simple
from tests.netns._packets import build, fragments

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
