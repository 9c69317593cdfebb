"""Options, extension headers, ICMP errors, fragments, padding, packets at their end: each goes where the core says."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from ipaddress import ip_address
from operator import truediv

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.layers.sctp import SCTP
from scapy.packet import Packet as Layers
from scapy.packet import Raw

from core.lb.classifier import Packet
from core.lb.forwarding import Forwarding
from core.model import ByteMatch, L4Protocol, PortRange
from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.packets import (
    Sent,
    expected,
    fates,
    frame,
    random_packet,
    sent,
)
from tests.contract.dataplane.sets import CLIENTS, PORTS, VIP, flow, pool, simple
from tests.contract.dataplane.world import World

VIP4, VIP6 = str(VIP[4].network_address), str(VIP[6].network_address)
ROUTER = {4: "198.51.100.1", 6: "2001:db8:f0::1"}
LAYER = {4: IP, 6: IPv6}


def clients(version: int, count: int) -> Iterator[tuple[int, str, int]]:
    """(number, address, port) of clients."""
    draw = random.Random(count)
    for number in range(count):
        packet = random_packet(draw, CLIENTS[version], [VIP[version]], PORTS)
        yield number, str(packet.source), draw.randrange(1024, 65536)


def oracle(version: int, client: str, port: int, protocol: L4Protocol | None, *, dport: int = 4000) -> Packet:
    return Packet(
        source=ip_address(client),
        destination=VIP[version].network_address,
        protocol=protocol,
        source_port=port if protocol else 0,
        destination_port=dport if protocol else 0,
    )


def token(number: int) -> Raw:
    return Raw(b"tg%08x-" % number + bytes(5))


def check(world: World, plane: Plane, forwarding: Forwarding, packets: list[Sent], *, exact: bool = True) -> None:
    plane.apply(forwarding)
    wanted = [expected(world, forwarding, p.packet) for p in packets]
    assert len(set(wanted)) > 1, f"a poor sample: {set(wanted)}"
    found = fates(world, packets, exact=exact)
    wrong = [f"{p.packet}: {f}, not {w}" for p, f, w in zip(packets, found, wanted, strict=True) if f != w]
    assert wrong == []


def test_ipv4_options_do_not_hide_the_ports(plane: Plane, gateway_world: World) -> None:
    packets = [
        Sent(
            packet=oracle(4, client, port, L4Protocol.UDP),
            # Options that are "no operation": the kernel writes into others.
            raw=bytes(
                IP(src=client, dst=VIP4, ihl=5 + n % 11, options=b"\x01" * (4 * (n % 11)))
                / UDP(sport=port, dport=4000)
                / token(n)
            ),
            token=b"tg%08x-" % n,
        )
        for n, client, port in clients(4, 66)
    ]
    check(gateway_world, plane, simple(gateway_world, 4, [0, 1, 2, 3]), packets)


def extension_headers(draw: random.Random, last: int, *, most: int = 4) -> Layers:
    """A chain of at most so many of them in front of the protocol `last`."""
    padding = [PadN(otype=1, optdata=bytes(draw.choice((0, 4))))]
    chain: list[Callable[[], Layers]] = [
        lambda: IPv6ExtHdrDestOpt(options=padding),
        lambda: IPv6ExtHdrRouting(type=253, segleft=0, addresses=["::1"]),
        lambda: IPv6ExtHdrFragment(offset=0, m=0, id=draw.getrandbits(32)),
        lambda: AH(spi=1, seq=1, icv=bytes(12), payloadlen=4),
    ]
    layers = IPv6ExtHdrHopByHop(options=padding) if draw.random() < 0.5 else None
    for make in draw.sample(chain, draw.randint(1, most - (layers is not None))):
        layers = layers / make() if layers is not None else make()
    assert layers is not None
    layers.lastlayer().nh = last
    return layers


def test_ipv6_extension_headers_do_not_hide_the_ports(plane: Plane, gateway_world: World) -> None:
    """Fault 15 of the proof-of-concept: it refuses any header of 8 bytes."""
    draw = random.Random(6)
    packets = []
    for n, client, port in clients(6, 200):
        protocol = draw.choice(tuple(L4Protocol))
        inner = {
            L4Protocol.TCP: lambda port=port: TCP(sport=port, dport=4000, flags="S"),
            L4Protocol.UDP: lambda port=port: UDP(sport=port, dport=4000),
            L4Protocol.SCTP: lambda port=port: SCTP(sport=port, dport=4000),
        }[protocol]()
        raw = bytes(IPv6(src=client, dst=VIP6) / extension_headers(draw, protocol) / inner / token(n))
        packets.append(Sent(packet=oracle(6, client, port, protocol), raw=raw, token=b"tg%08x-" % n))
    # A fragment header of a packet that is whole may be gone (RFC 6946).
    check(gateway_world, plane, simple(gateway_world, 6, [0, 1, 2, 3]), packets, exact=False)


def errors_about(version: int, inner: Layers) -> list[Layers]:
    """Every ICMP error about `inner`, a packet from the VIP to a client."""
    if version == 4:
        return [
            ICMP(type=3, code=4, nexthopmtu=1400) / inner,
            ICMP(type=3, code=1) / inner,
            ICMP(type=4, code=0) / inner,
            ICMP(type=11, code=0) / inner,
            ICMP(type=12, code=0) / inner,
        ]
    return [
        ICMPv6DestUnreach() / inner,
        ICMPv6PacketTooBig(mtu=1400) / inner,
        ICMPv6TimeExceeded() / inner,
        ICMPv6ParamProblem() / inner,
    ]


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_errors_follow_the_packet_inside_them(plane: Plane, gateway_world: World, version: int) -> None:
    layer, vip = LAYER[version], VIP[version].network_address
    packets: list[Sent] = []
    for _, client, port in clients(version, 30):
        replies: list[tuple[L4Protocol | None, Layers]] = [
            (L4Protocol.TCP, TCP(sport=4000, dport=port, flags="A")),
            (L4Protocol.UDP, UDP(sport=4000, dport=port)),
            (L4Protocol.SCTP, SCTP(sport=4000, dport=port)),
            (None, ICMP(type=0, id=7) if version == 4 else ICMPv6EchoReply(id=7)),
        ]
        for protocol, reply in replies:
            for error in errors_about(version, layer(src=str(vip), dst=client) / reply):
                number = len(packets)
                raw = bytes(layer(src=ROUTER[version], dst=str(vip)) / error / token(number))
                packets.append(Sent(packet=oracle(version, client, port, protocol), raw=raw, token=b"tg%08x-" % number))
    check(gateway_world, plane, simple(gateway_world, version, [0, 1, 2, 3]), packets)


def test_icmp_errors_about_packets_with_ipv4_options(plane: Plane, gateway_world: World) -> None:
    """The router quotes a reply with options: what is behind them decides."""
    packets = []
    for n, client, port in clients(4, 66):
        words = n % 11
        reply = IP(src=VIP4, dst=client, ihl=5 + words, options=b"\x01" * (4 * words)) / UDP(sport=4000, dport=port)
        raw = bytes(IP(src=ROUTER[4], dst=VIP4) / ICMP(type=3, code=4, nexthopmtu=1400) / reply / token(n))
        packets.append(Sent(packet=oracle(4, client, port, L4Protocol.UDP), raw=raw, token=b"tg%08x-" % n))
    check(gateway_world, plane, simple(gateway_world, 4, [0, 1, 2, 3]), packets)


def test_icmp_errors_about_packets_with_ipv6_extension_headers(plane: Plane, gateway_world: World) -> None:
    """Above all the first fragment of a reply that was too big."""
    draw, packets = random.Random(7), []
    for n, client, port in clients(6, 200):
        protocol: L4Protocol | None = draw.choice((*L4Protocol, None))
        reply: Layers = {
            L4Protocol.TCP: TCP(sport=4000, dport=port, flags="A"),
            L4Protocol.UDP: UDP(sport=4000, dport=port),
            L4Protocol.SCTP: SCTP(sport=4000, dport=port),
            None: ICMPv6EchoReply(id=7),
        }[protocol]
        if n % 3:
            headers = extension_headers(draw, protocol or 58, most=3)
        else:
            headers = IPv6ExtHdrFragment(offset=0, m=1, id=n, nh=protocol or 58)
        about = IPv6(src=VIP6, dst=client) / headers / reply / token(n)
        raw = bytes(IPv6(src=ROUTER[6], dst=VIP6) / ICMPv6PacketTooBig(mtu=1400) / about)
        packets.append(Sent(packet=oracle(6, client, port, protocol), raw=raw, token=b"tg%08x-" % n))
    check(gateway_world, plane, simple(gateway_world, 6, [0, 1, 2, 3]), packets)


def options_of(*lengths: int, last: int = L4Protocol.UDP) -> Layers:
    """A destination options header of each length in bytes, a multiple of 8, in front of the protocol `last`."""
    headers: list[Layers] = [
        IPv6ExtHdrDestOpt(options=[PadN(otype=1, optdata=bytes(length - 4))], nh=60) for length in lengths
    ]
    headers[-1].nh = last
    chain = reduce(truediv, headers)
    assert len(bytes(chain)) == sum(lengths)
    return chain


AT_THE_BOUNDS = {
    (64,): ("tc", "nft"),
    (48, 16): ("tc", "nft"),
    (24, 32, 8): ("tc", "nft"),
    (72,): ("tc",),
    (24, 32, 16): ("tc",),
    (8,) * 4: ("tc",),
    (8,) * 7: ("tc",),
    (8,) * 8: (),
}
"""The lengths of extension headers that an ICMP error quotes, and the data planes that look past them."""


@pytest.mark.parametrize("lengths", AT_THE_BOUNDS)
def test_how_many_extension_headers_an_icmp_error_may_quote(
    plane: Plane, gateway_world: World, lengths: tuple[int, ...]
) -> None:
    """nft: three, of 64 bytes together. tc: seven. An error that quotes more is dropped."""
    packets = []
    for n, client, port in clients(6, 8):
        about = IPv6(src=VIP6, dst=client) / options_of(*lengths) / UDP(sport=4000, dport=port) / token(n)
        raw = bytes(IPv6(src=ROUTER[6], dst=VIP6) / ICMPv6PacketTooBig(mtu=1400) / about)
        packets.append(Sent(packet=oracle(6, client, port, L4Protocol.UDP), raw=raw, token=b"tg%08x-" % n))
    check_or_dropped(gateway_world, plane, packets, passes=plane.name in AT_THE_BOUNDS[lengths])


@pytest.mark.parametrize("headers", [7, 8])
def test_how_many_extension_headers_a_packet_may_have(plane: Plane, gateway_world: World, headers: int) -> None:
    """tc: seven; one with more is dropped. nft: as many as the kernel goes past."""
    packets = []
    for n, client, port in clients(6, 8):
        raw = bytes(IPv6(src=client, dst=VIP6) / options_of(*[8] * headers) / UDP(sport=port, dport=4000) / token(n))
        packets.append(Sent(packet=oracle(6, client, port, L4Protocol.UDP), raw=raw, token=b"tg%08x-" % n))
    check_or_dropped(gateway_world, plane, packets, passes=headers <= 7 or plane.name == "nft")


def check_or_dropped(world: World, plane: Plane, packets: list[Sent], *, passes: bool) -> None:
    forwarding = simple(world, 6, [0, 1, 2, 3])
    if passes:
        check(world, plane, forwarding, packets)
    else:
        plane.apply(forwarding)
        assert fates(world, packets) == ["dropped"] * len(packets)


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_errors_about_later_fragments_are_dropped(plane: Plane, gateway_world: World, version: int) -> None:
    """There are no ports in them."""
    plane.apply(simple(gateway_world, version, [0, 1]))
    client, packets = str(CLIENTS[version][0].network_address), []
    for n in range(5):
        if version == 4:
            about = IP(src=VIP4, dst=client, frag=8, proto=17) / token(n)
            raw = bytes(IP(src=ROUTER[4], dst=VIP4) / ICMP(type=3, code=4, nexthopmtu=1400) / about)
        else:
            about = IPv6(src=VIP6, dst=client) / IPv6ExtHdrFragment(offset=8, m=1, id=n, nh=17) / token(n)
            raw = bytes(IPv6(src=ROUTER[6], dst=VIP6) / ICMPv6PacketTooBig(mtu=1400) / about)
        packets.append(Sent(packet=oracle(version, client, 9, L4Protocol.UDP), raw=raw, token=b"tg%08x-" % n))
    assert fates(gateway_world, packets) == ["dropped"] * len(packets)


def test_byte_matches_see_the_header_and_no_padding(plane: Plane, gateway_world: World) -> None:
    """UDP packets of 8 to 12 bytes in frames of 60: what is behind the packet is no part of it."""
    vip = VIP[4]
    matching = ByteMatch(protocol=L4Protocol.UDP, offset=8, length=4, mask=0xFFFFFFFF, value=0)
    forwarding = Forwarding(
        flows=(
            flow("zeros", [vip], to="first", protocols=[L4Protocol.UDP], byte_matches=[matching]),
            flow("rest", [vip], to="second"),
        ),
        pools=(pool(gateway_world, "first", 4, (1, [0])), pool(gateway_world, "second", 4, (1, [1]))),
    )
    plane.apply(forwarding)
    frames, wanted = [], []
    for size in range(5):
        port = 5000 + size
        raw = bytes(IP(src="200.1.0.9", dst=VIP4) / UDP(sport=port, dport=4000) / Raw(bytes(size)))
        frames.append(frame(gateway_world, raw).ljust(60, b"\0"))
        header = raw[20:]
        packet = replace(oracle(4, "200.1.0.9", port, L4Protocol.UDP), header=header)
        wanted.append(expected(gateway_world, forwarding, packet))
    assert wanted == ["target 1"] * 4 + ["target 0"]
    seen = gateway_world.exchange(frames)
    found = [
        f"target {i}"
        for size in range(5)
        for i, at in enumerate(seen.targets)
        for f in at
        if f[34:36] == (5000 + size).to_bytes(2, "big")
    ]
    assert found == wanted


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_neither_transport_nor_echo_is_dropped(plane: Plane, gateway_world: World, version: int) -> None:
    plane.apply(simple(gateway_world, version, [0, 1]))
    layer, vip, client = LAYER[version], str(VIP[version].network_address), str(CLIENTS[version][0].network_address)
    odd = [
        layer(src=client, dst=vip, **{"proto" if version == 4 else "nh": number}) / token(n)
        for n, number in enumerate((47, 50, 59, 99))
    ]
    # Timestamp requests, node information queries (RFC 4620): neither echoes nor errors.
    odd.append(layer(src=client, dst=vip) / (ICMP(type=13) if version == 4 else ICMPv6Unknown(type=139)) / token(4))
    packets = [
        Sent(packet=oracle(version, client, 0, None), raw=bytes(layers), token=b"tg%08x-" % n)
        for n, layers in enumerate(odd)
    ]
    assert fates(gateway_world, packets) == ["dropped"] * len(packets)


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_at_the_end_of_its_hops_is_answered_towards_the_client(
    plane: Plane, gateway_world: World, version: int
) -> None:
    plane.apply(simple(gateway_world, version, [0, 1]))
    client = str(CLIENTS[version][0].network_address)
    packets = [sent(oracle(version, client, 5000 + n, L4Protocol.UDP), n, ttl=1) for n in range(5)]
    seen = gateway_world.exchange([frame(gateway_world, p.raw) for p in packets])
    kind = 11 if version == 4 else 3
    at = 34 if version == 4 else 54
    for packet in packets:
        answers = [f for f in seen.client if packet.token in f]
        assert [f[at] for f in answers] == [kind]
        assert not any(packet.token in f for frames in (seen.primary, *seen.targets) for f in frames)


def test_ports_of_a_range_and_beside_it(plane: Plane, gateway_world: World) -> None:
    """The ends of ranges, and 0 and 65535."""
    vip = VIP[4]
    ranges = (PortRange(first=0, last=1), PortRange(first=80, last=90), PortRange(first=65535, last=65535))
    forwarding = Forwarding(
        flows=(flow("flow", [vip], protocols=[L4Protocol.UDP], destination_ports=ranges),),
        pools=(pool(gateway_world, "pool", 4, (1, [0, 1])),),
    )
    packets = [
        sent(oracle(4, "200.1.0.9", 7, L4Protocol.UDP, dport=port), n)
        for n, port in enumerate((0, 1, 2, 79, 80, 85, 90, 91, 65534, 65535))
    ]
    plane.apply(forwarding)
    found = fates(gateway_world, packets)
    assert found == [expected(gateway_world, forwarding, p.packet) for p in packets]
    assert [f != "dropped" for f in found] == [True, True, False, False, True, True, True, False, False, True]
