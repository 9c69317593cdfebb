"""Path MTU: a target learns how large its replies may be, whoever says so, and a transfer over a narrow link recovers.

Nobody tells the client's TCP that the way to it is narrow, so the target begins with segments of 1,500 bytes that do not fit.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from ipaddress import ip_address

import pytest

from core.lb.classifier import Packet
from core.model import L4Protocol
from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.packets import big, expected, frame
from tests.contract.dataplane.sets import VIP, simple
from tests.contract.dataplane.test_fragments import payloads
from tests.contract.dataplane.world import DEADLINE_S, VIP_NETWORKS, Namespace, World, connect, quiet

NARROW_BYTES = 1280
CONNECTIONS = 8
PORT = 4000
CLIENT = {4: "200.1.0.9", 6: "2001:db8:c1::9"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
PAYLOAD = random.Random(1).randbytes(300_000)


def command(version: int, text: str) -> str:
    return f"-6 {text}" if version == 6 else text


@contextmanager
def holding(world: World, version: int) -> Iterator[None]:
    """Targets hold the VIP and answer over the gateway; the client outside knows the way to it."""
    vip, bits = VIP[version].network_address, VIP[version].prefixlen
    network = next(n for n in VIP_NETWORKS if (":" in n) == (version == 6))
    via = "169.254.1.1" if version == 4 else "fd00:1::1"
    for i, target in enumerate(world.targets):
        gateway = f"172.16.{i}.1" if version == 4 else f"fd00:16:{i}::1"
        target.ip(
            # Else it may not be bound to before the kernel has found some time to look at it.
            command(version, f"address add {vip}/{bits} dev lo" + " nodad" * (version == 6)),
            command(version, f"route replace default via {gateway} dev net1"),
        )
    world.client.ip(command(version, f"route replace {network} via {via} dev c0"))
    try:
        yield
    finally:
        for target in world.targets:
            target.ip(
                command(version, f"address delete {vip}/{bits} dev lo"),
                command(version, "route delete default dev net1"),
            )
        world.client.ip(command(version, f"route delete {network} dev c0"))


@contextmanager
def narrow_targets(world: World) -> Iterator[None]:
    """The networks of the targets carry less than the client's; a data plane notices with the next `apply`."""
    interfaces = [f"t{i}" for i in range(len(world.targets))]
    world.gateway.ip(*(f"link set {name} mtu {NARROW_BYTES}" for name in interfaces))
    try:
        yield
    finally:
        world.gateway.ip(*(f"link set {name} mtu 1500" for name in interfaces))


@contextmanager
def far_client(world: World, version: int, narrow: bool) -> Iterator[Namespace]:
    """A client behind the router outside, over a link that is narrow in the direction to the client."""
    far, router = Namespace(), world.client
    quiet(far)
    connect(router, "f0", far, "f1", "10.77.0.{}/24", "fd77::{}/64")
    address, bits = CLIENT[version], VIP[version].prefixlen
    if narrow:
        router.ip(f"link set f0 mtu {NARROW_BYTES}")
    far.ip(
        command(version, f"address add {address}/{bits} dev f1" + " nodad" * (version == 6)),
        command(version, f"route add default via {'10.77.0.1' if version == 4 else 'fd77::1'} src {address}"),
    )
    router.ip(command(version, f"route add {address}/{bits} via {'10.77.0.2' if version == 4 else 'fd77::2'}"))
    router.sysctl(net__ipv4__ip_forward="1", net__ipv6__conf__all__forwarding="1")
    try:
        yield far
    finally:
        router.sysctl(net__ipv4__ip_forward="0", net__ipv6__conf__all__forwarding="0")
        router.ip("link delete f0")
        far.close()


@contextmanager
def serving(world: World, version: int, action: Callable[[socket.socket], object]) -> Iterator[None]:
    """Targets do this with each connection to the VIP."""

    def listen() -> socket.socket:
        return socket.create_server((str(VIP[version].network_address), PORT), family=FAMILY[version])

    listeners = [target.run(listen) for target in world.targets]

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(TimeoutError):
                connection.settimeout(DEADLINE_S)
                action(connection)

    threads = [threading.Thread(target=serve, args=(listener,)) for listener in listeners]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in threads:
            thread.join()


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side ends."""
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def connect_to(version: int) -> socket.socket:
    return socket.create_connection((str(VIP[version].network_address), PORT), timeout=DEADLINE_S)


def download(version: int) -> bytes:
    """Everything that a target sends."""
    with connect_to(version) as connection:
        return everything(connection)


def upload(version: int) -> bytes:
    """Sends everything to a target; what it answers."""
    with connect_to(version) as connection:
        connection.sendall(PAYLOAD)
        connection.shutdown(socket.SHUT_WR)
        return everything(connection)


def answer_with_length(connection: socket.socket) -> None:
    connection.sendall(b"%d" % len(everything(connection)))


def is_too_big(frame: bytes) -> bool:
    """ICMP fragmentation needed, ICMPv6 packet too big."""
    packet = frame[14:]
    if packet[0] >> 4 == 4:
        return packet[9] == 1 and packet[20:22] == b"\x03\x04"
    return packet[6] == 58 and packet[40] == 2


def sending(world: World, version: int) -> AbstractContextManager[None]:
    return serving(world, version, lambda connection: connection.sendall(PAYLOAD))


@pytest.mark.parametrize("where", ["behind the gateway", "further on"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_transfer_over_a_narrow_link_recovers(plane: Plane, gateway_world: World, version: int, where: str) -> None:
    """The error is the gateway's own, or comes from a router outside; either must reach the very target that sent too much."""
    world, at_gateway = gateway_world, where == "behind the gateway"
    plane.apply(simple(world, version, [0, 1, 2, 3]))
    with holding(world, version), far_client(world, version, narrow=not at_gateway) as far, sending(world, version):
        if at_gateway:
            world.gateway.ip(f"link set ext0 mtu {NARROW_BYTES}")
        try:
            world.exchange([])
            received = [far.run(partial(download, version)) for _ in range(CONNECTIONS)]
            seen = world.exchange([])
        finally:
            world.gateway.ip("link set ext0 mtu 1500")
    assert [len(each) for each in received] == [len(PAYLOAD)] * CONNECTIONS
    assert set(received) == {PAYLOAD}
    vip = VIP[version].network_address.packed
    assert any(is_too_big(frame) and vip in frame for frames in seen.targets for frame in frames)
    assert not [frame.hex() for frame in seen.primary if vip in frame]


@pytest.mark.parametrize("version", [4, 6])
def test_a_transfer_to_a_target_on_a_narrow_network_recovers(plane: Plane, gateway_world: World, version: int) -> None:
    """The gateway says to the client how large its packets to the target may be."""
    world = gateway_world
    with narrow_targets(world), holding(world, version), far_client(world, version, narrow=False) as far:
        plane.apply(simple(world, version, [0, 1, 2, 3]))
        with serving(world, version, answer_with_length):
            world.exchange([])
            answers = [far.run(partial(upload, version)) for _ in range(CONNECTIONS)]
        seen = world.exchange([])
    assert answers == [b"%d" % len(PAYLOAD)] * CONNECTIONS
    assert any(is_too_big(frame) for frame in seen.client)
    vip = VIP[version].network_address.packed
    assert not [frame.hex() for frame in seen.primary if vip in frame]


def udp(version: int, number: int) -> Packet:
    return Packet(
        source=ip_address(CLIENT[version]),
        destination=VIP[version].network_address,
        protocol=L4Protocol.UDP,
        source_port=3000 + number,
        destination_port=PORT,
    )


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_too_big_for_its_target_is_answered_with_the_mtu(
    plane: Plane, gateway_world: World, version: int
) -> None:
    world = gateway_world
    packets = [big(udp(version, n), n, size) for n, size in enumerate((NARROW_BYTES, NARROW_BYTES + 1, 1500))]
    with narrow_targets(world):
        plane.apply(simple(world, version, [0, 1]))
        seen = world.exchange([frame(world, p.raw) for p in packets])
    at_targets = [any(p.token in f for frames in seen.targets for f in frames) for p in packets]
    assert at_targets == [True, False, False]
    assert not any(p.token in f for p in packets for f in seen.primary)
    assert not any(packets[0].token in f for f in seen.client)
    for packet in packets[1:]:
        (answer,) = [f[14:] for f in seen.client if packet.token in f]
        if version == 4:
            assert (answer[20], answer[21], struct.unpack(">H", answer[26:28])[0]) == (3, 4, NARROW_BYTES)
        else:
            assert (answer[40], answer[41], struct.unpack(">I", answer[44:48])[0]) == (2, 0, NARROW_BYTES)
            assert len(answer) <= 1280


def test_a_packet_that_may_be_fragmented_is(plane: Plane, gateway_world: World) -> None:
    world = gateway_world
    forwarding = simple(world, 4, [0, 1])
    packets = [big(udp(4, n), n, 1500, dont_fragment=False) for n in range(40)]
    with narrow_targets(world):
        plane.apply(forwarding)
        seen = world.exchange([frame(world, p.raw) for p in packets])
    assert all(len(f) <= 14 + NARROW_BYTES for frames in seen.targets for f in frames)
    found = {key: f"target {i}" for i, frames in enumerate(seen.targets) for key in payloads(frames, 4)}
    assert found == {
        f"{p.packet.source} {p.packet.source_port}": expected(world, forwarding, p.packet) for p in packets
    }
    assert not [f.hex() for f in seen.client if is_too_big(f)]
