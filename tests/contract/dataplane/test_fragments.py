"""Fragments reach the target of their first fragment, in whatever order they come; of a refused datagram the client is told once."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import assert_never

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, PadN, fragment6
from scapy.layers.ipsec import AH
from scapy.layers.sctp import SCTP
from scapy.packet import Packet as Layers
from scapy.packet import Raw

from core.lb.classifier import Packet
from core.model import L4Protocol
from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.packets import Sent, answers, expected, frame, random_packet
from tests.contract.dataplane.sets import CLIENTS, PORTS, VIP, simple
from tests.contract.dataplane.world import World

DATAGRAMS = 60
PAYLOAD_BYTES = 3600
L4_BYTES = {L4Protocol.TCP: 20, L4Protocol.UDP: 8, L4Protocol.SCTP: 12, None: 8}
KNOWN_AT = {L4Protocol.TCP: 0, L4Protocol.UDP: 0, L4Protocol.SCTP: 0, None: 4}
"""Where the header has what tells datagrams of one client from each other: the source port, of echoes the identifier."""
FRAGMENT_BYTES = {4: 1000, 6: 1048}
"""What each fragment but the last carries."""
HEADER_BYTES = {4: 20, 6: 48}
"""Before that, in each: IPv6 with its fragment header."""
UDP_NUMBER, FRAGMENT, AUTHENTICATION, NO_NEXT_HEADER, DESTINATION_OPTIONS = 17, 44, 51, 59, 60
IDENTITIES = itertools.count(1)
"""No two datagrams of these tests have the same: what one that fails leaves behind in the kernel spoils no other."""
ORDERS: dict[str, Callable[[list[bytes], random.Random], list[bytes]]] = {
    "in order": lambda pieces, _: pieces,
    "reversed": lambda pieces, _: pieces[::-1],
    "shuffled": lambda pieces, draw: draw.sample(pieces, len(pieces)),
    "first last": lambda pieces, _: [*pieces[1:], pieces[0]],
}


def l4_of(packet: Packet) -> Layers:
    """The L4 header; the identifier of an echo request is in `source_port`."""
    ports = {"sport": packet.source_port, "dport": packet.destination_port}
    match packet.protocol:
        case L4Protocol.TCP:
            return TCP(**ports, flags="S")
        case L4Protocol.UDP:
            return UDP(**ports)
        case L4Protocol.SCTP:
            return SCTP(**ports)
        case None:
            identifier = packet.source_port
            return ICMP(id=identifier) if packet.source.version == 4 else ICMPv6EchoRequest(id=identifier)
        case _:
            assert_never(packet.protocol)


def pieces_of(packet: Packet, identity: int, payload: bytes, headers: Layers | None = None) -> list[bytes]:
    """The fragments of a datagram, the first one first; `headers`: extension headers of IPv6 behind the fragment header."""
    layers = l4_of(packet) / Raw(payload)
    layers = layers if headers is None else headers / layers
    source, destination = str(packet.source), str(packet.destination)
    if packet.source.version == 4:
        whole = IP(src=source, dst=destination, id=identity) / layers
        return [bytes(p) for p in fragment(whole, fragsize=FRAGMENT_BYTES[4])]
    whole = IPv6(src=source, dst=destination) / IPv6ExtHdrFragment(id=identity) / layers
    return [bytes(p) for p in fragment6(whole, HEADER_BYTES[6] + FRAGMENT_BYTES[6])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagram:
    packet: Packet
    payload: bytes
    pieces: list[bytes]


def datagram(
    draw: random.Random,
    version: int,
    number: int,
    *,
    protocol: L4Protocol | None = L4Protocol.UDP,
    payload_bytes: int = PAYLOAD_BYTES,
    headers: Layers | None = None,
) -> Datagram:
    """One from a random client, in fragments."""
    packet = Packet(
        source=random_packet(draw, CLIENTS[version], [VIP[version]], PORTS).source,
        destination=VIP[version].network_address,
        protocol=protocol,
        source_port=10_000 + number,
        destination_port=4000,
    )
    payload = draw.randbytes(payload_bytes)
    pieces = pieces_of(packet, next(IDENTITIES), payload, headers)
    assert len(pieces) > 2
    return Datagram(packet=packet, payload=payload, pieces=pieces)


def behind_extensions(data: bytes, kind: int) -> tuple[int, bytes]:
    """(next header, what it begins) past destination options and authentication."""
    while kind in (DESTINATION_OPTIONS, AUTHENTICATION):
        length = (data[1] + 2) * 4 if kind == AUTHENTICATION else (data[1] + 1) * 8
        kind, data = data[0], data[length:]
    return kind, data


def payloads(frames: Sequence[bytes], version: int, protocol: L4Protocol | None = L4Protocol.UDP) -> dict[str, bytes]:
    """The payloads that fragments make up, by source address and port; those that stay incomplete are left out."""
    parts: dict[tuple[bytes, bytes], dict[int, tuple[int, bytes]]] = {}
    totals: dict[tuple[bytes, bytes], int] = {}
    for raw in (f[14:] for f in frames if f[14] >> 4 == version):
        if version == 4:
            length, identity, offset = struct.unpack(">2xHHH", raw[:8])
            source, kind, data, more, at = raw[12:16], raw[9], raw[20:length], offset & 0x2000, (offset & 0x1FFF) * 8
            key = source, struct.pack(">H", identity)
        else:
            # Destination options are before the fragment header where Linux has put the packet together and fragmented it again.
            kind, data = behind_extensions(raw[40 : 40 + struct.unpack(">H", raw[4:6])[0]], raw[6])
            if kind != FRAGMENT:
                continue
            offset = struct.unpack(">H", data[2:4])[0]
            key, more, at = (raw[8:24], data[4:8]), offset & 1, offset & 0xFFF8
            kind, data = data[0], data[8:]
        parts.setdefault(key, {})[at] = kind, data
        if not more:
            totals[key] = at + len(data)
    found = {}
    for key, total in totals.items():
        whole = b"".join(data for _, (_, data) in sorted(parts[key].items()))
        if len(whole) == total and 0 in parts[key]:
            _, l4 = behind_extensions(whole, parts[key][0][0])
            port = struct.unpack_from(">H", l4, KNOWN_AT[protocol])[0]
            found[f"{ip_address(key[0])} {port}"] = l4[L4_BYTES[protocol] :]
    return found


def check(world: World, plane: Plane, datagrams: Sequence[Datagram], frames: Sequence[bytes]) -> None:
    """Sends `frames`, all fragments of `datagrams`: each datagram arrives whole at the target that the core says."""
    version, protocol = datagrams[0].packet.source.version, datagrams[0].packet.protocol
    forwarding = simple(world, version, [0, 1, 2, 3])
    plane.apply(forwarding)
    wanted = {
        f"{d.packet.source} {d.packet.source_port}": (expected(world, forwarding, d.packet), d.payload)
        for d in datagrams
    }
    assert len(wanted) == len(datagrams)
    seen = world.exchange(frames)
    found = {
        key: (f"target {i}", payload)
        for i, arrived in enumerate(seen.targets)
        for key, payload in payloads(arrived, version, protocol).items()
    }
    assert {key: target for key, (target, _) in found.items()} == {key: target for key, (target, _) in wanted.items()}
    assert found == wanted


def in_order(world: World, order: str, draw: random.Random, datagrams: Sequence[Datagram]) -> list[bytes]:
    """One datagram behind the other, the fragments of each in that order."""
    return [frame(world, piece) for d in datagrams for piece in ORDERS[order](d.pieces, draw)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("version", [4, 6])
def test_fragments_follow_their_first_one(plane: Plane, gateway_world: World, version: int, order: str) -> None:
    """Faults 15 and 16 of the proof-of-concept: of IPv6 hashed by what is no port, of IPv4 lost when the first one comes last."""
    draw = random.Random(order)
    datagrams = [datagram(draw, version, number) for number in range(DATAGRAMS)]
    check(gateway_world, plane, datagrams, in_order(gateway_world, order, draw, datagrams))


@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.SCTP, None])
@pytest.mark.parametrize("version", [4, 6])
def test_fragments_of_other_protocols(
    plane: Plane, gateway_world: World, version: int, protocol: L4Protocol | None
) -> None:
    """Of an echo there are no ports, in no fragment."""
    draw = random.Random(version)
    datagrams = [datagram(draw, version, number, protocol=protocol) for number in range(8)]
    orders = itertools.cycle(ORDERS.values())
    frames = [
        frame(gateway_world, piece)
        for d, order in zip(datagrams, orders, strict=False)
        for piece in order(d.pieces, draw)
    ]
    check(gateway_world, plane, datagrams, frames)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("version", [4, 6])
def test_the_fragments_of_a_refused_datagram_are_answered_once(
    plane: Plane, gateway_world: World, version: int, order: str
) -> None:
    draw = random.Random(order)
    plane.apply(simple(gateway_world, version, []))
    packets: list[Sent] = []
    frames = []
    for number, protocol in enumerate([L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP, None] * 2):
        packet = datagram(draw, version, number, protocol=protocol).packet
        token = b"tg%08x-" % number
        pieces = pieces_of(packet, next(IDENTITIES), token.ljust(PAYLOAD_BYTES, b"."))
        frames += [frame(gateway_world, piece) for piece in ORDERS[order](pieces, draw)]
        packets.append(Sent(packet=packet, raw=b"".join(pieces), token=token))
    seen = gateway_world.exchange(frames)
    assert [sum(answers(arrived, p) for arrived in seen.client) for p in packets] == [1] * len(packets)
    ends = [p.packet.source.packed + p.packet.destination.packed for p in packets]
    assert not [f.hex() for f in (*seen.primary, *itertools.chain(*seen.targets)) if any(end in f for end in ends)]


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_of_many_datagrams_mixed(plane: Plane, gateway_world: World, version: int) -> None:
    """All fragments of all datagrams in one random order."""
    draw = random.Random(version)
    datagrams = [datagram(draw, version, number) for number in range(DATAGRAMS)]
    frames = in_order(gateway_world, "in order", draw, datagrams)
    draw.shuffle(frames)
    check(gateway_world, plane, datagrams, frames)


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_of_many_datagrams_of_one_client_mixed(plane: Plane, gateway_world: World, version: int) -> None:
    """Behind a carrier's NAT many clients have one address. By itself Linux drops what others of the same source come between."""
    draw = random.Random(version)
    first = datagram(draw, version, 0)
    datagrams = [first]
    for number in range(1, DATAGRAMS):
        packet = replace(first.packet, source_port=first.packet.source_port + number)
        payload = draw.randbytes(PAYLOAD_BYTES)
        datagrams.append(Datagram(packet=packet, payload=payload, pieces=pieces_of(packet, next(IDENTITIES), payload)))
    frames = in_order(gateway_world, "in order", draw, datagrams)
    draw.shuffle(frames)
    check(gateway_world, plane, datagrams, frames)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("version", [4, 6])
def test_last_fragments_of_few_bytes(
    plane: Plane, gateway_world: World, version: int, order: str, padded: bool
) -> None:
    """Of 1 to 8, on a link that fills frames up to 60 bytes and on one that does not."""
    draw, datagrams = random.Random(order), []
    for number in range(16):
        last_bytes = number % 8 + 1
        whole_bytes = 2 * FRAGMENT_BYTES[version] + last_bytes
        payload_bytes = whole_bytes - L4_BYTES[L4Protocol.UDP]
        datagrams.append(datagram(draw, version, number, payload_bytes=payload_bytes))
        assert len(datagrams[-1].pieces[-1]) == HEADER_BYTES[version] + last_bytes
    frames = in_order(gateway_world, order, draw, datagrams)
    check(gateway_world, plane, datagrams, [f.ljust(60, b"\0") for f in frames] if padded else frames)


def authentication(next_header: int) -> Layers:
    return AH(spi=1, seq=1, icv=bytes(12), payloadlen=4, nh=next_header)


@pytest.mark.parametrize("order", ORDERS)
def test_ipv6_extension_headers_in_the_first_fragment(plane: Plane, gateway_world: World, order: str) -> None:
    """Only the first one's next header counts (RFC 8200, section 4.5); of the others it is the same one, UDP, or anything."""
    draw, datagrams = random.Random(order), []
    for number in range(DATAGRAMS):
        options = IPv6ExtHdrDestOpt(options=[PadN(otype=1, optdata=bytes(draw.choice((4, 12, 52))))], nh=UDP_NUMBER)
        headers = draw.choice((options, authentication(UDP_NUMBER), authentication(DESTINATION_OPTIONS) / options))
        nh = DESTINATION_OPTIONS if headers is options else AUTHENTICATION
        made = datagram(draw, 6, number, headers=headers)
        assert [piece[40] for piece in made.pieces] == [nh] * len(made.pieces)
        for i in range(1, len(made.pieces)):
            later = draw.choice((nh, nh, UDP_NUMBER, NO_NEXT_HEADER))
            made.pieces[i] = made.pieces[i][:40] + bytes([later]) + made.pieces[i][41:]
        datagrams.append(made)
    check(gateway_world, plane, datagrams, in_order(gateway_world, order, draw, datagrams))
