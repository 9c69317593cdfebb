"""What the load balancer tells the router of its Pod."""

from __future__ import annotations

import queue
import threading
from ipaddress import ip_network

import pytest

from core.errors import InputError
from core.model import Prefix
from live.agent.programmed import Programmed, ProgrammedFollower, Vips, serve_programmed
from live.agent.serve import HttpServer

DEADLINE_S = 10.0
A, B = ip_network("20.0.0.1/32"), ip_network("2000::/64")


def vips(*announced: Prefix) -> Vips:
    return Vips(announced=announced, vips=(A, B))


def publish(programmed: Programmed, *announced: Prefix) -> None:
    programmed.publish(announced=announced, vips=[A, B])


def serve(programmed: Programmed, port: int = 0) -> HttpServer:
    return serve_programmed(programmed, f"127.0.0.1:{port}")


class Follower:
    """A follower and the values that it reports, in order."""

    def __init__(self, port: int) -> None:
        self.values: queue.Queue[Vips | None] = queue.Queue()
        self._made = threading.Event()
        self.inner = ProgrammedFollower(self._changed, f"127.0.0.1:{port}")
        self._made.set()

    def _changed(self) -> None:
        assert self._made.wait(DEADLINE_S)
        self.values.put(self.inner.vips)

    def next(self) -> Vips | None:
        return self.values.get(timeout=DEADLINE_S)


def test_changes_are_followed_and_repetitions_are_none() -> None:
    programmed = Programmed()
    server = serve(programmed)
    follower = Follower(server.port)
    try:
        assert follower.inner.vips is None
        publish(programmed, A)
        assert follower.next() == vips(A)
        publish(programmed, A)
        publish(programmed, A, B)
        assert follower.next() == vips(A, B)
        publish(programmed)
        assert follower.next() == vips()
        assert follower.inner.connected
        assert follower.values.empty()
    finally:
        follower.inner.close()
        server.close()


def test_the_last_value_holds_while_the_load_balancer_restarts() -> None:
    first = Programmed()
    publish(first, A, B)
    server = serve(first)
    port = server.port
    follower = Follower(port)
    try:
        assert follower.next() == vips(A, B)
        server.close()
        second = Programmed()
        server = serve(second, port)
        assert follower.inner.vips == vips(A, B)
        publish(second, B)
        assert follower.next() == vips(B)
    finally:
        follower.inner.close()
        server.close()


def test_what_is_no_longer_usable_is_withdrawn_and_nothing_else_changes() -> None:
    programmed = Programmed()
    programmed.retain([])
    assert programmed.wait(None, 0.0) is None
    publish(programmed, A, B)
    programmed.retain([B])
    known = programmed.wait(None, 0.0)
    assert known is not None
    assert known[1] == vips(B)


def test_a_load_balancer_that_knows_nothing_yet_is_no_empty_answer() -> None:
    programmed = Programmed()
    assert programmed.wait(None, 0.0) is None
    server = serve(programmed)
    follower = Follower(server.port)
    try:
        assert follower.inner.vips is None
        publish(programmed)
        assert follower.next() == vips()
    finally:
        follower.inner.close()
        server.close()


def test_versions_of_a_new_process_are_new() -> None:
    old = Programmed()
    publish(old, A)
    known = old.wait(None, 0.0)
    assert known is not None
    new = Programmed()
    publish(new, B)
    again = new.wait(known[0], 0.0)
    assert again is not None
    assert again[0] > known[0]
    assert again[1] == vips(B)


@pytest.mark.parametrize("address", ["0.0.0.0:9081", ":9081", "10.0.0.1:9081", "localhost:9081"])
def test_it_stays_inside_the_pod(address: str) -> None:
    with pytest.raises(InputError, match="inside the Pod"):
        serve_programmed(Programmed(), address)
