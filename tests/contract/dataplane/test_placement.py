"""Packet by packet, the kernel does what the core predicts."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from core.lb.classifier import Packet
from core.lb.forwarding import Forwarding, pool_table
from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.packets import expected, fates, random_packet, sent
from tests.contract.dataplane.sets import CLIENTS, PORTS, VIP, VIPS, flow, pool, random_forwarding, simple
from tests.contract.dataplane.world import World

PACKETS = 2000


def differences(world: World, plane: Plane, forwarding: Forwarding, packets: list[Packet]) -> list[str]:
    plane.apply(forwarding)
    distinct = list(
        {(p.source, p.destination, p.protocol, p.source_port, p.destination_port): p for p in packets}.values()
    )
    on_the_way = [sent(packet, number) for number, packet in enumerate(distinct)]
    wanted = [expected(world, forwarding, p.packet) for p in on_the_way]
    found = fates(world, on_the_way)
    return [
        f"{p.packet}: {found_one}, not {wanted_one}"
        for p, wanted_one, found_one in zip(on_the_way, wanted, found, strict=True)
        if found_one != wanted_one
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_random_packets_go_where_the_core_says(plane: Plane, gateway_world: World, version: int) -> None:
    draw = random.Random(version)
    forwarding = random_forwarding(draw, gateway_world, version, flows=12)
    packets = [random_packet(draw, CLIENTS[version], VIPS[version], PORTS) for _ in range(PACKETS)]
    kinds = Counter(expected(gateway_world, forwarding, packet).split()[0] for packet in packets)
    assert min(kinds["target"], kinds["rejected"], kinds["dropped"]) > PACKETS / 20, f"a poor sample: {kinds}"
    assert differences(gateway_world, plane, forwarding, packets) == []


@pytest.mark.parametrize("version", [4, 6])
def test_the_default_table_places_every_kind_of_packet(plane: Plane, gateway_world: World, version: int) -> None:
    forwarding = simple(gateway_world, version, [0, 1, 2, 3], table_size=65537)
    draw = random.Random(version)
    packets = [random_packet(draw, CLIENTS[version], [VIP[version]], PORTS) for _ in range(400)]
    assert differences(gateway_world, plane, forwarding, packets) == []


@pytest.mark.parametrize("version", [4, 6])
def test_services_of_the_same_pods_have_tables_of_their_own(plane: Plane, gateway_world: World, version: int) -> None:
    """Which buckets a backend has goes by the name of its Service, as where another one is without Pods."""
    one, other = (pool(gateway_world, name, version, (1, [0, 1, 2, 3]), (2, [])) for name in ("one", "other"))
    assert (pool_table(one) != pool_table(other)).any()
    vips = VIPS[version][:2]
    forwarding = Forwarding(
        flows=(flow("one", [vips[0]], to="one"), flow("other", [vips[1]], to="other")), pools=(one, other)
    )
    draw = random.Random(version)
    packets = [random_packet(draw, CLIENTS[version], vips, PORTS) for _ in range(400)]
    assert differences(gateway_world, plane, forwarding, packets) == []
