"""Netlink for what pyroute2 has no classes for, or too slow ones: nftables' transactions, and links of kinds that it does not know.

Routes, rules and addresses are `live.rtnetlink`'s (docs/decisions/0019).

Source: linux/netlink.h; RFC 3549; Documentation/userspace-api/netlink/intro.rst.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from core.errors import DataplaneError

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12

REQUEST: Final = 0x1
ACK: Final = 0x4
REPLACE: Final = 0x100
EXCL: Final = 0x200
CREATE: Final = 0x400
DUMP: Final = 0x300
DUMP_INTERRUPTED: Final = 0x10

_ERROR: Final = 2
_DONE: Final = 3
_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXTENDED_ACK: Final = 11
_STRICT_CHECK: Final = 12
_ERROR_TEXT: Final = 1
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")

ANSWER_DEADLINE_S: Final = 10.0
"""The kernel answers at once; a socket that stays silent so long is broken."""

SEND_BUFFER_BYTES: Final = 64 << 20


class NetlinkError(DataplaneError):
    """The kernel refused a message: `errno`, and `index`, which message of those that were sent."""

    def __init__(self, what: str, errno: int, index: int = 0, text: str = "") -> None:
        super().__init__(f"{what}: {os.strerror(errno)}" + (f" ({text})" if text else ""))
        self.errno = errno
        self.index = index


class DumpInterruptedError(NetlinkError):
    """Objects changed while they were listed: list again."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request before it has a sequence number: `what` names it in errors."""

    kind: int
    flags: int
    body: bytes
    what: str


# --- attributes ------------------------------------------------------------------------------------------------------------


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def u32(kind: int, value: int) -> bytes:
    """An attribute of 32 bits in host byte order (routes, rules, addresses)."""
    return attribute(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """An attribute of 32 bits in network byte order (nftables)."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def text(kind: int, value: str) -> bytes:
    """A string attribute, with its final zero byte."""
    return attribute(kind, value.encode() + b"\0")


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of every attribute in `data`, in order."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by kind; the last of a kind wins."""
    return dict(each_attribute(data))


def string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


# --- sockets ---------------------------------------------------------------------------------------------------------------


class NetlinkSocket:
    """A netlink socket of the calling thread's network namespace. Not for several threads at once.

    Raises DataplaneError when the kernel has no such netlink protocol.
    """

    def __init__(self, protocol: int) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise NetlinkError(f"opening netlink protocol {protocol}", error.errno or 0) from error
        self._socket.settimeout(ANSWER_DEADLINE_S)
        for option in (_CAP_ACK, _EXTENDED_ACK, _STRICT_CHECK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self.send_buffer_bytes = self._widen_send_buffer()
        self._socket.bind((0, 0))
        self._sequence = 0

    def _widen_send_buffer(self) -> int:
        """A message or batch must fit into it. Only CAP_NET_ADMIN in the initial user namespace may pass the limit."""
        so_sndbufforce = 32
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, so_sndbufforce, SEND_BUFFER_BYTES)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, messages: Iterable[Message]) -> list[NetlinkError]:
        """Sends independent changes in few system calls; returns the errors, in order. An error does not stop the changes after it."""
        errors = []
        waiting = list(messages)
        for first in range(0, len(waiting), 64):
            some = waiting[first : first + 64]
            numbered = self._number(some, ACK)
            self._send(b"".join(numbered))
            errors += self._acknowledgements(some, self._sequence - len(some) + 1, first)
        return errors

    def batch(self, begin: Message, messages: Sequence[Message], end: Message | None) -> list[NetlinkError]:
        """Sends `messages` as one transaction between `begin` and `end`; returns the errors (then nothing has changed).

        Without `end` the kernel checks the messages and throws them away.
        """
        frames = [begin, *messages, *([end] if end else [])]
        last = len(messages)
        numbered = [
            _HEADER.pack(16 + len(m.body), m.kind, REQUEST | m.flags | (ACK if i == last else 0), self._next(), 0)
            + m.body
            for i, m in enumerate(frames)
        ]
        first = self._sequence - len(frames) + 1
        self._send(b"".join(numbered))
        errors = []
        while True:
            for sequence, kind, body, _ in self._receive():
                index = sequence - first
                if kind != _ERROR or not 0 <= index < len(frames):
                    continue
                if error := _error_of(body, frames[index].what, index - 1):
                    errors.append(error)
                if index == last or (index == 0 and error):
                    return errors

    def dump(self, message: Message) -> Iterator[tuple[int, bytes]]:
        """(kind, body) of every object. Raises DumpInterruptedError when they changed meanwhile."""
        self._send(self._number([message], DUMP)[0])
        sequence = self._sequence
        interrupted = False
        while True:
            for number, kind, body, flags in self._receive():
                if number != sequence:
                    continue
                interrupted |= bool(flags & DUMP_INTERRUPTED)
                if kind in (_DONE, _ERROR):
                    if len(body) >= 4 and (error := _error_of(body, message.what, 0)):
                        raise error
                    if interrupted:
                        raise DumpInterruptedError(message.what, 4)
                    return
                yield kind, body

    def _number(self, messages: Sequence[Message], flags: int) -> list[bytes]:
        return [
            _HEADER.pack(16 + len(m.body), m.kind, REQUEST | flags | m.flags, self._next(), 0)
            + m.body
            + b"\0" * (-len(m.body) % 4)
            for m in messages
        ]

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _acknowledgements(self, messages: Sequence[Message], first: int, offset: int) -> list[NetlinkError]:
        errors = []
        missing = len(messages)
        while missing:
            for sequence, kind, body, _ in self._receive():
                index = sequence - first
                if kind != _ERROR or not 0 <= index < len(messages):
                    continue
                missing -= 1
                if error := _error_of(body, messages[index].what, offset + index):
                    errors.append(error)
        return errors

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, (0, 0))
        except OSError as error:
            raise NetlinkError(f"sending {len(data)} bytes of netlink messages", error.errno or 0) from error

    def _receive(self) -> Iterator[tuple[int, int, bytes, int]]:
        """(sequence, kind, body, flags) of the messages of one datagram."""
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise NetlinkError("waiting for the kernel's netlink answer", error.errno or 110) from error
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield sequence, kind, data[offset + 16 : offset + length], flags
            offset += (length + 3) & ~3


def _error_of(body: bytes, what: str, index: int) -> NetlinkError | None:
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return None
    # struct nlmsgerr without the request's payload (NETLINK_CAP_ACK): code, header, attributes.
    explanation = string(attributes(body[20:]).get(_ERROR_TEXT, b""))
    return NetlinkError(what, -code, index, explanation)
