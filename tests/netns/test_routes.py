"""Policy routes of a gateway pod, in the kernel."""

from __future__ import annotations

import json
import socket
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from live.namespaces import inside
from live.routes import GATEWAY_PRIORITY, GATEWAY_TABLE, KernelPolicyRoutes
from live.rtnetlink import (
    MAIN_TABLE,
    Change,
    NextHop,
    RouteSocket,
    RouteSpec,
    RtnetlinkError,
    RuleAction,
    RuleSpec,
    default_of,
)
from sim.net.namespaces import ip_batch, run_in
from tests.netns._lab import add_namespace, way_out

pytestmark = pytest.mark.sandbox

VIPS = tuple(map(ip_network, ("20.0.0.1/32", "40.0.0.0/24", "2000::1/128", "3000::/64")))


@pytest.fixture
def gateway() -> Path:
    """A namespace with a primary network (eth0, the way out of everything) and a network of routers (vlan)."""
    gateway = add_namespace("gateway")
    commands = []
    for interface, subnet in (("eth0", "1"), ("vlan", "2")):
        commands += [
            f"link add name {interface} type veth peer name {interface}-peer",
            # A link-local address, and its routes, would come in a second or so.
            f"link set dev {interface} addrgenmode none",
            f"link set dev {interface}-peer addrgenmode none",
            f"link set dev {interface} up",
            f"link set dev {interface}-peer up",
            f"address add 10.{subnet}.0.1/24 dev {interface}",
            f"address add fd0{subnet}::1/64 dev {interface} nodad",
        ]
    ip_batch(gateway, [*commands, "route add default via 10.1.0.254", "route add ::/0 via fd01::254"])
    return gateway


def ip_json(namespace: Path, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run_in(namespace, ["ip", "-json", *words]) or "[]")
    return found


def everything(namespace: Path) -> list[Any]:
    return [
        [rule for rule in ip_json(namespace, family, "rule", "show") if 0 < rule["priority"] < 32766]
        + ip_json(namespace, family, "route", "show", "table", "all", "proto", "116")
        for family in ("-4", "-6")
    ]


def test_replies_of_vips_leave_by_the_table_and_by_nothing_else(gateway: Path) -> None:
    sources = ("20.0.0.1", "40.0.0.77", "2000::1", "3000::77")
    policy = KernelPolicyRoutes(netns=gateway)
    assert [way_out(gateway, s, arrived_on="vlan") for s in sources] == ["eth0"] * 4, (
        "the leak that is to be closed is not there"
    )

    policy.apply(VIPS)
    assert [way_out(gateway, s, arrived_on="vlan") for s in sources] == [""] * 4, (
        "without BGP a VIP's packet must go nowhere"
    )

    add = ["route add default via 10.2.0.254 dev vlan table 4096", "route add ::/0 via fd02::254 dev vlan table 4096"]
    ip_batch(gateway, add)
    assert [way_out(gateway, s, arrived_on="vlan") for s in sources] == ["vlan"] * 4
    assert [way_out(gateway, s, arrived_on="vlan") for s in ("20.0.0.2", "2000::2")] == ["eth0"] * 2, (
        "other addresses go as before"
    )


def test_apply_changes_only_what_differs(gateway: Path) -> None:
    policy = KernelPolicyRoutes(netns=gateway)
    policy.apply(VIPS)
    before = everything(gateway)
    policy.apply(VIPS[::-1])
    assert everything(gateway) == before
    KernelPolicyRoutes(netns=gateway).apply(VIPS[2:])
    sources = {(rule.source, rule.table, rule.priority) for rule in inside(gateway, rules)}
    assert sources == {(vip, GATEWAY_TABLE, GATEWAY_PRIORITY) for vip in VIPS[2:]}


def test_vips_beside_each_other_share_a_rule_and_no_other_address_gets_one(gateway: Path) -> None:
    policy = KernelPolicyRoutes(netns=gateway)
    vips = [ip_network(f"20.0.{n // 256}.{n % 256}") for n in range(2000)]
    policy.apply([*vips, ip_network("2000::")])
    sources = {str(rule.source) for rule in inside(gateway, rules)}
    assert sources == {
        *("20.0.0.0/22", "20.0.4.0/23", "20.0.6.0/24", "20.0.7.0/25", "20.0.7.128/26", "20.0.7.192/28", "2000::/128")
    }
    policy.apply([ip_network("0.0.0.0/1"), ip_network("128.0.0.0/1"), ip_network("::/0")])
    policy.apply([ip_network("0.0.0.0/0"), ip_network("::/0")])
    sources = {str(rule.source) for rule in inside(gateway, rules)}
    assert sources == {"0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"}
    del vips[5]
    policy.apply(vips)
    found = [rule.source for rule in inside(gateway, rules)]
    assert sum(source.num_addresses for source in found) == 1999
    assert not any(ip_address("20.0.0.5") in source for source in found)


def rules() -> list[Any]:
    with RouteSocket() as kernel:
        return kernel.rules()


def test_remove_takes_its_own_away_and_nothing_else(gateway: Path) -> None:
    others = [
        "rule add priority 20100 from 9.9.9.9 lookup 4096",
        "route add default via 10.2.0.254 dev vlan table 4096 proto bird",
    ]
    ip_batch(gateway, others)
    before = [ip_json(gateway, "rule", "show"), ip_json(gateway, "route", "show", "table", "all")]
    policy = KernelPolicyRoutes(netns=gateway)
    policy.apply(VIPS)
    policy.remove()
    assert [ip_json(gateway, "rule", "show"), ip_json(gateway, "route", "show", "table", "all")] == before
    assert everything(gateway)[1] == []
    policy.remove()


@pytest.mark.parametrize("version", [4, 6])
def test_routes_are_replaced_in_place_and_read_back_as_written(gateway: Path, version: int) -> None:
    subnet = "10.2.0." if version == 4 else "fd02::"

    def run() -> None:
        with RouteSocket() as kernel:
            vlan = socket.if_nametoindex("vlan")
            hops = tuple(NextHop(address=ip_address(f"{subnet}{n}"), interface=vlan) for n in (5, 6, 7))
            for some in (hops[:1], hops, hops[1:], hops[2:], hops[:2]):
                route = RouteSpec(destination=default_of(version), table=77777, metric=100, next_hops=some)
                kernel.apply(Change(routes=(route,)))
                assert kernel.routes(77777) == [route]
            kernel.apply(Change(old_routes=tuple(kernel.routes(77777))))
            assert kernel.routes(77777) == []

    inside(gateway, run)


@pytest.mark.parametrize("version", [4, 6])
def test_rules_are_read_back_as_written(gateway: Path, version: int) -> None:
    wanted = [
        RuleSpec(version=version, priority=1, table=5, input_interface="vlan"),
        RuleSpec(version=version, priority=2, table=0x54470001, mark=0x54470001, mask=0xFFFFFFFF),
        RuleSpec(version=version, priority=3, action=RuleAction.UNREACHABLE, mark=0x54470000, mask=0xFFFF0000),
        RuleSpec(version=version, priority=3, action=RuleAction.GOTO, target=4, mark=0x54470000, mask=0xFFFF000F),
        RuleSpec(version=version, priority=3, action=RuleAction.NOTHING),
        RuleSpec(version=version, priority=4, action=RuleAction.BLACKHOLE),
        RuleSpec(version=version, priority=5, table=254, source=VIPS[1 if version == 4 else 3]),
    ]
    with RouteSocket(gateway) as kernel:
        kernel.apply(Change(rules=wanted))
        kernel.apply(Change(rules=wanted))
        assert kernel.rules() == wanted
        kernel.apply(Change(old_rules=wanted))
        kernel.apply(Change(old_rules=wanted))
        assert kernel.rules() == []


def test_others_routes_are_seen_when_asked_for(gateway: Path) -> None:
    with RouteSocket(gateway) as kernel:
        vlan = kernel.interfaces()["vlan"]
        assert vlan == inside(gateway, lambda: socket.if_nametoindex("vlan"))
        found = kernel.routes(MAIN_TABLE, protocol=None)
        assert kernel.routes(MAIN_TABLE) == []
    assert {str(route.destination) for route in found if route.interface == vlan} >= {"10.2.0.0/24", "fd02::/64"}
    assert {str(hop.address) for route in found for hop in route.next_hops} == {"10.1.0.254", "fd01::254"}


def test_what_the_kernel_refuses_is_named(gateway: Path) -> None:
    hop = NextHop(address=ip_address("10.2.0.9"), interface=4711)
    route = RouteSpec(destination=default_of(4), table=5, metric=1, next_hops=(hop,))

    def run() -> None:
        with RouteSocket() as kernel:
            kernel.apply(Change(routes=(route,)))

    with pytest.raises(RtnetlinkError, match=r"adding unicast route 0\.0\.0\.0/0 table 5 metric 1: No such device"):
        inside(gateway, run)
