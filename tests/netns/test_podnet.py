"""An application Pod's network: VIPs, the way back, and what other networks may know of it."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from core.errors import DataplaneError
from core.model import Attachment
from live.podnet import KernelPodNetwork
from sim.net.namespaces import ip_batch, run_in, within
from tests.netns._lab import DEADLINE_S, Lab, add_namespace, raw_socket, way_out

pytestmark = pytest.mark.sandbox

VIPS = ("20.0.0.1/32", "2000::1/128")
GATEWAYS = ("10.2.0.1", "10.2.0.2", "fd02::1", "fd02::2")


@pytest.fixture
def lab() -> Lab:
    """One target; the gateway has two addresses a family, like two gateways, and routes the VIPs to the target."""
    lab = Lab(targets=1)
    ip_batch(
        lab.gateway,
        [
            "address add 10.2.0.2/24 dev net1",
            "address add fd02::2/64 dev net1 nodad",
            "route add 20.0.0.0/24 via 10.2.0.10",
            "route add 2000::/64 via fd02::10",
        ],
    )
    primary = ["link add name eth0 type veth peer name eth0-peer", "link set dev eth0 up", "link set dev eth0-peer up"]
    addresses = ["address add 10.9.0.9/24 dev eth0", "address add fd09::9/64 dev eth0 nodad"]
    default = ["route add default via 10.9.0.1", "route add ::/0 via fd09::1"]
    ip_batch(lab.targets[0], primary + addresses + default)
    return lab


def attachment(vips: tuple[str, ...] = VIPS, gateways: tuple[str, ...] = GATEWAYS) -> Attachment:
    return Attachment(vips=tuple(map(ip_network, vips)), next_hops=tuple(map(ip_address, gateways)))


def answers(lab: Lab, vip: str, port: int = 4000) -> bool:
    """Whether a TCP connection from outside to `vip` is accepted by the target and answered."""
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    with within(lab.targets[0], lambda: socket.create_server(("", port), family=family)) as server:
        client = within(lab.outside, lambda: socket.socket(family, socket.SOCK_STREAM))
        with client:
            client.settimeout(2)
            try:
                within(lab.outside, lambda: client.connect((vip, port)))
            except TimeoutError:
                return False
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(b"hello")
            return client.recv(5) == b"hello"


def everything(target: Path) -> list[Any]:
    listings = [["rule", "show"], ["route", "show", "table", "all"], ["address", "show", "dev", "lo"]]
    return [
        json.loads(run_in(target, ["ip", "-json", family, *words]) or "[]")
        for family in ("-4", "-6")
        for words in listings
    ]


@pytest.mark.parametrize("vip", ["20.0.0.1", "2000::1"])
@pytest.mark.parametrize("rp_filter", ["0", "1"])
def test_a_connection_to_a_vip_is_answered(lab: Lab, vip: str, rp_filter: str) -> None:
    """Even with strict reverse path filtering: the rule is what the kernel looks up the way back with."""

    def set_rp_filter() -> None:
        for name in ("all", "net1"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text(rp_filter)

    within(lab.targets[0], set_rp_filter)
    network = KernelPodNetwork(lab.targets[0])
    assert network.apply([attachment()]) == tuple(map(ip_network, VIPS))
    assert answers(lab, vip)
    assert way_out(lab.targets[0], vip) == "net1"


def test_a_vip_is_the_pods_own_as_soon_as_it_is_said_to_be_in_place(lab: Lab) -> None:
    """Of an IPv6 address the kernel makes the local route a moment later; a Pod that forwards would send what comes before to the
    primary network."""
    network = KernelPodNetwork(lab.targets[0])
    for _ in range(50):
        assert len(network.apply([attachment()])) == 2
        listed = run_in(lab.targets[0], ["ip", "-json", "-6", "route", "show", "table", "local", "proto", "116"])
        assert [route["dst"] for route in json.loads(listed)] == ["2000::1"]
        network.remove()


def test_a_shorter_prefix_is_held_whole(lab: Lab) -> None:
    network = KernelPodNetwork(lab.targets[0])
    prefixes = ("20.0.0.0/28", "2000::/112")
    for _ in range(2):
        assert network.apply([attachment(prefixes)]) == tuple(map(ip_network, prefixes))
    assert answers(lab, "20.0.0.9")
    assert answers(lab, "2000::9")
    assert network.apply([attachment(("2000::/112",))]) == (ip_network("2000::/112"),)
    assert way_out(lab.targets[0], "2000::9") == "net1"


def test_without_next_hops_replies_go_nowhere(lab: Lab) -> None:
    network = KernelPodNetwork(lab.targets[0])
    placed = network.apply([attachment(gateways=("10.2.0.1",))])
    assert placed == (ip_network("20.0.0.1/32"),), "IPv6 has no way back"
    assert way_out(lab.targets[0], "20.0.0.1") == "net1"
    assert way_out(lab.targets[0], "2000::1") == ""
    assert network.apply([attachment(gateways=("192.0.2.1",))]) == ()
    assert way_out(lab.targets[0], "20.0.0.1") == ""


def test_apply_is_idempotent_and_remove_leaves_nothing(lab: Lab) -> None:
    target = lab.targets[0]
    ip_batch(target, ["address add 30.0.0.1/32 dev lo", "rule add priority 20110 from 30.0.0.1 lookup 9"])
    before = everything(target)
    network = KernelPodNetwork(target)
    network.apply([attachment((*VIPS, "20.0.1.0/24", "2001::/64"))])
    once = everything(target)
    assert once != before
    network.apply([attachment((*VIPS[::-1], "20.0.1.0/24", "2001::/64"), GATEWAYS[::-1])])
    assert everything(target) == once
    network.remove()
    assert everything(target) == before
    network.remove()


def test_a_pod_that_is_gone_needs_no_removal_and_cannot_be_changed(tmp_path: Path) -> None:
    gone = KernelPodNetwork(tmp_path / "netns")
    gone.remove()
    with pytest.raises(DataplaneError, match=r"netns: No such file"):
        gone.apply([attachment()])


def arp_messages(lab: Lab, act: Callable[[], object]) -> list[tuple[int, str, str]]:
    """(operation, sender address, asked address) of the target's ARP packets on its network during `act`."""
    found = []
    with within(lab.targets[0], lambda: raw_socket("net1")) as wire:
        act()
        while select.select([wire], [], [], 0.2)[0]:
            data, origin = wire.recvfrom(2048)
            outgoing = 4
            if data[12:14] == b"\x08\x06" and origin[2] == outgoing:
                (operation,) = struct.unpack_from("!H", data, 20)
                found.append((operation, str(ip_address(data[28:32])), str(ip_address(data[38:42]))))
    return found


def test_the_vip_stays_unknown_on_the_pods_network(lab: Lab) -> None:
    """With the kernel's defaults the Pod asks for its gateway in the VIP's name, and answers who asks for the VIP."""
    network = KernelPodNetwork(lab.targets[0])
    network.apply([attachment()])

    def ask() -> None:
        ip_batch(lab.targets[0], ["neigh flush all"])
        ip_batch(lab.gateway, ["neigh flush all"])
        assert all(answers(lab, "20.0.0.1", port) for port in range(4000, 4016)), "both next hops are used"
        with within(lab.gateway, lambda: raw_socket("net1")) as wire:
            mac = lab.mac_of(lab.gateway, "net1")
            question = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + ip_address("10.2.0.1").packed
            question += bytes(6) + ip_address("20.0.0.1").packed
            wire.send(b"\xff" * 6 + mac + b"\x08\x06" + question)

    said = arp_messages(lab, ask)
    assert {asked for operation, _, asked in said if operation == 1} & {"10.2.0.1", "10.2.0.2"}, "the Pod asked nothing"
    assert "20.0.0.1" not in {sender for _, sender, _ in said}

    def as_the_kernel_is() -> None:
        for name in ("arp_ignore", "arp_announce"):
            Path(f"/proc/sys/net/ipv4/conf/net1/{name}").write_text("0")

    within(lab.targets[0], as_the_kernel_is)
    assert "20.0.0.1" in {sender for _, sender, _ in arp_messages(lab, ask)}, "the settings are not needed any more"


@pytest.mark.parametrize("vip", ["20.0.0.1", "2000::1"])
def test_replies_to_one_client_leave_over_all_gateways_by_their_ports(lab: Lab, vip: str) -> None:
    """A Pod of the kernel's own making spreads by addresses alone: a client would have one gateway."""
    version, hops = (6, GATEWAYS[2:]) if ":" in vip else (4, GATEWAYS[:2])

    def as_the_kernel_is() -> None:
        Path(f"/proc/sys/net/ipv{version}/fib_multipath_hash_policy").write_text("0")

    within(lab.targets[0], as_the_kernel_is)
    macs = {hop: f"02:00:00:00:00:{n:02x}" for n, hop in enumerate(hops)}
    ip_batch(lab.targets[0], [f"neigh replace {hop} lladdr {mac} dev net1 nud permanent" for hop, mac in macs.items()])
    network = KernelPodNetwork(lab.targets[0])
    network.apply([attachment()])
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    client = "200:100::100" if version == 6 else "200.100.0.100"
    replies = 64
    server = within(lab.targets[0], lambda: socket.socket(family, socket.SOCK_DGRAM))
    with server, within(lab.targets[0], lambda: raw_socket("net1")) as wire:
        server.bind((vip, 4100))
        for port in range(5000, 5000 + replies):
            server.sendto(b"reply", (client, port))
        ways: Counter[str] = Counter()
        while ways.total() < replies:
            assert select.select([wire], [], [], DEADLINE_S)[0], f"only {ways.total()} of {replies} replies left"
            data, _ = wire.recvfrom(2048)
            if ip_address(vip).packed in data and data.endswith(b"reply"):
                ways[data[:6].hex(":")] += 1
    assert ways.keys() == set(macs.values())


@pytest.mark.parametrize("vip", ["20.0.0.1", "2000::1"])
def test_next_hops_change_without_a_lost_reply(lab: Lab, vip: str) -> None:
    network = KernelPodNetwork(lab.targets[0])
    network.apply([attachment()])
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    server = within(lab.targets[0], lambda: socket.socket(family, socket.SOCK_DGRAM))
    server.bind((vip, 4100))
    server.settimeout(DEADLINE_S)
    clients = [within(lab.outside, lambda: socket.socket(family, socket.SOCK_DGRAM)) for _ in range(20)]
    stop = threading.Event()

    def echo() -> None:
        while not stop.is_set():
            data, sender = server.recvfrom(64)
            server.sendto(data, sender)

    def churn() -> None:
        subsets = [GATEWAYS, GATEWAYS[::2], GATEWAYS[1::2], GATEWAYS]
        while not stop.is_set():
            for some in subsets:
                network.apply([attachment(gateways=some)])

    threads = [threading.Thread(target=echo), threading.Thread(target=churn)]
    for thread in threads:
        thread.start()
    lost = 0
    finish = time.monotonic() + 1.0
    sent = 0
    while time.monotonic() < finish:
        for client in clients:
            client.settimeout(1)
            client.sendto(b"x", (vip, 4100))
            sent += 1
            try:
                client.recv(64)
            except TimeoutError:
                lost += 1
    stop.set()
    clients[0].sendto(b"last", (vip, 4100))
    for thread in threads:
        thread.join(DEADLINE_S)
    for each in (server, *clients):
        each.close()
    assert sent > 500
    assert lost == 0


def test_two_hundred_pods_are_cheap_and_leave_nothing_open() -> None:
    pods = [add_namespace("pod")] * 200
    wiring = ["link add name net1 type veth peer name wire", "link set dev net1 up", "link set dev wire up"]
    ip_batch(pods[0], [*wiring, "address add 10.2.0.10/24 dev net1", "address add fd02::a/64 dev net1 nodad"])
    KernelPodNetwork(pods[0]).apply([attachment()])  # the first one in a process imports pyroute2
    opened, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    begin = time.process_time()
    for n, pod in enumerate(pods):
        assert len(KernelPodNetwork(pod).apply([attachment((f"20.0.1.{n % 4}/32", f"2000:1::{n % 4:x}/128"))])) == 2
    each_ms = (time.process_time() - begin) / len(pods) * 1e3
    # What others have left for the garbage collector may go meanwhile, so fewer is as good.
    assert len(list(Path("/proc/self/fd").iterdir())) <= opened
    assert threading.active_count() <= threads
    # A process a Pod would be far above it, and a busy machine stays far below.
    assert each_ms < 50, f"{each_ms:.1f} ms of CPU a Pod"


def test_an_interface_that_goes_meanwhile_is_an_error_of_this_pod(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    name_of = socket.if_indextoname

    def after_it_has_gone(index: int) -> str:
        run_in(lab.targets[0], ["ip", "link", "delete", name_of(index)])
        return name_of(index)

    monkeypatch.setattr(socket, "if_indextoname", after_it_has_gone)
    with pytest.raises(DataplaneError, match=r"interface \d+ .* has gone"):
        KernelPodNetwork(lab.targets[0]).apply([attachment()])
