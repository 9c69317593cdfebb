"""The decision image of the tc data plane says what the core's classifier says, walked here as the BPF program walks it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from core.lb.classifier import Packet, classify
from core.lb.forwarding import Flow, Forwarding
from core.lb.jhash import address_words
from core.model import Address, L4Protocol, PortRange
from live.dataplane import tc_image
from live.dataplane.tc_image import CHILD, FIELD, FLOW, PROTOCOLS, SOURCE, SWITCH, WAYS, Decisions, compile_flows
from tests.property._flows import flow_lists, packets

CELLS_PER_PACKET = 10_000


def find(image: tc_image.Image, at: int, address: Address) -> int:
    """The value of the longest prefix of `address`: host bucket first, then the trie whose root stands at header word `at + 2`."""
    first, mask, root = (int(word) for word in image[0, at : at + 3])
    words, ways = address_words(address.packed), WAYS[address.version]
    bucket = image[first + (tc_image.host_hash(words) & mask)]
    for way in range(ways):
        value = int(bucket[ways * len(words) + way])
        if value and list(bucket[way * len(words) : (way + 1) * len(words)]) == words:
            return value
    if not root:
        return 0
    shift = address.max_prefixlen - 4
    entry = CHILD | root
    while entry & CHILD:
        entry = int(image[entry & ~CHILD, int(address) >> shift & 15])
        shift -= 4
    return entry


def walk(decisions: Decisions, packet: Packet) -> int | None:
    """The index of the flow that the image decides for."""
    image = decisions.image
    at = 2 if packet.destination.version == 4 else 8
    group = find(image, at, packet.destination)
    if not group:
        return None
    keys = {tc_image.DESTINATION_PORT: packet.destination_port, tc_image.SOURCE_PORT: packet.source_port}
    reference = int(image[group, tc_image.GROUP_AT + PROTOCOLS.index(packet.protocol)])
    for _ in range(CELLS_PER_PACKET):
        cell = [int(word) for word in image[reference]]
        kind = cell[0] & 0xFF
        if reference == 0:
            return None
        if kind == FLOW:
            return decisions.flows.index(reference)
        if kind == SWITCH:
            key = keys[cell[0] >> 8]
            reference = cell[8 + sum(start <= key for start in cell[2:8])]
        elif kind == SOURCE:
            keys[tc_image.SOURCE_CLASS] = find(image, at + 3, packet.source)
            reference = cell[1]
        elif kind == FIELD:
            offset, length, mask = cell[3:6]
            header = packet.header or packet.source_port.to_bytes(2, "big") + packet.destination_port.to_bytes(2, "big")
            raw = header[offset : offset + length]
            keys[tc_image.FIELD_VALUE] = int.from_bytes(raw, "big") & mask
            reference = cell[1] if len(raw) == length else cell[2]
        else:
            raise AssertionError(f"cell {reference} is of kind {kind}")
    raise AssertionError("the walk does not end")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_image_decides_as_the_classifier(data: st.DataObject) -> None:
    flows = data.draw(flow_lists())
    decisions = compile_flows(flows)
    for version in (4, 6):
        for packet in data.draw(st.lists(packets(version), min_size=8, max_size=8)):
            expected = classify(Forwarding(flows=flows), packet)
            found = walk(decisions, packet)
            assert (None if found is None else flows[found]) == expected


def box(name: str, destination: str, dport: tuple[int, int], sport: tuple[int, int], source: str = "") -> Flow:
    """A flow of UDP with one range in each dimension."""
    return Flow(
        name=name,
        version=4,
        pool="pool",
        priority=0,
        protocols=(L4Protocol.UDP,),
        destinations=tuple(ip_network(d) for d in destination.split()),
        sources=tuple(ip_network(s) for s in source.split()),
        destination_ports=(PortRange(first=dport[0], last=dport[1]),),
        source_ports=(PortRange(first=sport[0], last=sport[1]),),
    )


def udp(source: str, sport: int, destination: str, dport: int) -> Packet:
    return Packet(
        source=ip_address(source),
        destination=ip_address(destination),
        protocol=L4Protocol.UDP,
        source_port=sport,
        destination_port=dport,
    )


def test_flows_that_overlap_in_every_dimension_stay_near_linear() -> None:
    random = np.random.default_rng(1)
    flows = []
    for i in range(300):
        low, high = np.sort(random.integers(0, 65536, (2, 2)), axis=0)
        source = f"10.{random.integers(0, 256)}.0.0/{random.integers(9, 17)}"
        network = str(ip_network(source, strict=False))
        flows.append(box(f"flow{i}", "20.0.0.1", (int(low[0]), int(high[0])), (int(low[1]), int(high[1])), network))
    decisions = compile_flows(flows)
    assert len(decisions.image) < 100 * len(flows)
    for _ in range(400):
        sport, dport = (int(p) for p in random.integers(0, 65536, 2))
        packet = udp(f"10.{random.integers(0, 256)}.{random.integers(0, 256)}.1", sport, "20.0.0.1", dport)
        expected = classify(Forwarding(flows=tuple(flows)), packet)
        found = walk(decisions, packet)
        assert (None if found is None else flows[found]) == expected


def test_two_thousand_flows_and_ten_thousand_prefixes_compile_to_shallow_decisions() -> None:
    by_port = [box(f"port{i}", "20.0.0.1", (i, i), (0, 65535)) for i in range(1, 2001)]
    by_vip = [box(f"vip{i}", f"30.0.{i >> 8}.{i & 255}", (0, 65535), (0, 65535)) for i in range(2000)]
    by_source = [
        box(f"source{i}", "40.0.0.1", (80, 80), (0, 65535), f"50.{i >> 8}.{i & 255}.0/24") for i in range(2000)
    ]
    many = " ".join(f"60.{i >> 8}.{i & 255}.0/24" for i in range(10_000))
    flows = (
        *by_port,
        *by_vip,
        *by_source,
        box("many", "70.0.0.1", (1, 1), (0, 65535), many),
        box("to many", many, (1, 1), (0, 9)),
    )
    decisions = compile_flows(flows)
    for packet, name in (
        (udp("1.1.1.1", 5, "20.0.0.1", 1500), "port1500"),
        (udp("1.1.1.1", 5, "30.0.3.232", 9), "vip1000"),
        (udp("50.2.1.9", 5, "40.0.0.1", 80), "source513"),
        (udp("60.39.15.9", 5, "70.0.0.1", 1), "many"),
        (udp("1.1.1.1", 5, "60.39.15.9", 1), "to many"),
    ):
        found = walk(decisions, packet)
        assert found is not None
        assert flows[found].name == name
    assert walk(decisions, udp("60.39.16.9", 5, "70.0.0.1", 1)) is None
    assert decisions.image.nbytes < 8 << 20
