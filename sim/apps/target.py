"""The application behind the virtual IP addresses: says its name, then echoes.

TCP 4000-4002: on connect it sends its name and a newline, then sends every line back. ``quit`` makes it close the connection, so that
TIME_WAIT is on this side and the client can use its port again; ``connections`` makes it send the number of connections that are open.
UDP 4100-4101: answers every datagram with its name, a newline and the datagram.

One thread, epoll, both families on one socket a port. The name is the host name of the pod (environment variable HOSTNAME).
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import sys
from collections.abc import Callable, Sequence

TCP_PORTS = (4000, 4001, 4002)
UDP_PORTS = (4100, 4101)
BACKLOG = 4096
CHUNK_BYTES = 65_536
LINE_LIMIT_BYTES = 65_536


class Connection:
    """One TCP connection: what came in without a newline yet, and what could not be sent yet."""

    def __init__(self, peer: socket.socket, greeting: bytes) -> None:
        self.peer = peer
        self.received = b""
        self.unsent = greeting
        self.closing = False

    def take_lines(self, data: bytes) -> list[bytes]:
        *lines, self.received = (self.received + data).split(b"\n")
        return lines


class Target:
    """The servers of one pod."""

    def __init__(self, name: str, tcp_ports: Sequence[int] = TCP_PORTS, udp_ports: Sequence[int] = UDP_PORTS) -> None:
        self._greeting = name.encode() + b"\n"
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, Connection] = {}
        for port in tcp_ports:
            listener = _bound(socket.SOCK_STREAM, port)
            listener.listen(BACKLOG)
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
        for port in udp_ports:
            self._selector.register(_bound(socket.SOCK_DGRAM, port), selectors.EVENT_READ, self._answer)

    def serve(self) -> None:
        """Serves until the process ends."""
        while True:
            for key, events in self._selector.select():
                key.data(key.fileobj, events)

    def _accept(self, listener: socket.socket, _events: int) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # The connection was reset while it waited, or descriptors are out: the listener itself is sound.
                sys.stderr.write(f"accept: {error}\n")
                return
            peer.setblocking(False)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(peer, self._greeting)
            self._connections[peer.fileno()] = connection
            self._selector.register(peer, selectors.EVENT_READ, self._converse)
            self._flush(connection)

    def _converse(self, peer: socket.socket, events: int) -> None:
        connection = self._connections[peer.fileno()]
        if events & selectors.EVENT_READ:
            try:
                data = peer.recv(CHUNK_BYTES)
            except BlockingIOError:
                data = None
            except OSError:
                data = b""  # reset: as good as closed
            if data == b"" or len(connection.received) > LINE_LIMIT_BYTES:
                self._close(connection)
                return
            for line in connection.take_lines(data or b""):
                self._obey(connection, line)
        self._flush(connection)

    def _obey(self, connection: Connection, line: bytes) -> None:
        if line == b"quit":
            connection.closing = True
        elif line == b"connections":
            connection.unsent += b"%d\n" % len(self._connections)
        else:
            connection.unsent += line + b"\n"

    def _flush(self, connection: Connection) -> None:
        try:
            while connection.unsent:
                connection.unsent = connection.unsent[connection.peer.send(connection.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)
            return
        if connection.closing and not connection.unsent:
            self._close(connection)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if self._selector.get_key(connection.peer).events != wanted:
            self._selector.modify(connection.peer, wanted, self._converse)

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.peer)
        del self._connections[connection.peer.fileno()]
        connection.peer.close()

    def _answer(self, server: socket.socket, _events: int) -> None:
        while True:
            try:
                data, ancillary, _, sender = server.recvmsg(CHUNK_BYTES, 256)
                # The reply leaves from the address that was asked: a VIP, not the address of the interface.
                server.sendmsg([self._greeting + data], _reply_from(ancillary), 0, sender)
            except BlockingIOError:
                return
            except OSError as error:
                sys.stderr.write(f"answer: {error}\n")  # no way back to this sender; the others are served on


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6, kind)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind is socket.SOCK_DGRAM:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    made.setblocking(False)
    made.bind(("::", port))
    return made


def _reply_from(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """in6_pktinfo with the address that was asked and no interface, so that routing decides. Source: RFC 3542 section 6.2."""
    address_bytes, index_bytes = 16, 4
    return [
        (level, kind, data[:address_bytes] + bytes(index_bytes))
        for level, kind, data in ancillary
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO
    ]


def _ports(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def main(arguments: Sequence[str], ready: Callable[[], None] = lambda: None) -> int:
    """Serves for ever; `ready` is called when every port listens."""
    parser = argparse.ArgumentParser(prog="target", description="A server that answers with its name.")
    parser.add_argument("--name", default=os.environ.get("HOSTNAME") or socket.gethostname())
    parser.add_argument("--tcp-ports", type=_ports, default=TCP_PORTS)
    parser.add_argument("--udp-ports", type=_ports, default=UDP_PORTS)
    options = parser.parse_args(arguments)
    target = Target(options.name, options.tcp_ports, options.udp_ports)
    ready()
    target.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
