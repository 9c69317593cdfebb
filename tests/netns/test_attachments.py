"""Several gateways serve one Pod: a table each, and no write that is not needed."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from core.errors import DataplaneError
from core.model import Attachment
from live.podnet import FORMER_PRIORITY, POD_TABLE, KernelPodNetwork
from sim.net.namespaces import ip_batch, run_in, within
from tests.netns._lab import DEADLINE_S, add_namespace

pytestmark = pytest.mark.sandbox

RED = Attachment(
    vips=tuple(map(ip_network, ("20.0.0.1/32", "20.1.0.0/28", "2000::1/128"))),
    next_hops=tuple(map(ip_address, ("10.2.0.1", "10.2.0.2", "fd02::1", "fd02::2"))),
)
BLUE = Attachment(
    vips=tuple(map(ip_network, ("40.0.0.1/32", "4000::1/128", "4001::/112"))),
    next_hops=tuple(map(ip_address, ("10.3.0.1", "fd03::1"))),
)
ALL = tuple(sorted((*RED.vips, *BLUE.vips), key=lambda vip: (vip.version, vip)))
NEW_ROUTE, DELETED_ROUTE, NEW_RULE, DELETED_RULE = "RTM_NEWROUTE", "RTM_DELROUTE", "RTM_NEWRULE", "RTM_DELRULE"


@pytest.fixture
def pod() -> Path:
    """On the primary network and on one network for each of two gateways."""
    pod = add_namespace("pod")
    commands = []
    for interface, subnet in (("eth0", "9"), ("net1", "2"), ("net2", "3")):
        commands += [
            f"link add name {interface} type veth peer name {interface}-peer",
            f"link set dev {interface} up",
            f"link set dev {interface}-peer up",
            f"address add 10.{subnet}.0.10/24 dev {interface}",
            f"address add fd0{subnet}::10/64 dev {interface} nodad",
        ]
    ip_batch(pod, [*commands, "route add default via 10.9.0.1", "route add ::/0 via fd09::1"])
    return pod


def way_back(pod: Path, vip: str, port: int = 1) -> str:
    """The gateway that a reply of `vip` from port 80 to `port` leaves by."""
    family, to = ("-6", "200:100::100") if ":" in vip else ("-4", "200.100.0.100")
    flow = ["ipproto", "tcp", "sport", "80", "dport", str(port)]

    found = json.loads(run_in(pod, ["ip", "-json", family, "route", "get", to, "from", vip, *flow]))
    return str(found[0]["gateway"])


def ways_back(pod: Path, vip: str) -> set[str]:
    return {way_back(pod, vip, port) for port in range(1, 33)}


def settle(pod: Path) -> None:
    """Returns when the kernel has said all about new IPv6 addresses: it does so once more when they are no longer tentative."""
    until_s = time.monotonic() + DEADLINE_S
    while run_in(pod, ["ip", "-6", "-oneline", "address", "show", "tentative"]):
        assert time.monotonic() < until_s, "addresses stay tentative"
        time.sleep(0.01)


@contextmanager
def messages(pod: Path) -> Iterator[Callable[[], list[Any]]]:
    """A function that returns what the kernel has said since the last call about routes, rules and addresses of `pod`."""
    from pyroute2 import IPRSocket
    from pyroute2.netlink.rtnl import (
        RTMGRP_IPV4_IFADDR,
        RTMGRP_IPV4_ROUTE,
        RTMGRP_IPV4_RULE,
        RTMGRP_IPV6_IFADDR,
        RTMGRP_IPV6_ROUTE,
    )

    ipv6_rule = 1 << 18  # RTNLGRP_IPV6_RULE
    groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE
    groups |= RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE | ipv6_rule

    def listen() -> Any:
        made = IPRSocket()
        made.bind(groups=groups)
        made.socket.settimeout(0)
        return made

    settle(pod)
    with within(pod, listen) as kernel:

        def said() -> list[Any]:
            settle(pod)
            found = []
            while True:
                try:
                    found += kernel.get()  # the kernel queues the others before it acknowledges the change
                except BlockingIOError:
                    return found

        yield said


def kinds(said: list[Any]) -> list[str]:
    return [message["event"] for message in said]


def test_each_gateway_has_a_table_of_its_own(pod: Path) -> None:
    assert KernelPodNetwork(pod).apply([RED, BLUE]) == ALL
    assert ways_back(pod, "20.0.0.1") == ways_back(pod, "20.1.0.7") == {"10.2.0.1", "10.2.0.2"}
    assert ways_back(pod, "2000::1") == {"fd02::1", "fd02::2"}
    assert ways_back(pod, "40.0.0.1") == {"10.3.0.1"}
    assert ways_back(pod, "4000::1") == ways_back(pod, "4001::9") == {"fd03::1"}


def test_a_second_apply_writes_nothing(pod: Path) -> None:
    network = KernelPodNetwork(pod)
    with messages(pod) as said:
        network.apply([RED, BLUE])
        assert {NEW_ROUTE, NEW_RULE, "RTM_NEWADDR"} <= set(kinds(said()))
        assert network.apply([RED, BLUE]) == ALL
        assert network.apply([BLUE, RED]) == ALL, "the order is of no account without a conflict"
        assert KernelPodNetwork(pod).apply([RED, BLUE]) == ALL, "an agent that has just started adopts what is there"
        assert kinds(said()) == []


def test_a_gateway_that_goes_leaves_the_others_untouched(pod: Path) -> None:
    network = KernelPodNetwork(pod)
    network.apply([RED, BLUE])
    with messages(pod) as said:
        assert network.apply([BLUE]) == BLUE.vips
        gone = said()
        assert not {NEW_ROUTE, "RTM_NEWADDR"} & set(kinds(gone))
        new_rules = [m for m in gone if m["event"] == NEW_RULE]
        assert {m.get_attr("FRA_PRIORITY") for m in new_rules} == {FORMER_PRIORITY}
        assert len(new_rules) == 2 * len(RED.vips), "packets from and to a VIP that is gone go nowhere"
        assert kinds(gone).count(DELETED_RULE) == len(RED.vips)
        assert {m.get_attr("RTA_TABLE") for m in gone if m["event"] == DELETED_ROUTE} == {POD_TABLE, 254, 255}
        assert network.apply([RED, BLUE]) == ALL
        again = said()
        assert DELETED_ROUTE not in kinds(again)
        assert {m.get_attr("FRA_PRIORITY") for m in again if m["event"] == DELETED_RULE} == {FORMER_PRIORITY}
        assert {m.get_attr("FRA_TABLE") for m in again if m["event"] == NEW_RULE} == {POD_TABLE}
    network.remove()
    with messages(pod) as said:
        network.remove()
        assert kinds(said()) == []


def test_next_hops_are_replaced_not_removed(pod: Path) -> None:
    network = KernelPodNetwork(pod)
    network.apply([RED, BLUE])
    with messages(pod) as said:
        for hops in (RED.next_hops[::2], RED.next_hops[1::2], RED.next_hops):
            network.apply([Attachment(vips=RED.vips, next_hops=hops), BLUE])
            written = said()
            assert {m.get_attr("RTA_TABLE") for m in written} == {POD_TABLE}
            assert set(kinds(written)) == {NEW_ROUTE}


def test_the_first_of_two_attachments_has_a_vip_that_both_want(pod: Path) -> None:
    network = KernelPodNetwork(pod)
    greedy = Attachment(vips=(*BLUE.vips, RED.vips[0]), next_hops=BLUE.next_hops)
    assert network.apply([RED, greedy]) == ALL
    assert ways_back(pod, "20.0.0.1") == {"10.2.0.1", "10.2.0.2"}
    with messages(pod) as said:
        assert network.apply([greedy, RED]) == ALL
        assert kinds(said()) == [NEW_RULE, DELETED_RULE], "the new rule is there before the old one goes"
    assert ways_back(pod, "20.0.0.1") == {"10.3.0.1"}
    assert ways_back(pod, "20.1.0.1") == {"10.2.0.1", "10.2.0.2"}
    assert network.apply([greedy, Attachment(vips=RED.vips[:1], next_hops=RED.next_hops)]) == tuple(
        vip for vip in ALL if vip not in RED.vips[1:]
    )


def test_a_gateway_without_next_hops_does_not_borrow_those_of_another(pod: Path) -> None:
    lonely = Attachment(vips=RED.vips)
    assert KernelPodNetwork(pod).apply([lonely, BLUE]) == BLUE.vips
    for vip in ("20.0.0.1", "2000::1"):
        with pytest.raises(DataplaneError, match=r"unreachable|Invalid argument"):
            way_back(pod, vip)


def test_an_address_of_another_interface_is_not_ours(pod: Path) -> None:
    ip_batch(pod, ["address add 20.0.0.1/32 dev net2"])
    network = KernelPodNetwork(pod)
    assert network.apply([RED]) == RED.vips
    network.remove()
    found = json.loads(run_in(pod, ["ip", "-json", "-4", "address", "show", "to", "20.0.0.1"]))
    assert [link["ifname"] for link in found if link] == ["net2"]


def test_a_socket_belongs_to_the_namespace_and_to_no_thread(pod: Path) -> None:
    """pyroute2's other sockets open a second one, elsewhere, when another thread uses them."""
    from live.rtnetlink import RouteSocket

    with RouteSocket(pod) as kernel:
        net1 = within(pod, lambda: socket.if_nametoindex("net1"))
        assert ip_address("10.2.0.10") in {a.address for a in kernel.addresses() if a.interface == net1}
