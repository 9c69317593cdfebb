"""Fragments reach the target of their first fragment, in whatever order they come."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.packet import Raw

from core.lb.classifier import Packet
from core.model import L4Protocol
from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.packets import expected, frame, random_packet
from tests.contract.dataplane.sets import CLIENTS, PORTS, VIP, simple
from tests.contract.dataplane.world import World

DATAGRAMS = 60
PAYLOAD_BYTES = 3600
ORDERS: dict[str, Callable[[list[bytes], random.Random], list[bytes]]] = {
    "in order": lambda pieces, _: pieces,
    "reversed": lambda pieces, _: pieces[::-1],
    "shuffled": lambda pieces, draw: draw.sample(pieces, len(pieces)),
    "first last": lambda pieces, _: [*pieces[1:], pieces[0]],
}


def pieces_of(packet: Packet, number: int, payload: bytes) -> list[bytes]:
    """The fragments of a UDP datagram."""
    datagram = UDP(sport=packet.source_port, dport=packet.destination_port) / Raw(payload)
    source, destination = str(packet.source), str(packet.destination)
    if packet.source.version == 4:
        return [bytes(p) for p in fragment(IP(src=source, dst=destination, id=number + 1) / datagram, fragsize=1000)]
    whole = IPv6(src=source, dst=destination) / IPv6ExtHdrFragment(id=number + 1) / datagram
    return [bytes(p) for p in fragment6(whole, 1100)]


def payloads(frames: Sequence[bytes], version: int) -> dict[str, bytes]:
    """The UDP payloads that fragments make up, by source address and port; those that stay incomplete are left out."""
    parts: dict[tuple[bytes, bytes], dict[int, bytes]] = {}
    totals: dict[tuple[bytes, bytes], int] = {}
    for raw in (f[14:] for f in frames if f[14] >> 4 == version):
        if version == 4:
            length, identity, offset = struct.unpack(">2xHHH", raw[:8])
            source, data, more, at = raw[12:16], raw[20:length], offset & 0x2000, (offset & 0x1FFF) * 8
            key = source, struct.pack(">H", identity)
        else:
            if raw[6] != 44:
                continue
            length, offset = struct.unpack(">H", raw[4:6])[0], struct.unpack(">H", raw[42:44])[0]
            data, more, at = raw[48 : 40 + length], offset & 1, offset & 0xFFF8
            key = raw[8:24], raw[44:48]
        parts.setdefault(key, {})[at] = data
        if not more:
            totals[key] = at + len(data)
    found = {}
    for key, total in totals.items():
        whole = b"".join(data for _, data in sorted(parts[key].items()))
        if len(whole) == total:
            port = struct.unpack(">H", whole[:2])[0]
            found[f"{ip_address(key[0])} {port}"] = whole[8:]
    return found


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("version", [4, 6])
def test_fragments_follow_their_first_one(plane: Plane, gateway_world: World, version: int, order: str) -> None:
    forwarding = simple(gateway_world, version, [0, 1, 2, 3])
    plane.apply(forwarding)
    draw = random.Random(order)
    frames, wanted = [], {}
    for number in range(DATAGRAMS):
        packet = Packet(
            source=random_packet(draw, CLIENTS[version], [VIP[version]], PORTS).source,
            destination=VIP[version].network_address,
            protocol=L4Protocol.UDP,
            source_port=10_000 + number,
            destination_port=4000,
        )
        payload = draw.randbytes(PAYLOAD_BYTES)
        pieces = pieces_of(packet, number, payload)
        assert len(pieces) > 2
        frames += [frame(gateway_world, piece) for piece in ORDERS[order](pieces, draw)]
        wanted[f"{packet.source} {packet.source_port}"] = expected(gateway_world, forwarding, packet), payload
    seen = gateway_world.exchange(frames)
    found = {
        key: (f"target {i}", payload)
        for i, arrived in enumerate(seen.targets)
        for key, payload in payloads(arrived, version).items()
    }
    assert {key: target for key, (target, _) in found.items()} == {key: target for key, (target, _) in wanted.items()}
    assert found == wanted


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_of_many_datagrams_mixed(plane: Plane, gateway_world: World, version: int) -> None:
    """All fragments of all datagrams in one random order."""
    forwarding = simple(gateway_world, version, [0, 1, 2, 3])
    plane.apply(forwarding)
    draw = random.Random(version)
    frames, wanted = [], {}
    for number in range(DATAGRAMS):
        client = str(CLIENTS[version][0].network_address + number % 5)
        packet = Packet(
            source=ip_address(client),
            destination=VIP[version].network_address,
            protocol=L4Protocol.UDP,
            source_port=20_000 + number,
            destination_port=4000,
        )
        payload = draw.randbytes(PAYLOAD_BYTES)
        frames += [frame(gateway_world, piece) for piece in pieces_of(packet, 1000 + number, payload)]
        wanted[f"{client} {packet.source_port}"] = expected(gateway_world, forwarding, packet), payload
    draw.shuffle(frames)
    seen = gateway_world.exchange(frames)
    found = {
        key: (f"target {i}", payload)
        for i, arrived in enumerate(seen.targets)
        for key, payload in payloads(arrived, version).items()
    }
    assert found == wanted
