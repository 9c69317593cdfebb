"""Packets that are none: whatever their headers say of themselves, nobody is told of them and nothing of them gets anywhere."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from core.lb.classifier import Packet
from core.model import L4Protocol
from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.packets import fates, internet_checksum, ip, sent
from tests.contract.dataplane.sets import VIP, simple
from tests.contract.dataplane.world import World

BROKEN_CLIENT = {4: ip_address("200.1.66.66"), 6: ip_address("2001:db8:c1::6666")}
UDP = 17
ETHER_TYPE = {4: b"\x08\x00", 6: b"\x86\xdd"}


def whole(version: int, *, source_port: int = 4000) -> bytes:
    """A UDP packet."""
    return ip(
        BROKEN_CLIENT[version],
        VIP[version].network_address,
        UDP,
        struct.pack(">HHHH", source_port, 4000, 28, 0) + bytes(20),
    )


def with_right_checksum(raw: bytes) -> bytes:
    """IPv4: so that nobody refuses it for its checksum, over as long a header as it says that it has."""
    length = max(20, (raw[0] & 15) * 4)
    head = raw[:10] + bytes(2) + raw[12:length]
    return head[:10] + struct.pack(">H", internet_checksum(head)) + head[12:] + raw[length:]


def broken_ipv4() -> dict[str, bytes]:
    raw = whole(4)
    made = {
        "a header of 16 bytes": b"\x44" + raw[1:],
        "a header longer than the packet": b"\x4f\0" + struct.pack(">H", 40) + raw[4:40],
        "of version 5": b"\x55" + raw[1:],
        "longer than the frame": raw[:2] + struct.pack(">H", len(raw) + 1) + raw[4:],
        "shorter than its header": raw[:2] + struct.pack(">H", 19) + raw[4:],
        "ends within its ports": raw[:2] + struct.pack(">H", 22) + raw[4:22],
    }
    return {name: with_right_checksum(each) for name, each in made.items()} | {"ends within its header": raw[:18]}


def broken_ipv6() -> dict[str, bytes]:
    raw = whole(6)
    hop_by_hop = 0
    return {
        "of version 4": b"\x40" + raw[1:],
        "longer than the frame": raw[:4] + struct.pack(">H", len(raw) - 40 + 1) + raw[6:],
        "ends within its ports": raw[:4] + struct.pack(">H", 2) + raw[6:42],
        "ends within its header": raw[:30],
        "options longer than the packet": raw[:6] + bytes([hop_by_hop]) + raw[7:40] + bytes([UDP, 200]) + raw[42:],
        "options that are not there": raw[:4] + struct.pack(">HB", 0, hop_by_hop) + raw[7:40],
    }


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("version", [4, 6])
def test_broken_packets_get_nowhere(plane: Plane, gateway_world: World, version: int, padded: bool) -> None:
    """On a link that fills frames up, too: what is behind the packet is no part of it."""
    plane.apply(simple(gateway_world, version, [0, 1]))
    head = gateway_world.gateway_mac + gateway_world.client_port.mac + ETHER_TYPE[version]
    trace = BROKEN_CLIENT[version].packed
    found = {}
    for name, raw in (broken_ipv4() if version == 4 else broken_ipv6()).items():
        if padded and name.startswith("longer than"):
            continue
        seen = gateway_world.exchange([(head + raw).ljust(74 if padded else 0, b"\0")])
        everywhere = (*seen.client, *seen.primary, *(f for frames in seen.targets for f in frames))
        if arrived := [f.hex() for f in everywhere if trace in f]:
            found[name] = arrived
    assert found == {}
    seen = gateway_world.exchange([head + whole(version)])
    assert sum(trace in f for frames in seen.targets for f in frames) == 1


def test_a_wrong_header_checksum_stays_wrong(plane: Plane, gateway_world: World) -> None:
    """So that the target refuses it, if it gets there at all."""
    plane.apply(simple(gateway_world, 4, [0, 1]))
    packet = sent(
        Packet(
            source=BROKEN_CLIENT[4],
            destination=VIP[4].network_address,
            protocol=L4Protocol.UDP,
            source_port=1,
            destination_port=2,
        ),
        1,
    )
    raw = packet.raw[:10] + bytes([packet.raw[10] ^ 1]) + packet.raw[11:]
    head = gateway_world.gateway_mac + gateway_world.client_port.mac + ETHER_TYPE[4]
    seen = gateway_world.exchange([head + raw])
    arrived = [f[14:34] for frames in seen.targets for f in frames if packet.token in f]
    assert all(internet_checksum(header) for header in arrived)
    assert not [f.hex() for f in (*seen.client, *seen.primary) if packet.token in f]
    assert fates(gateway_world, [packet])[0].startswith("target")
