"""Sessions of fixed duration: when a router outside learns, and when it forgets."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import numpy as np

from core.lb.placement import FiveTuples
from core.model import Bfd, Bgp, L4Protocol, ObjectRef
from core.ports import Peer
from sim.des.kernel import US, Kernel
from sim.des.latencies import Latencies
from sim.des.routing import FixedRouting, HashThreshold, Neighbour, OutsideRouter, Rib, Session

BFD = Bfd(min_tx_ms=300, min_rx_ms=300, multiplier=5)
ROUTER = OutsideRouter(
    name="r",
    bridge="eth0.200",
    addresses=(ip_interface("169.254.100.150/24"),),
    asn=4248829953,
    gateway_asn=8103,
    port=10179,
    hold_time_s=3,
    bfd=BFD,
)
BGP = Bgp(local_asn=8103, remote_asn=4248829953, local_port=10179, remote_port=10179, hold_time_s=3, bfd=BFD)
VIP = ip_network("20.0.0.1/32")
HERE = ip_address("169.254.100.1")
TIMES = Latencies()


class Lab:
    """A router outside, and sessions to it."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.changes = 0
        self.rib = Rib(ROUTER, self.changed)
        self.routing = FixedRouting(self.kernel, TIMES)

    def changed(self) -> None:
        self.changes += 1

    def open(self, routing: Bgp = BGP, address: str = "169.254.100.1") -> Session:
        peer = Peer(
            name="r",
            router=ObjectRef(kind="GatewayRouter", namespace="default", name="r"),
            address=ip_address("169.254.100.150"),
            interface="vlan-200",
            routing=routing,
        )
        return self.routing.open(Neighbour(address=ip_address(address), peer=peer), self.rib, lambda: None)

    def run(self, duration_s: float) -> None:
        end_us = self.kernel.now_us + round(duration_s * US)
        while self.kernel.step(end_us):
            pass


def test_a_session_comes_up_then_bfd_and_the_route() -> None:
    lab = Lab()
    session = lab.open()
    session.announce(frozenset([VIP]))
    lab.run(TIMES.bgp_establish_s)
    assert (session.established, lab.rib.next_hops(VIP.network_address)) == (True, ())
    lab.run(TIMES.bgp_update_s)
    assert lab.rib.next_hops(VIP.network_address) == (HERE,)
    assert not lab.rib.bfd_up
    lab.run(TIMES.bfd_up_s)
    assert set(lab.rib.bfd_up) == set(lab.rib.established) == {HERE}
    assert lab.kernel.routing_under_way == lab.kernel.under_way == 0


def test_what_both_sides_do_not_agree_on_never_comes_up() -> None:
    for wrong in (
        replace(BGP, local_asn=8104),
        replace(BGP, remote_asn=65000),
        replace(BGP, remote_port=179),
    ):
        lab = Lab()
        session = lab.open(wrong)
        lab.run(10)
        assert not session.established
        assert lab.kernel.routing_under_way == 0


def test_a_withdrawal_and_an_end_take_their_time() -> None:
    lab = Lab()
    session, other = lab.open(), lab.open(address="169.254.100.2")
    for one in (session, other):
        one.announce(frozenset([VIP]))
    lab.run(2)
    assert lab.rib.next_hops(VIP.network_address) == (HERE, ip_address("169.254.100.2"))
    session.announce(frozenset())
    assert len(lab.rib.over(VIP)) == 2
    lab.run(TIMES.bgp_update_s)
    assert lab.rib.next_hops(VIP.network_address) == (ip_address("169.254.100.2"),)
    other.close()
    assert not other.established
    lab.run(TIMES.bgp_down_s)
    assert (lab.rib.prefixes(), set(lab.rib.established)) == (frozenset(), {HERE})


def test_a_session_that_ends_before_its_time_never_was() -> None:
    lab = Lab()
    session = lab.open()
    session.announce(frozenset([VIP]))
    session.close()
    lab.run(5)
    assert not lab.rib.established
    assert not lab.rib.prefixes()


def test_the_longest_prefix_wins() -> None:
    lab = Lab()
    lab.rib.learn(HERE, frozenset([ip_network("20.0.0.0/24")]))
    lab.rib.learn(ip_address("169.254.100.2"), frozenset([VIP]))
    assert lab.rib.next_hops(VIP.network_address) == (ip_address("169.254.100.2"),)
    assert lab.rib.next_hops(ip_address("20.0.0.9")) == (HERE,)
    assert lab.rib.next_hops(ip_address("2000::1")) == ()


def test_hash_threshold_spreads_evenly_and_keeps_its_choice() -> None:
    n = 40_000
    tuples = FiveTuples(
        protocol=L4Protocol.TCP,
        sources=(ip_address("200.100.0.100"),),
        source=np.zeros(n, np.int32),
        source_port=(np.arange(n) + 20_000).astype(np.uint16),
        destination=ip_address("20.0.0.1"),
        destination_port=4000,
    )
    chosen = HashThreshold().choose(tuples, 4)
    assert (np.abs(np.bincount(chosen, minlength=4) - n / 4) < 0.03 * n).all()
    assert (chosen == HashThreshold().choose(tuples, 4)).all()
    # Each next hop has an equal part of the range, so that the first of two is the first two of four.
    assert ((chosen < 2) == (HashThreshold().choose(tuples, 2) == 0)).all()
