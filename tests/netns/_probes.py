"""Datagrams of which none is sent twice: nobody makes up for one that is lost, as TCP does, and so a gap of some milliseconds shows."""

from __future__ import annotations

import itertools
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from core.kube import Json
from scenarios.spec import Mode
from sim.net.namespaces import within
from tests.netns._world import ROUTER, UDP, World, targets_of

PORTS = 64
EVERY_S = 0.002
ANSWER_S = 5.0
"""What the last of them may take."""


class Probes:
    """One datagram every 2 ms, each from the next of 64 ports. A port whose last one was not answered sends no more, so that no queue
    overflows however slow the machine is."""

    def __init__(self, world: World) -> None:
        self.tuples = world.five_tuples(PORTS, to=UDP, mode=Mode.SHORT)
        self.answered_by: list[set[str]] = [set() for _ in range(PORTS)]
        self.waiting: dict[int, str] = {}
        """What became of the last datagram of each port to which nothing came back."""
        self.sent = 0
        self._selector = selectors.DefaultSelector()
        self._sockets = within(world.mininet.network.host(ROUTER).namespace, lambda: list(self._open()))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes")

    def _open(self) -> Iterator[socket.socket]:
        tuples = self.tuples
        for port in range(PORTS):
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setblocking(False)
            made.bind((str(tuples.sources[tuples.source[port]]), int(tuples.source_port[port])))
            made.connect((str(tuples.destination), tuples.destination_port))
            self._selector.register(made, selectors.EVENT_READ, port)
            yield made

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the answers that are under way."""
        self._stop.set()
        self._thread.join()
        self._selector.close()
        for each in self._sockets:
            each.close()

    def _run(self) -> None:
        due_s = time.monotonic()
        for port in itertools.cycle(range(PORTS)):
            if self._stop.is_set():
                break
            if port not in self.waiting:
                self._send(port)
            due_s = max(due_s + EVERY_S, time.monotonic())
            self._hear(due_s)
        until_s = time.monotonic() + ANSWER_S
        while self.waiting and time.monotonic() < until_s:
            self._hear(min(until_s, time.monotonic() + EVERY_S))

    def _send(self, port: int) -> None:
        self.sent += 1
        self.waiting[port] = f"datagram {self.sent} was not answered"
        try:
            self._sockets[port].send(b"%d" % self.sent)
        except OSError as error:
            self.waiting[port] = f"datagram {self.sent}: {error}"

    def _hear(self, until_s: float) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                try:
                    name = self._sockets[key.data].recv(65_536).partition(b"\n")[0].decode()
                except OSError as error:
                    self.waiting[key.data] = f"{self.waiting.get(key.data, 'after all')}: {error}"
                else:
                    self.answered_by[key.data].add(name)
                    self.waiting.pop(key.data, None)


@contextmanager
def probing(world: World, *states: Iterable[Json]) -> Iterator[None]:
    """What happens inside loses no datagram, and leads none to another target than the core says: by the objects as they are, or, where
    `states` of them are given, by one of those."""
    with unlost(world) as probes:
        allowed = np.array([targets_of(s, probes.tuples) for s in states or [world.mininet.observe().objects]])
        yield
    wrong = {port: names for port, names in enumerate(probes.answered_by) if not names <= set(allowed[:, port])}
    assert not wrong, f"answered by {wrong}, allowed are {allowed[:, list(wrong)]}"


@contextmanager
def unlost(world: World) -> Iterator[Probes]:
    """What happens inside loses no datagram, wherever it leads them."""
    with Probes(world) as probes:
        world.wait_for(lambda: "" if probes.sent >= 2 * PORTS else f"only {probes.sent} datagrams were answered")
        yield probes
    waiting = probes.waiting
    assert not waiting, f"{len(waiting)} of {probes.sent} datagrams are lost: {list(waiting.items())[:5]}"
