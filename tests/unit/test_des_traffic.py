"""Connections over gateways that stand still or change: established, refused, sent again, lost."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network

import numpy as np

from core.lb.classifier import decide
from core.lb.forwarding import Backend, Flow, Forwarding, Pool, Target
from core.lb.placement import FiveTuples
from core.model import ANY_PORT, Attachment, Bfd, L4Protocol, PortRange
from sim.cluster.multus import PodInterface
from sim.des.fabric import DROPPED, NO_ROUTE, NOBODY, REFUSED, Fabric, PodPlace
from sim.des.kernel import US, Kernel
from sim.des.latencies import Latencies
from sim.des.routing import OutsideRouter
from sim.des.traffic import SYN_RETRIES_S, Drive

VIP = ip_network("20.0.0.1/32")
TIMES = Latencies()
OUTSIDE = OutsideRouter(
    name="r",
    bridge="outside",
    addresses=(ip_interface("169.254.100.150/24"),),
    asn=1,
    gateway_asn=2,
    port=179,
    hold_time_s=3,
    bfd=Bfd(min_tx_ms=300, min_rx_ms=300, multiplier=5),
)
N = 2000


def forwarding(slots: range, *, rejected: int = 0) -> Forwarding:
    """Targets in these slots; `rejected`: the weight of a backend without any, beside theirs of 1."""
    targets = tuple(Target(service="d/s", slot=i, address=ip_address(f"10.0.0.{i + 1}"), pod=f"t{i}") for i in slots)
    backends = (
        Backend(service="d/s", weight=1, targets=targets),
        Backend(service="d/none", weight=rejected, targets=()),
    )
    flow = Flow(
        name="f",
        version=4,
        pool="f",
        priority=1,
        protocols=(L4Protocol.TCP, L4Protocol.UDP),
        destinations=(VIP,),
        sources=(),
        destination_ports=(PortRange(first=4000, last=4100),),
        source_ports=(ANY_PORT,),
    )
    return Forwarding(flows=(flow,), pools=(Pool(name="f", version=4, backends=backends, table_size=1009),))


def tuples(protocol: L4Protocol = L4Protocol.TCP, port: int = 4000) -> FiveTuples:
    return FiveTuples(
        protocol=protocol,
        sources=(ip_address("200.100.0.100"),),
        source=np.zeros(N, np.int32),
        source_port=(np.arange(N) + 20_000).astype(np.uint16),
        destination=VIP.network_address,
        destination_port=port,
    )


@dataclass(slots=True, eq=False)
class Plane:
    forwarding: Forwarding
    out: bool = True

    def way_out(self, version: int) -> bool:
        return self.out and version == 4


class Lab:
    """Two gateway pods and eight targets, all programmed, attached and announced."""

    def __init__(self, first: Forwarding) -> None:
        self.kernel = Kernel()
        self.fabric = Fabric(self.kernel, [OUTSIDE])
        self.planes = [Plane(first), Plane(first)]
        gateways = [self.place(f"g{i}", f"169.254.100.{i + 1}") for i in range(2)]
        for place, plane in zip(gateways, self.planes, strict=True):
            self.fabric.add_plane(place, plane)
            self.fabric.ribs["r"].learn(place.addresses[0], frozenset([VIP]))
        hops = tuple(place.addresses[0] for place in gateways)
        self.targets = [self.place(f"t{i}", f"10.0.0.{i + 1}") for i in range(8)]
        for target in self.targets:
            target.attachments = (Attachment(vips=(VIP,), next_hops=hops),)
            target.listening = frozenset([(L4Protocol.TCP, 4000), (L4Protocol.UDP, 4100)])

    def place(self, name: str, address: str) -> PodPlace:
        interface = PodInterface(
            network="d/n", bridge="n", interface="net1", addresses=(ip_interface(f"{address}/24"),)
        )
        place = PodPlace(name=name, namespace="d", uid=name, node="node-1", interfaces=(interface,))
        self.fabric.add(place)
        return place

    def drive(self, flows: FiveTuples, *, stays_open: bool = True, timeout_s: float = 5.0) -> Drive:
        return Drive(
            self.kernel,
            self.fabric,
            TIMES,
            router="r",
            tuples=flows,
            stays_open=stays_open,
            timeout_s=timeout_s,
        )

    def run(self, duration_s: float) -> None:
        end_us = self.kernel.now_us + round(duration_s * US)
        while self.kernel.step(end_us):
            pass

    def program(self, *tables: Forwarding) -> None:
        for plane, table in zip(self.planes, tables, strict=True):
            plane.forwarding = table
        self.fabric.changed.fire()


def decided(table: Forwarding, flows: FiveTuples) -> list[str]:
    """The Pod of each connection, by the classifier, one by one."""
    targets = (decide(table, flows.packet(i)).target for i in range(N))
    return [target.pod if target is not None else "" for target in targets]


def test_each_connection_lands_where_the_classifier_says() -> None:
    table = forwarding(range(8))
    lab = Lab(table)
    drive = lab.drive(tuples())
    lab.run(1)
    assert drive.over
    result = drive.finish()
    assert [lab.fabric.names[i] for i in result.answered_by] == decided(table, tuples())
    assert np.allclose(result.established_s - result.started_s, TIMES.connect_s)
    assert np.isnan(result.lost_s).all()


def test_exactly_the_connections_whose_target_changes_are_lost() -> None:
    before, after = forwarding(range(8)), forwarding(range(5))
    lab = Lab(before)
    drive = lab.drive(tuples())
    lab.run(1)
    lab.program(after, after)
    lab.run(1)
    lost = ~np.isnan(drive.finish().lost_s)
    pairs = zip(decided(before, tuples()), decided(after, tuples()), strict=True)
    assert lost.tolist() == [one != other for one, other in pairs]
    assert 0 < lost.sum() < N


def test_a_table_that_one_gateway_pod_has_alone_breaks_only_what_goes_through_it() -> None:
    before, after = forwarding(range(8)), forwarding(range(4))
    lab = Lab(before)
    drive = lab.drive(tuples())
    lab.run(1)
    lab.program(before, after)
    lab.run(1)
    lost = ~np.isnan(drive.finish().lost_s)
    moved = np.array(decided(before, tuples())) != np.array(decided(after, tuples()))
    second = lab.fabric.ecmp.choose(tuples(), 2) == 1
    assert (lost == (moved & second)).all()


def test_a_target_that_ends_takes_its_connections_with_it() -> None:
    table = forwarding(range(8))
    lab = Lab(table)
    drive = lab.drive(tuples())
    lab.run(1)
    lab.targets[3].listening = frozenset()
    lab.fabric.changed.fire()
    lab.run(1)
    lost = ~np.isnan(drive.finish().lost_s)
    assert lost.tolist() == [pod == "t3" for pod in decided(table, tuples())]


def test_short_connections_end_before_the_next_change() -> None:
    lab = Lab(forwarding(range(8)))
    drive = lab.drive(tuples(), stays_open=False)
    lab.run(1)
    assert drive.over
    lab.program(forwarding(range(2)), forwarding(range(2)))
    lab.run(1)
    assert np.isnan(drive.finish().lost_s).all()


def test_a_route_without_backends_refuses_at_once() -> None:
    lab = Lab(forwarding(range(0), rejected=1))
    drive = lab.drive(tuples())
    lab.run(0.01)
    assert drive.over
    result = drive.finish()
    assert (result.answered_by == REFUSED).all()
    assert np.isnan(result.established_s).all()


def test_a_share_without_targets_is_refused() -> None:
    table = forwarding(range(8), rejected=1)
    lab = Lab(table)
    drive = lab.drive(tuples())
    lab.run(1)
    refused = drive.finish().answered_by == REFUSED
    assert refused.tolist() == [pod == "" for pod in decided(table, tuples())]
    assert 0.4 < refused.mean() < 0.6


def test_what_no_route_matches_times_out() -> None:
    lab = Lab(forwarding(range(8)))
    drive = lab.drive(tuples(port=5000), timeout_s=2.0)
    lab.run(1.9)
    assert (drive.over, drive.waiting) == (False, N)
    lab.run(1)
    assert drive.over
    assert (drive.finish().answered_by == DROPPED).all()


def test_an_address_that_nobody_announces_times_out() -> None:
    lab = Lab(forwarding(range(8)))
    for hop in lab.fabric.ribs["r"].over(VIP):
        lab.fabric.ribs["r"].learn(hop, frozenset())
    drive = lab.drive(tuples())
    lab.run(6)
    assert (drive.finish().answered_by == NO_ROUTE).all()


def test_a_syn_is_sent_again() -> None:
    lab = Lab(forwarding(range(8)))
    for plane in lab.planes:
        plane.out = False
    drive = lab.drive(tuples())
    lab.run(0.5)
    assert (drive.over, drive.waiting) == (False, N)
    for plane in lab.planes:
        plane.out = True
    lab.fabric.changed.fire()
    lab.run(1)
    assert drive.over
    result = drive.finish()
    assert np.allclose(result.established_s - result.started_s, SYN_RETRIES_S[0] + TIMES.connect_s)


def test_a_target_without_a_way_back_does_not_answer() -> None:
    lab = Lab(forwarding(range(8)))
    lab.targets[0].attachments = ()
    drive = lab.drive(tuples(), timeout_s=0.5)
    lab.run(1)
    silent = drive.finish().answered_by == NOBODY
    assert silent.tolist() == [pod == "t0" for pod in decided(forwarding(range(8)), tuples())]


def test_datagrams_find_the_same_targets() -> None:
    table = forwarding(range(8))
    lab = Lab(table)
    flows = tuples(L4Protocol.UDP, port=4100)
    drive = lab.drive(flows, stays_open=False)
    lab.run(1)
    assert [lab.fabric.names[i] for i in drive.finish().answered_by] == decided(table, flows)
