"""The configuration text of BIRD; that BIRD takes it is proved in tests/netns."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from core.model import Bfd, Bgp, ObjectRef, Static
from core.ports import Peer, Routing
from core.router.bird import protocol_name, render
from core.secret import Secret

BGP = Bgp(local_asn=8103, remote_asn=4248829953, local_port=10179, remote_port=10180, hold_time_s=24)


def peer(name: str = "vpn", address: str = "169.254.100.150", routing: Bgp | Static = BGP, **fields: object) -> Peer:
    base = Peer(
        name=name,
        router=ObjectRef(kind="GatewayRouter", namespace="default", name=name),
        address=ip_address(address),
        interface="vlan-200",
        routing=routing,
    )
    return replace(base, **fields)  # type: ignore[arg-type]  # fields are those of Peer; replace() checks their names


def routing(*peers: Peer, announced: tuple[str, ...] = ("20.0.0.1/32",)) -> Routing:
    vips = tuple(ip_network(vip) for vip in announced)
    return Routing(router_id=IPv4Address("10.0.0.5"), peers=peers, announced=vips, vips=vips)


def test_every_field_of_a_peer_is_in_the_text() -> None:
    """Fault 1 of the proof-of-concept: hold time, ASNs and ports."""
    text = render(routing(peer(routing=replace(BGP, bfd=Bfd(min_tx_ms=300, min_rx_ms=200, multiplier=5)))))
    for line in (
        "local port 10179 as 8103;",
        "neighbor 169.254.100.150 port 10180 as 4248829953;",
        'interface "vlan-200";',
        "hold time 24;",
        "min tx interval 300 ms;",
        "min rx interval 200 ms;",
        "multiplier 5;",
        "route 20.0.0.1/32 unreachable;",
    ):
        assert f"    {line}\n" in text, line


def test_only_default_routes_come_in_and_only_vips_go_out() -> None:
    text = render(routing(peer("v4"), peer("v6", "100:100::150"), announced=("20.0.0.1/32", "2000::1/128")))
    assert text.count("import where net = 0.0.0.0/0;") == 1
    assert text.count("import where net = ::/0;") == 1
    assert text.count('export where proto = "vips4";') == 1
    assert text.count('export where proto = "vips6";') == 1


def test_no_bfd_protocol_without_bfd() -> None:
    assert "bfd" not in render(routing(peer()))
    assert "bfd" not in render(routing())


def test_a_static_peer_is_a_route_that_bfd_watches() -> None:
    """Fault 2 of the proof-of-concept: the Static protocol."""
    bfd = Bfd(min_tx_ms=300, min_rx_ms=300, multiplier=5)
    assert 'route 0.0.0.0/0 via 169.254.100.150 dev "vlan-200";' in render(routing(peer(routing=Static())))
    assert 'dev "vlan-200" bfd;' in render(routing(peer(routing=Static(bfd=bfd))))


def test_passwords_are_quoted_and_shown_nowhere_else() -> None:
    secured = peer(password=Secret("s3cret"))
    assert '    password "s3cret";\n' in render(routing(secured))
    assert "s3cret" not in repr(secured)
    with pytest.raises(ValueError, match="double quote"):
        render(routing(peer(password=Secret('a"b'))))


def test_names_stay_apart_and_are_no_keywords() -> None:
    names = ["vpn", "a-b", "a.b", "a_b", "ab", "a-b-v4"]
    symbols = [protocol_name(name) for name in names]
    assert len(set(symbols)) == len(names)
    assert all(symbol.startswith("peer_") and symbol.replace("_", "").isalnum() for symbol in symbols)


def test_equal_sets_give_equal_text() -> None:
    a, b = peer("a"), peer("b", "169.254.100.151")
    assert render(routing(a, b)) == render(routing(b, a))
