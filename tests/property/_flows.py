"""Flows and packets that meet: what everything that compiles flows is tested with."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import strategies as st

from core.lb.classifier import Packet
from core.lb.forwarding import Flow
from core.model import ANY_PORT, Address, ByteMatch, L4Protocol, PortRange, Prefix


def addresses(version: int) -> st.SearchStrategy[Address]:
    """Few enough that prefixes, sources and packets meet."""
    base = int(ip_address("20.0.0.0" if version == 4 else "2001:db8::"))
    bits = 32 if version == 4 else 128
    near = st.integers(0, 7).map(lambda low: base + low)
    far = st.tuples(st.integers(0, 7), st.integers(0, bits - 8)).map(lambda t: (base ^ (t[0] << t[1])) % (1 << bits))
    return st.one_of(near, far).map(lambda n: ip_address(n.to_bytes(bits // 8, "big")))


def prefixes(version: int) -> st.SearchStrategy[Prefix]:
    bits = 32 if version == 4 else 128
    length = st.one_of(st.just(bits), st.integers(0, bits), st.integers(bits - 6, bits))
    return st.tuples(addresses(version), length).map(lambda t: ip_network((t[0], t[1]), strict=False))


ports = st.integers(0, 12)
port_ranges = st.one_of(
    st.just(ANY_PORT),
    st.tuples(ports, ports).map(lambda t: PortRange(first=min(t), last=max(t))),
    st.integers(0, 65535).map(lambda p: PortRange(first=p, last=p)),
)


@st.composite
def byte_matches(draw: st.DrawFn) -> ByteMatch:
    length = draw(st.sampled_from((1, 2, 4)))
    return ByteMatch(
        protocol=draw(st.sampled_from(L4Protocol)),
        offset=draw(st.sampled_from((0, 1, 2, 4, 13))),
        length=length,
        mask=draw(st.sampled_from(((1 << 8 * length) - 1, 1, 2))),
        value=draw(st.integers(0, 3)),
    )


@st.composite
def flow_lists(draw: st.DrawFn) -> tuple[Flow, ...]:
    version = draw(st.sampled_from((4, 6)))
    several = st.lists
    return tuple(
        Flow(
            name=f"flow{i}",
            version=version if draw(st.integers(0, 9)) else 10 - version,
            pool=f"pool{i}",
            priority=-i,
            protocols=tuple(draw(several(st.sampled_from(L4Protocol), max_size=3, unique=True))),
            destinations=tuple(draw(several(prefixes(version), min_size=1, max_size=4))),
            sources=tuple(draw(several(prefixes(version), max_size=4))),
            destination_ports=tuple(draw(several(port_ranges, min_size=1, max_size=3))),
            source_ports=tuple(draw(several(port_ranges, min_size=1, max_size=2))),
            byte_matches=tuple(draw(several(byte_matches(), max_size=2))),
        )
        for i in range(draw(st.integers(0, 12)))
    )


@st.composite
def packets(draw: st.DrawFn, version: int) -> Packet:
    protocol = draw(st.sampled_from((*L4Protocol, None)))
    sport, dport = (draw(st.one_of(ports, st.integers(0, 65535))) for _ in range(2))
    tail = draw(st.one_of(st.none(), st.binary(min_size=0, max_size=16)))
    header = b"" if tail is None else sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + tail
    return Packet(
        source=draw(addresses(version)),
        destination=draw(addresses(version)),
        protocol=protocol,
        source_port=sport if protocol else 0,
        destination_port=dport if protocol else 0,
        header=header if protocol else b"",
    )
