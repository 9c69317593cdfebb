"""What is seen on the primary interfaces of Pods, and which of it has anything to do with a VIP."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from ipaddress import ip_address

from core.model import Address
from sim.net.namespaces import within
from tests.netns._lab import PACKET_OUTGOING, addresses_of, raw_socket
from tests.netns._world import APPLICATION, World

PRIMARY = "eth0"
PODS = ("stateless-", APPLICATION)
"""Beginnings of the names of Pods that carry a gateway or an application."""
LOOK_EVERY_S = 0.02
ETHERNET_BYTES = 14
ICMP, ICMPV6 = 1, 58
ICMP_ERRORS = (3, 4, 5, 11, 12)


def addresses_in(frame: bytes) -> Iterator[Address]:
    """The addresses that a frame is from, to or about: of its IP packet, of the one inside an ICMP error, of an ARP packet, and every
    one that an ICMPv6 message may have, which neighbour discovery is made of."""
    kind, packet = frame[12:ETHERNET_BYTES], frame[ETHERNET_BYTES:]
    if kind == b"\x08\x06" and len(packet) >= 28:
        yield from (ip_address(packet[14:18]), ip_address(packet[24:28]))
    elif kind == b"\x08\x00" and len(packet) >= 20:
        yield from addresses_of(packet)
        message = packet[(packet[0] & 15) * 4 :]
        if packet[9] == ICMP and len(message) >= 28 and message[0] in ICMP_ERRORS:
            yield from addresses_of(message[8:])
    elif kind == b"\x86\xdd" and len(packet) >= 40:
        yield from addresses_of(packet)
        if packet[6] == ICMPV6:
            message = packet[40:]
            yield from (ip_address(message[at : at + 16]) for at in range(8, len(message) - 15))


class Watch:
    """The primary interfaces of all Pods, new ones from the moment they have one: frames that have anything to do with a VIP."""

    def __init__(self, world: World, vips: Collection[Address]) -> None:
        self.leaks: list[str] = []
        self.frames = 0
        self.names: set[str] = set()
        """Of the Pods that are or were watched."""
        self._world, self._vips = world, frozenset(vips)
        self._packed = [vip.packed for vip in vips]
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._follow()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered

    def _follow(self) -> None:
        for host in self._world.mininet.network.hosts():
            if host.name.startswith(PODS) and host.name not in self.names:
                with suppress(KeyError):  # it has just gone
                    namespace = self._world.mininet.network.host(host.name).namespace
                    wire = within(namespace, lambda: raw_socket(PRIMARY))
                    wire.setblocking(False)
                    self._selector.register(wire, selectors.EVENT_READ, host.name)
                    self.names.add(host.name)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._follow()
            for key, _ in self._selector.select(timeout=LOOK_EVERY_S):
                wire = key.fileobj
                assert isinstance(wire, socket.socket)
                with suppress(BlockingIOError, OSError):
                    while True:
                        frame, origin = wire.recvfrom(65_600)
                        self._look(f"{key.data} {'sent' if origin[2] == PACKET_OUTGOING else 'got'}", frame)

    def _look(self, who: str, frame: bytes) -> None:
        self.frames += 1
        # Most frames are none that a VIP could be in: the API's.
        if any(packed in frame for packed in self._packed):
            found = self._vips & set(addresses_in(frame))
            if found:
                self.leaks.append(f"{who} a frame with {', '.join(map(str, found))}: {frame[:96].hex()}")
