"""Packets as bytes, what the core's classifier is told of them, and what became of them."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from typing import assert_never

from core.lb.classifier import Packet, decide
from core.lb.forwarding import Forwarding
from core.model import Address, L4Protocol, Prefix
from tests.contract.dataplane.world import World

ICMP, ICMPV6 = 1, 58
ECHO_TYPES = {4: (8, 0), 6: (128, 129)}
"""Request and reply."""
PORT_UNREACHABLE = ((ICMP, 3, 3), (ICMPV6, 1, 4))
"""Protocol, type and code (RFC 792, RFC 4443 section 3.1)."""
TTL = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An IP packet, and how to know it again: `token` is somewhere in its payload, and nowhere else."""

    packet: Packet
    raw: bytes
    token: bytes


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) & 1 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source: Address, destination: Address, protocol: int, payload: bytes, *, ttl: int = TTL) -> bytes:
    """An IPv4 or IPv6 packet without options."""
    if isinstance(source, IPv4Address):
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, ttl, protocol, 0)
        header += source.packed + destination.packed
        return header[:10] + struct.pack(">H", internet_checksum(header)) + header[12:] + payload
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, ttl) + source.packed + destination.packed + payload


def pseudo_header(source: Address, destination: Address, protocol: int, length: int) -> bytes:
    """RFC 793, RFC 8200 section 8.1."""
    if isinstance(source, IPv4Address):
        return source.packed + destination.packed + struct.pack(">BBH", 0, protocol, length)
    return source.packed + destination.packed + struct.pack(">II", length, protocol)


def l4(packet: Packet, payload: bytes, *, echo_reply: bool = False) -> tuple[int, bytes]:
    """(protocol number, header and payload) of `packet`: a TCP SYN, a UDP or SCTP packet or an echo; checksums are right."""
    version = packet.source.version
    ports = struct.pack(">HH", packet.source_port, packet.destination_port)
    match packet.protocol:
        case L4Protocol.TCP:
            data, at = ports + struct.pack(">IIBBHHH", 1000, 0, 5 << 4, 0x02, 65535, 0, 0) + payload, 16
        case L4Protocol.UDP:
            data, at = ports + struct.pack(">HH", 8 + len(payload), 0) + payload, 6
        case L4Protocol.SCTP:
            return L4Protocol.SCTP, ports + bytes(8) + payload
        case None:
            data, at = struct.pack(">BBHHH", ECHO_TYPES[version][echo_reply], 0, 0, 7, 7) + payload, 2
        case _:
            assert_never(packet.protocol)
    number = packet.protocol or (ICMP if version == 4 else ICMPV6)
    pseudo = b"" if number == ICMP else pseudo_header(packet.source, packet.destination, number, len(data))
    checksum = internet_checksum(pseudo + data)
    return number, data[:at] + struct.pack(">H", checksum) + data[at + 2 :]


def sent(packet: Packet, number: int, *, ttl: int = TTL) -> Sent:
    """`packet` on its way, with a payload that nobody else has; every second echo is a reply."""
    token = b"tg%08x-" % number
    # Something behind it: an ICMP error need not quote the last bytes.
    protocol, data = l4(packet, token + bytes(5), echo_reply=number % 2 == 1)
    known = Packet(
        source=packet.source,
        destination=packet.destination,
        protocol=packet.protocol,
        source_port=packet.source_port,
        destination_port=packet.destination_port,
        header=data if packet.protocol else b"",
    )
    return Sent(packet=known, raw=ip(packet.source, packet.destination, protocol, data, ttl=ttl), token=token)


def big(packet: Packet, number: int, size: int, *, dont_fragment: bool = True) -> Sent:
    """`packet`, of UDP, with so much in it that it has `size` bytes."""
    made = sent(packet, number)
    version = packet.source.version
    header_bytes = 20 if version == 4 else 40
    protocol, data = l4(packet, made.token.ljust(size - header_bytes - 8, b"."))
    raw = ip(packet.source, packet.destination, protocol, data)
    if version == 4:
        # An identity of its own, for its fragments.
        head = (
            raw[:4] + struct.pack(">HH", number + 1, 0x4000 if dont_fragment else 0) + raw[8:10] + bytes(2) + raw[12:20]
        )
        raw = head[:10] + struct.pack(">H", internet_checksum(head)) + head[12:] + raw[20:]
    return replace(made, raw=raw)


def frame(world: World, raw: bytes) -> bytes:
    """`raw` on the wire from the client to the gateway."""
    return world.gateway_mac + world.client_port.mac + (b"\x08\x00" if raw[0] >> 4 == 4 else b"\x86\xdd") + raw


def expected(world: World, forwarding: Forwarding, packet: Packet) -> str:
    """What the core says about `packet`, in the words of `fates`."""
    decision = decide(forwarding, packet)
    if decision.flow is None:
        return "dropped"
    return "rejected" if decision.target is None else f"target {world.number_of(decision.target.address)}"


def fates(world: World, packets: Sequence[Sent], *, exact: bool = True) -> list[str]:
    """Sends all and says what became of each: ``target N``, ``rejected``, ``dropped``; several of them, or others, are faults.

    `exact`: nothing but the hops that are left may have changed.
    """
    seen = world.exchange([frame(world, p.raw) for p in packets])
    by_token = {p.token: p for p in packets}
    by_client: dict[Address, list[Sent]] = {}
    for p in packets:
        by_client.setdefault(p.packet.source, []).append(p)
    found: dict[bytes, list[str]] = {p.token: [] for p in packets}
    for i, frames in enumerate(seen.targets):
        for arrived, token in _tokens(frames):
            same = not exact or is_forwarded(arrived, by_token[token].raw)
            found[token].append(f"target {i}" if same else f"target {i}, changed: {arrived.hex()}")
    for arrived, token in _tokens(seen.primary):
        found[token].append(f"leaked: {arrived.hex()}")
    for arrived in seen.client:
        for p in by_client.get(_destination(arrived), ()):
            if answers(arrived, p):
                found[p.token].append("rejected")
    return [" and ".join(found[p.token]) or "dropped" for p in packets]


def _tokens(frames: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for arrived in frames:
        if match := re.search(rb"tg[0-9a-f]{8}-", arrived):
            yield arrived, match[0]


def _destination(arrived: bytes) -> Address:
    return ip_address(arrived[30:34] if arrived[14] >> 4 == 4 else arrived[38:54])


def is_forwarded(arrived: bytes, raw: bytes) -> bool:
    """Whether it is the same packet with one hop less."""
    there = arrived[14 : 14 + len(raw)]
    if raw[0] >> 4 == 6:
        return there[7] == raw[7] - 1 and there[:7] + there[8:] == raw[:7] + raw[8:]
    header_bytes = (there[0] & 15) * 4
    same = there[:8] + there[9:10] + there[12:] == raw[:8] + raw[9:10] + raw[12:]
    return there[8] == raw[8] - 1 and same and internet_checksum(there[:header_bytes]) == 0


def answers(arrived: bytes, packet: Sent) -> bool:
    """Whether it is a TCP reset, or an ICMP port unreachable, about `packet`; with checksums that are right."""
    there = arrived[14:]
    version = packet.packet.source.version
    if there[0] >> 4 != version:
        return False
    header_bytes, protocol = (20, there[9]) if version == 4 else (40, there[6])
    length = struct.unpack(">H", there[2:4])[0] if version == 4 else 40 + struct.unpack(">H", there[4:6])[0]
    data = there[header_bytes:length]
    at = 12 if version == 4 else 8
    source, destination = (
        ip_address(there[i : i + len(packet.packet.source.packed)]) for i in (at, at + (4 if version == 4 else 16))
    )
    if destination != packet.packet.source:
        return False
    pseudo = b"" if protocol == ICMP else pseudo_header(source, destination, protocol, len(data))
    if packet.packet.protocol is L4Protocol.TCP:
        reset = 0x04
        ports = (packet.packet.destination_port, packet.packet.source_port)
        its_ports = struct.unpack(">HH", data[:4])
        if (protocol, source, its_ports) != (L4Protocol.TCP, packet.packet.destination, ports) or not data[13] & reset:
            return False
    elif (protocol, data[0], data[1]) not in PORT_UNREACHABLE or packet.token not in data:
        return False
    assert internet_checksum(pseudo + data) == 0, f"wrong checksum in {there.hex()}"
    return True


# --- at random -------------------------------------------------------------------------------------------------------------


def random_address(draw: random.Random, prefix: Prefix) -> Address:
    """One that `prefix` contains."""
    low = draw.getrandbits(prefix.max_prefixlen - prefix.prefixlen) if prefix.prefixlen < prefix.max_prefixlen else 0
    return prefix.network_address + low


def random_packet(
    draw: random.Random, sources: Sequence[Prefix], destinations: Sequence[Prefix], ports: Sequence[int]
) -> Packet:
    """Sources and destinations in one of the prefixes; ports mostly one of `ports` or beside one."""

    def port() -> int:
        return (
            min(65535, max(0, draw.choice(ports) + draw.choice((0, 0, 0, 1, -1))))
            if draw.random() < 0.9
            else draw.getrandbits(16)
        )

    protocol = draw.choice((L4Protocol.TCP, L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP, None))
    return Packet(
        source=random_address(draw, draw.choice(sources)),
        destination=random_address(draw, draw.choice(destinations)),
        protocol=protocol,
        source_port=(port() if draw.random() < 0.5 else draw.randrange(1024, 65536)) if protocol else 0,
        destination_port=port() if protocol else 0,
    )
