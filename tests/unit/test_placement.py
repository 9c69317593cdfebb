"""Placement of many connections at once: the same as the classifier, one by one."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import numpy as np

from core.lb.classifier import decide
from core.lb.forwarding import Backend, Flow, Forwarding, Pool, Target
from core.lb.placement import DROPPED, REJECTED, FiveTuples, place
from core.model import ANY_PORT, ByteMatch, L4Protocol, PortRange

TARGETS = tuple(Target(service="d/s", slot=i, address=ip_address(f"10.0.0.{i}"), pod=f"p{i}") for i in range(5))


def flow(name: str, **changes: object) -> Flow:
    values: dict[str, object] = {
        "name": name,
        "version": 4,
        "pool": name,
        "priority": 1,
        "protocols": (L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP),
        "destinations": (ip_network("20.0.0.0/30"),),
        "sources": (),
        "destination_ports": (PortRange(first=4000, last=4001),),
        "source_ports": (ANY_PORT,),
    }
    return Flow(**(values | changes))  # type: ignore[arg-type] # keyword arguments of a dictionary


def pool(name: str, *backends: tuple[int, tuple[Target, ...]]) -> Pool:
    return Pool(
        name=name,
        version=4,
        backends=tuple(Backend(service="d/s", weight=weight, targets=targets) for weight, targets in backends),
        table_size=251,
    )


FORWARDING = Forwarding(
    flows=(
        flow("matched", byte_matches=(ByteMatch(protocol=L4Protocol.TCP, offset=0, length=2, mask=0x7, value=3),)),
        flow("ranged", source_ports=(PortRange(first=1000, last=1099), PortRange(first=1200, last=1300))),
        flow("sourced", sources=(ip_network("200.0.0.0/31"),), protocols=(L4Protocol.TCP,)),
        flow("udp", protocols=(L4Protocol.UDP, L4Protocol.SCTP)),
    ),
    pools=(
        pool("matched", (1, TARGETS[:2])),
        pool("ranged", (3, TARGETS[:3]), (1, ())),
        pool("sourced", (1, TARGETS[2:]), (2, TARGETS[:1])),
        pool("udp"),
    ),
)


def tuples(protocol: L4Protocol, destination: str = "20.0.0.1") -> FiveTuples:
    n = 2000
    return FiveTuples(
        protocol=protocol,
        sources=tuple(ip_address(f"200.0.0.{i}") for i in range(4)),
        source=(np.arange(n) % 4).astype(np.int32),
        source_port=np.linspace(1, 2000, n).astype(np.uint16),
        destination=ip_address(destination),
        destination_port=4000,
    )


def test_every_connection_goes_where_the_classifier_says() -> None:
    fates = set()
    for protocol in L4Protocol:
        some = tuples(protocol)
        placement = place(FORWARDING, some)
        for i in range(len(some)):
            decision = decide(FORWARDING, some.packet(i))
            index = int(placement.target[i])
            if decision.flow is None:
                assert index == DROPPED
            elif decision.target is None:
                assert index == REJECTED
            else:
                assert placement.targets[index] == decision.target
            fates.add(min(index, 0))
    assert fates == {DROPPED, REJECTED, 0}


def test_a_destination_outside_is_dropped_whatever_the_ports() -> None:
    placement = place(FORWARDING, tuples(L4Protocol.TCP, "20.0.0.4"))
    assert set(placement.target.tolist()) == {DROPPED}
    assert placement.targets == ()
