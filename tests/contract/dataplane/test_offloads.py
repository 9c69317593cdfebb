"""What the hardware is still to make: segments larger than any packet, and checksums that nobody has computed yet."""

from __future__ import annotations

import random
import socket
from dataclasses import replace

import pytest

from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.sets import pool, simple
from tests.contract.dataplane.test_path_mtu import connect_to, everything, holding, serving
from tests.contract.dataplane.world import World

CONNECTIONS = 32


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_with_all_offloads(plane: Plane, gateway_world: World, version: int) -> None:
    """Segments of 64 KB pass, and so do resets to what has no checksum yet: every second connection is refused."""
    world = gateway_world
    shares = pool(world, "pool", version, (1, [0, 1, 2, 3]), (1, []))
    plane.apply(replace(simple(world, version, [0]), pools=(shares,)))
    payload = random.Random(version).randbytes(1 << 20)
    received: list[bytes] = []
    refused = 0

    def serve(connection: socket.socket) -> None:
        received.append(everything(connection))
        connection.sendall(b"got it")

    with holding(world, version), serving(world, version, serve):
        for _ in range(CONNECTIONS):
            try:
                connection = world.client.run(lambda: connect_to(version))
            except ConnectionRefusedError:
                refused += 1
                continue
            with connection:
                connection.sendall(payload)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(100) == b"got it"
        largest = max(len(f) for frames in world.exchange([]).targets for f in frames)
    assert 0 < refused < CONNECTIONS
    assert received == [payload] * (CONNECTIONS - refused)
    assert largest > 10_000, "no segment was larger than a packet"
