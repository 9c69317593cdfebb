"""Pools, tables and the classifier: what a packet's fate is."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import numpy as np

from core.lb.classifier import Packet, classify, decide
from core.lb.forwarding import REJECT, Backend, Flow, Forwarding, Pool, Target, pool_table
from core.model import ANY_PORT, ByteMatch, L4Protocol, PortRange

TCP, UDP, SCTP = L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP


def backend(service: str, weight: int, slots: list[int]) -> Backend:
    return Backend(
        service=service,
        weight=weight,
        targets=tuple(
            Target(service=service, slot=s, address=ip_address(f"10.0.0.{s + 1}"), pod=f"{service}-{s}") for s in slots
        ),
    )


def flow(name: str = "f", **fields: object) -> Flow:
    base = Flow(
        name=name,
        version=4,
        pool="p",
        priority=1,
        protocols=(TCP,),
        destinations=(ip_network("20.0.0.1/32"),),
        sources=(),
        destination_ports=(PortRange(first=4000, last=4000),),
        source_ports=(ANY_PORT,),
    )
    return replace(base, **fields)  # type: ignore[arg-type]  # fields are those of Flow; replace() checks their names


def packet(**fields: object) -> Packet:
    base = Packet(
        source=ip_address("200.100.0.100"),
        destination=ip_address("20.0.0.1"),
        protocol=TCP,
        source_port=40000,
        destination_port=4000,
    )
    return replace(base, **fields)  # type: ignore[arg-type]  # fields are those of Packet


def pool(*backends: Backend) -> Pool:
    return Pool(name="p", version=4, backends=backends)


def test_a_pool_without_targets_rejects_everything() -> None:
    assert (pool_table(pool()) == REJECT).all()
    assert (pool_table(pool(backend("a", 1, []))) == REJECT).all()
    assert (pool_table(pool(backend("a", 0, [0, 1]))) == REJECT).all()


def test_a_missing_backend_rejects_its_share() -> None:
    table = pool_table(pool(backend("a", 1, [0, 1]), backend("gone", 4, [])))
    assert abs((table == REJECT).mean() - 0.8) < 1e-4


def test_a_change_in_one_backend_moves_no_flow_of_another() -> None:
    before = pool_table(pool(backend("a", 3, [0, 1, 2]), backend("b", 1, [0, 1])))
    after = pool_table(pool(backend("a", 3, [0, 2]), backend("b", 1, [0, 1])))
    of_b = before >= 3
    assert ((after >= 2) == of_b).all()
    assert (after[of_b] + 1 == before[of_b]).all()


def test_shares_follow_weights_whatever_the_number_of_targets() -> None:
    table = pool_table(pool(backend("a", 1, list(range(9))), backend("b", 1, [0])))
    assert abs((table == 9).mean() - 0.5) < 1e-4
    assert np.bincount(table[table < 9]).max() < 1.1 * (table < 9).sum() / 9


def test_the_first_flow_that_matches_wins() -> None:
    flows = (flow("first", source_ports=(PortRange(first=1, last=100),)), flow("second"))
    forwarding = Forwarding(flows=flows, pools=(pool(backend("a", 1, [0])),))
    assert classify(forwarding, packet()) is flows[1]
    assert classify(forwarding, packet(source_port=100)) is flows[0]


def test_every_dimension_must_contain_the_packet() -> None:
    one = flow(sources=(ip_network("200.0.0.0/8"),), byte_matches=())
    forwarding = Forwarding(flows=(one,), pools=(pool(backend("a", 1, [0])),))
    assert decide(forwarding, packet()).target is not None
    for other in (
        packet(destination=ip_address("20.0.0.2")),
        packet(source=ip_address("9.9.9.9")),
        packet(protocol=UDP),
        packet(destination_port=4001),
        packet(destination=ip_address("2000::1"), source=ip_address("2000::2")),
    ):
        assert decide(forwarding, other).flow is None


def test_an_echo_goes_by_addresses_alone() -> None:
    one = flow(byte_matches=(ByteMatch(protocol=TCP, offset=2, length=2, mask=0xFFFF, value=1),))
    forwarding = Forwarding(flows=(one,), pools=(pool(backend("a", 1, [0, 1])),))
    assert decide(forwarding, packet()).flow is None
    assert decide(forwarding, packet(protocol=None)).target is not None


def test_byte_matches_read_the_header_or_the_ports() -> None:
    at_dport = ByteMatch(protocol=TCP, offset=2, length=2, mask=0xFFFF, value=4000)
    beyond = ByteMatch(protocol=TCP, offset=12, length=4, mask=0x00FF0000, value=0x00020000)
    assert classify(Forwarding(flows=(flow(byte_matches=(at_dport,)),)), packet()) is not None
    with_both = Forwarding(flows=(flow(byte_matches=(at_dport, beyond)),))
    assert classify(with_both, packet()) is None
    header = (40000).to_bytes(2, "big") + (4000).to_bytes(2, "big") + bytes(8) + bytes([0x50, 0x02, 0, 0])
    assert classify(with_both, packet(header=header)) is not None


def test_sctp_goes_by_ports_alone() -> None:
    one = flow(protocols=(SCTP,))
    forwarding = Forwarding(flows=(one,), pools=(pool(backend("a", 1, list(range(8)))),))
    a = decide(forwarding, packet(protocol=SCTP)).target
    b = decide(forwarding, packet(protocol=SCTP, source=ip_address("1.2.3.4"))).target
    assert a is not None
    assert a == b
