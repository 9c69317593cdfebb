"""Packet captures of a host's interface, as pcap files that tcpdump, Wireshark and scapy read.

Written here rather than by tcpdump: a capture is then a part of the run (it has begun when `start` returns, is complete when `stop`
returns, which tcpdump tells only by its last words), needs no package, and works in a user namespace, where tcpdump fails to drop its
privileges.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sim.net.namespaces import within
from sim.net.topology import VirtualNetwork

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_STATISTICS = 6
SO_TIMESTAMPNS = 35
RECEIVE_BUFFER_BYTES = 8 << 20
SNAP_BYTES = 262_144
LINKTYPE_ETHERNET = 1
MAGIC_NANOSECONDS = 0xA1B23C4D
"""A pcap file whose times are in nanoseconds. Source: draft-ietf-opsawg-pcap section 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A capture that is over. `dropped` packets came faster than they were written."""

    path: Path
    packets: int
    dropped: int


class Capture:
    """Frames that an interface sends and receives, from `start` to `stop`."""

    def __init__(self, network: VirtualNetwork, host: str, interface: str, path: Path) -> None:
        self._namespace = network.host(host).namespace
        self._interface = interface
        self._path = path
        self._packets = 0
        self._thread = threading.Thread(target=self._run, name=f"capture {host} {interface}", daemon=True)
        self._socket: socket.socket | None = None
        self._failure: OSError | None = None

    def start(self) -> None:
        """Returns when every later frame will be in the file.

        Raises:
            OSError: there is no such interface, or the file cannot be written.
        """
        with contextlib.ExitStack() as opened:
            self._file = opened.enter_context(self._path.open("wb"))
            self._file.write(struct.pack("<IHHiIII", MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAP_BYTES, LINKTYPE_ETHERNET))
            self._socket = opened.enter_context(within(self._namespace, self._open))
            self._stop_reading, self._stop = os.pipe()
            opened.callback(os.close, self._stop_reading)
            opened.callback(os.close, self._stop)
            self._thread.start()
            self._opened = opened.pop_all()

    def stop(self) -> Captured:
        """Writes what was received so far and closes the file.

        Raises:
            OSError: the file could not be written to its end.
        """
        assert self._socket is not None, "start comes before stop"
        with self._opened:
            os.write(self._stop, b"!")
            self._thread.join()
            statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            _, dropped = struct.unpack("II", statistics)
        if self._failure is not None:
            raise self._failure
        return Captured(path=self._path, packets=self._packets, dropped=dropped)

    def _open(self) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            # Until it is bound with a protocol the socket is deaf: no frame of another interface gets in.
            made.bind((self._interface, ETH_P_ALL))
            made.setblocking(False)
        except OSError:
            made.close()
            raise
        return made

    def _run(self) -> None:
        assert self._socket is not None
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.register(self._stop_reading, select.POLLIN)
        try:
            while True:
                ready = {descriptor for descriptor, _ in poller.poll()}
                self._drain(self._socket, self._file)
                if self._stop_reading in ready:
                    return
        except OSError as error:
            self._failure = error

    def _drain(self, source: socket.socket, target: BinaryIO) -> None:
        while True:
            try:
                frame, ancillary, _, _ = source.recvmsg(SNAP_BYTES, 64)
            except BlockingIOError:
                return
            seconds, nanoseconds = _timestamp(ancillary)
            target.write(struct.pack("<IIII", seconds, nanoseconds, len(frame), len(frame)) + frame)
            self._packets += 1


def _timestamp(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", data[:16])
            return seconds, nanoseconds
    return divmod(time.time_ns(), 1_000_000_000)
