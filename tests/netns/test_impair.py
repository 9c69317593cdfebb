"""Wires that go wrong, and what the hosts on them notice."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from ipaddress import ip_interface

import pytest

from core.errors import MachineError
from sim.net import capabilities
from sim.net.impair import Impairment, Impairments
from sim.net.namespaces import run_in, within
from sim.net.topology import Attachment, VirtualNetwork

pytestmark = pytest.mark.sandbox
BURSTS, BURST = 20, 100


class Pair:
    """Two hosts on one wire, with a UDP socket each."""

    def __init__(self) -> None:
        self.network = VirtualNetwork()
        self.network.start()
        self.impairments = Impairments(self.network)
        self.sockets = [self._host(number) for number in (1, 2)]

    def _host(self, number: int) -> socket.socket:
        address = ip_interface(f"192.0.2.{number}/24")
        attachment = Attachment(network="wire", interface="net1", addresses=(address,))
        host = self.network.add_host(f"h{number}", [attachment])

        def bound() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            made.bind((str(address.ip), 4100))
            return made

        return within(host.namespace, bound)

    def delivered(self, packets: int, bytes_each: int = 10, *, silence_s: float = 0.3) -> int:
        """How many of h1's datagrams reach h2: all, or those that come before so much silence."""
        here, there = self.sockets
        there.settimeout(silence_s)
        for _ in range(packets):
            here.sendto(b"x" * bytes_each, ("192.0.2.2", 4100))
        count = 0
        try:
            while count < packets:
                there.recv(2048)
                count += 1
        except TimeoutError:
            pass
        return count

    def all_delivered(self, packets: int, bytes_each: int = 10) -> bool:
        """Whether all of them reach h2, however busy the machine is."""
        return self.delivered(packets, bytes_each, silence_s=10.0) == packets

    def carrier(self, host: str) -> str:
        return run_in(self.network.host(host).namespace, ["ip", "-br", "link", "show", "net1"])


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    for each in pair.sockets:
        each.close()
    pair.network.stop()


def test_a_blackhole_drops_all_and_tells_nobody(pair: Pair) -> None:
    assert pair.all_delivered(1)
    pair.impairments.blackhole("h2")
    assert pair.delivered(5) == 0
    assert "LOWER_UP" in pair.carrier("h2")
    pair.impairments.mend("h2")
    assert pair.all_delivered(5)


def test_a_cut_is_seen_by_the_host_and_can_be_mended(pair: Pair) -> None:
    pair.impairments.cut("h2", "net1")
    assert "NO-CARRIER" in pair.carrier("h2")
    assert pair.delivered(5) == 0
    pair.impairments.mend("h2")
    deadline_s = time.monotonic() + 5
    while pair.delivered(1) == 0:
        assert time.monotonic() < deadline_s
    assert "LOWER_UP" in pair.carrier("h2")


def test_loss_drops_its_share(pair: Pair) -> None:
    assert pair.all_delivered(1)  # the neighbor's MAC is known from here on: nothing is dropped while ARP is under way
    pair.impairments.set("h2", "net1", Impairment(loss=0.25))
    # in bursts that every queue on the way holds, so that a busy machine drops none of its own
    share = sum(pair.delivered(BURST, silence_s=0.2) for _ in range(BURSTS)) / (BURSTS * BURST)
    assert 0.65 < share < 0.85  # ten standard deviations of a binomial of 2000 draws are 0.1
    pair.impairments.mend("h2", "net1")
    assert pair.all_delivered(200)


def test_impairments_of_one_bridge_do_not_forget_each_other(pair: Pair) -> None:
    assert pair.all_delivered(1)  # the neighbor's MAC is known from here on: no ARP retry has to be waited for
    pair.impairments.blackhole("h1")
    pair.impairments.blackhole("h2")
    pair.impairments.mend("h2")
    assert pair.delivered(5) == 0
    pair.impairments.mend("h1")
    assert pair.all_delivered(5)


def test_a_rate_limits_what_gets_through(pair: Pair) -> None:
    capabilities.require("tbf")
    assert pair.all_delivered(200, bytes_each=1000)
    pair.impairments.set("h2", "net1", Impairment(rate_bit_s=1_000_000))
    assert pair.delivered(200, bytes_each=1000) < 100  # burst and queue hold about 40 of them
    pair.impairments.mend("h2")
    assert pair.all_delivered(200, bytes_each=1000)


def test_delay_works_or_says_what_is_missing(pair: Pair) -> None:
    if not capabilities.probe("netem").available:
        with pytest.raises(MachineError, match="netem"):
            pair.impairments.set("h2", "net1", Impairment(delay_ms=20))
        return
    pair.impairments.set("h2", "net1", Impairment(delay_ms=20))
    began_s = time.monotonic()
    assert pair.all_delivered(1)
    assert time.monotonic() - began_s > 0.02


@pytest.mark.parametrize("bad", [{"loss": 1.5}, {"loss": -0.1}, {"rate_bit_s": 0}, {"delay_ms": -1.0}])
def test_impossible_impairments_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Impairment(**bad)  # type: ignore[arg-type]  # wrong values are the point
