"""The index over flows decides what the classifier decides."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from core.lb.classifier import Packet, classify, decide, matches
from core.lb.forwarding import Backend, Flow, Forwarding, Pool, Target
from core.lb.index import SHORT, Classifier
from core.model import L4Protocol, PortRange
from tests.property._flows import flow_lists, packets


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_index_decides_as_the_classifier(data: st.DataObject) -> None:
    flows = data.draw(flow_lists())
    forwarding = Forwarding(flows=flows)
    index = Classifier(forwarding)
    for version in (4, 6):
        for packet in data.draw(st.lists(packets(version), min_size=8, max_size=8)):
            assert index.classify(packet) == classify(forwarding, packet)
            near = [flow for flow in flows if matches(_only_destinations(flow), replace(packet, protocol=None))]
            assert index.near(packet) == near


def _only_destinations(flow: Flow) -> Flow:
    return replace(flow, sources=())


def test_many_flows_of_one_destination_by_their_ports() -> None:
    draw = random.Random(4)
    flows = tuple(_flow(number, draw) for number in range(20 * SHORT))
    target = Target(service="default/service", slot=0, address=ip_address("10.0.0.1"), pod="pod")
    pool = Pool(
        name="pool",
        version=4,
        backends=(
            Backend(service="default/service", weight=1, targets=(target,)),
            Backend(service="x", weight=1, targets=()),
        ),
        table_size=1009,
    )
    forwarding = Forwarding(flows=flows, pools=(pool,))
    index = Classifier(forwarding)
    found = set()
    for _ in range(600):
        packet = Packet(
            source=ip_address("200.1.0.1"),
            destination=ip_address("20.0.0.1"),
            protocol=draw.choice((L4Protocol.TCP, L4Protocol.UDP, None)),
            source_port=draw.randrange(65536),
            destination_port=draw.randrange(500),
        )
        decision = index.decide(packet)
        assert decision == decide(forwarding, packet)
        found.add(decision.flow.name if decision.flow else "")
    assert len(found) > SHORT


def _flow(number: int, draw: random.Random) -> Flow:
    ranges = []
    for _ in range(draw.randint(1, 3)):
        first = draw.randrange(500)
        ranges.append(PortRange(first=first, last=min(first + draw.choice((0, 0, 1, 30)), 65535)))
    return Flow(
        name=f"flow{number}",
        version=4,
        pool="pool",
        priority=-number,
        protocols=(L4Protocol.TCP,),
        destinations=(ip_network("20.0.0.1/32"),),
        sources=(),
        destination_ports=tuple(ranges),
        source_ports=(PortRange(first=0, last=65535),),
    )
