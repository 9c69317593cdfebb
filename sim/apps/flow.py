"""Flows of the traffic client: a TCP connection or a UDP exchange from its first packet to its end, on one epoll loop."""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

UDP_RETRY_S = 0.2
CHUNK_BYTES = 65_536
LINGER_RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""struct linger {on, 0 s}: close with a reset, and leave no TIME_WAIT behind on a connection that failed."""


class FlowGroup(Protocol):
    """The batch that a flow belongs to, as the flow sees it."""

    hold: bool
    closing: bool
    every_s: float

    def settled_one(self, *, established: bool) -> None: ...
    def ended_one(self) -> None: ...


class Outcome:
    """What became of a flow, as it is written out.

    `started_s` is a time; `established_s`, `answered_s` (the target's name came) and `lost_s` (established, then reset, closed or
    mute) are times, or null.
    `target` is who answered first, `targets` all that ever answered. `error` is null, or why it was never established, or how it was
    lost. `exchanges` counts lines or datagrams that came back, `stall_s` is the longest wait for one, and `alive` says whether the last
    exchange succeeded.
    """

    __slots__ = (
        "alive", "answered_s", "error", "established_s", "exchanges", "lost_s", "stall_s", "started_s", "target", "targets",
    )  # fmt: skip

    def __init__(self) -> None:
        self.started_s = 0.0
        self.established_s: float | None = None
        self.answered_s: float | None = None
        self.lost_s: float | None = None
        self.target: str | None = None
        self.targets: list[str] = []
        self.error: str | None = None
        self.exchanges = 0
        self.stall_s = 0.0
        self.alive = False

    def answered_by(self, name: str) -> None:
        if self.target is None:
            self.target = name
        if name not in self.targets:
            self.targets.append(name)

    def as_json(self, flow: list[Any]) -> dict[str, Any]:
        return {"flow": flow, **{name: getattr(self, name) for name in self.__slots__}}


class Loop:
    """epoll and timers. `now_s` is in seconds since the start."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._start_s = time.monotonic()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0

    @property
    def start_s(self) -> float:
        return self._start_s

    def now_s(self) -> float:
        return time.monotonic() - self._start_s

    def at(self, when_s: float, call: Callable[[], None]) -> None:
        self._made += 1
        heapq.heappush(self._timers, (when_s, self._made, call))

    def run_once(self) -> None:
        wait_s = None if not self._timers else max(0.0, self._timers[0][0] - self.now_s())
        for key, events in self.selector.select(wait_s):
            key.data(events)
        while self._timers and self._timers[0][0] <= self.now_s():
            heapq.heappop(self._timers)[2]()


class Flow:
    """One flow from its first packet to its end. Subclasses speak TCP or UDP."""

    def __init__(self, loop: Loop, batch: FlowGroup, flow: list[Any]) -> None:
        self.loop, self.batch, self.flow = loop, batch, flow
        self.outcome = Outcome()
        self.socket: socket.socket | None = None
        self.settled = False
        """Established and answered, or failed."""
        self.ended = False
        self.asked_s: float | None = None
        """When the exchange began that has not been answered yet."""

    kind = socket.SOCK_STREAM

    def open(self) -> None:
        source, source_port, destination, port, _ = self.flow
        self.outcome.started_s = self.loop.now_s()
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        try:
            self.socket = socket.socket(family, self.kind)
            self.socket.setblocking(False)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind((source, source_port))
            self.begin((destination, port))
        except OSError as error:
            self.fail(error.strerror or str(error))

    def begin(self, destination: tuple[str, int]) -> None:
        raise NotImplementedError

    def ask(self) -> None:
        """Starts one exchange."""
        raise NotImplementedError

    def answered(self) -> None:
        """An exchange came back."""
        now_s = self.loop.now_s()
        if self.asked_s is not None:
            self.outcome.stall_s = max(self.outcome.stall_s, now_s - self.asked_s)
        self.asked_s = None
        self.outcome.exchanges += 1
        self.outcome.alive = True
        if self.batch.closing:
            self.end()

    def settle(self) -> None:
        if not self.settled:
            self.settled = True
            self.batch.settled_one(established=self.outcome.error is None)

    def fail(self, why: str) -> None:
        """Never established, or lost."""
        if self.ended:
            return
        self.outcome.error = why
        self.outcome.alive = False
        if self.outcome.established_s is not None:
            self.outcome.lost_s = self.loop.now_s()
        self.settle()
        self.end()

    def exchange(self) -> None:
        """One exchange every `every_s`, as long as the flow lives."""
        if not self.ended and not self.batch.closing:
            if self.asked_s is None:
                self.asked_s = self.loop.now_s()
                self.outcome.alive = False
                self.ask()
            self.loop.at(self.loop.now_s() + self.batch.every_s, self.exchange)

    def last_exchange(self) -> None:
        if not self.ended:
            if self.asked_s is None:
                self.asked_s = self.loop.now_s()
                self.outcome.alive = False
            self.ask()

    def end(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self.socket is not None:
            if self.socket in self.loop.selector.get_map():
                self.loop.selector.unregister(self.socket)
            if self.outcome.error is not None and self.kind == socket.SOCK_STREAM:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            self.socket.close()
        self.batch.ended_one()


class TcpFlow(Flow):
    """connect, the target's name, then lines that come back, then `quit`."""

    def __init__(self, loop: Loop, batch: FlowGroup, flow: list[Any]) -> None:
        super().__init__(loop, batch, flow)
        self._received = b""

    def begin(self, destination: tuple[str, int]) -> None:
        assert self.socket is not None
        with contextlib.suppress(BlockingIOError):  # under way
            self.socket.connect(destination)
        self.loop.selector.register(self.socket, selectors.EVENT_WRITE, self._connected)

    def _connected(self, _events: int) -> None:
        assert self.socket is not None
        number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self.fail(os.strerror(number))
            return
        self.outcome.established_s = self.loop.now_s()
        self.loop.selector.modify(self.socket, selectors.EVENT_READ, self._readable)

    def _readable(self, _events: int) -> None:
        assert self.socket is not None
        try:
            data = self.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(error.strerror or str(error))
            return
        if not data:
            if self.outcome.answered_s is None or self.batch.hold:
                self.fail("closed by the target")
            else:
                self.end()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            if self.outcome.answered_s is None:
                self._named(line.decode(errors="replace"))
            elif not self.ended:
                self.answered()

    def _named(self, name: str) -> None:
        self.outcome.answered_s = self.loop.now_s()
        self.outcome.answered_by(name)
        self.outcome.alive = True
        self.settle()
        if self.batch.hold:
            self.loop.at(self.loop.now_s() + self.batch.every_s, self.exchange)
        else:
            # The target closes first, so that TIME_WAIT is not on the port that the next batch may want.
            self._send(b"quit\n")

    def ask(self) -> None:
        self._send(b"%d\n" % self.outcome.exchanges)

    def _send(self, data: bytes) -> None:
        assert self.socket is not None
        try:
            self.socket.send(data)
        except BlockingIOError:
            pass  # a full send buffer: the exchange stays unanswered, which is what is measured
        except OSError as error:
            self.fail(error.strerror or str(error))


class UdpFlow(Flow):
    """Datagrams that come back with the target's name; a lost one is sent again every 0.2 s."""

    kind = socket.SOCK_DGRAM

    def begin(self, destination: tuple[str, int]) -> None:
        assert self.socket is not None
        self.socket.connect(destination)
        self.loop.selector.register(self.socket, selectors.EVENT_READ, self._readable)
        self.asked_s = self.loop.now_s()
        self.ask()

    def ask(self) -> None:
        assert self.socket is not None
        try:
            self.socket.send(b"%d\n" % self.outcome.exchanges)
        except OSError as error:
            self._refused(error)
        self.loop.at(self.loop.now_s() + UDP_RETRY_S, self._again)

    def _again(self) -> None:
        if not self.ended and self.asked_s is not None:
            self.ask()

    def _refused(self, error: OSError) -> None:
        """An ICMP error: before the first answer it means that there is no service; later it is one lost exchange among others."""
        if self.outcome.answered_s is None:
            self.fail(error.strerror or str(error))

    def _readable(self, _events: int) -> None:
        assert self.socket is not None
        try:
            data = self.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._refused(error)
            return
        name, _, number = data.decode(errors="replace").partition("\n")
        self.outcome.answered_by(name)
        first = self.outcome.answered_s is None
        if first:
            self.outcome.established_s = self.outcome.answered_s = self.loop.now_s()
        if self.asked_s is not None and number.strip() == str(self.outcome.exchanges):
            self.answered()
        if first and not self.ended:
            self.settle()
            if self.batch.hold:
                self.loop.at(self.loop.now_s() + self.batch.every_s, self.exchange)
            else:
                self.end()
