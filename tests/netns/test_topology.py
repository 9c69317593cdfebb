"""The virtual network for real: bridges, hosts, addresses, time."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from core.errors import DataplaneError
from sim.net import namespaces, topology
from sim.net.namespaces import run_in, within
from sim.net.node import NetworkHost
from sim.net.topology import Attachment, VirtualNetwork, processes_in

pytestmark = pytest.mark.sandbox


@pytest.fixture
def network() -> Iterator[VirtualNetwork]:
    network = VirtualNetwork(seed=7)
    network.start()
    yield network
    network.stop()


def on(network: str, interface: str, *addresses: str) -> Attachment:
    return Attachment(network=network, interface=interface, addresses=tuple(map(ip_interface, addresses)))


def answers(network: VirtualNetwork, source: str, target: str, address: str, *, within_s: float = 10.0) -> bool:
    """Whether a UDP datagram from one host reaches a socket that waits in another; ten seconds are for a busy machine."""

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", 0))
        made.settimeout(within_s)
        return made

    def sender() -> socket.socket:
        return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)

    with (
        within(network.host(target).namespace, bound) as there,
        within(network.host(source).namespace, sender) as here,
    ):
        try:
            here.sendto(b"?", (address, there.getsockname()[1]))
            return there.recv(16) == b"?"
        except OSError:
            return False


def sleeping_in(host: NetworkHost) -> subprocess.Popen[bytes]:
    """A process that runs in a host's namespace by now."""
    process: subprocess.Popen[bytes] = host.popen(["sh", "-c", "echo started; exec sleep 1000"])
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    return process


def assert_killed(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL


def test_hosts_on_one_network_reach_each_other_in_both_families(network: VirtualNetwork) -> None:
    network.add_host("a", [on("wire", "eth0", "192.0.2.1/24", "2001:db8::1/64")])
    network.add_host("b", [on("wire", "net1", "192.0.2.2/24", "2001:db8::2/64")])
    assert answers(network, "a", "b", "192.0.2.2")
    assert answers(network, "b", "a", "2001:db8::1")


def test_networks_are_separate_wires(network: VirtualNetwork) -> None:
    network.add_host("a", [on("vlan-100", "vlan-100", "192.0.2.1/24")])
    network.add_host("b", [on("vlan-200", "vlan-200", "192.0.2.2/24")])
    assert not answers(network, "a", "b", "192.0.2.2", within_s=1.0)


def test_the_run_itself_can_be_a_host(network: VirtualNetwork) -> None:
    network.attach("world", on("cluster", "cluster0", "10.244.0.1/16"))
    network.add_host("pod", [on("cluster", "eth0", "10.244.1.1/16")])
    assert answers(network, "world", "pod", "10.244.1.1")
    assert b"cluster0" in Path("/proc/self/net/dev").read_bytes()


def test_a_removed_host_is_silent_at_once_and_its_processes_are_gone(network: VirtualNetwork) -> None:
    network.add_host("a", [on("wire", "eth0", "192.0.2.1/24")])
    removed = network.add_host("b", [on("wire", "eth0", "192.0.2.2/24")])
    left_over = sleeping_in(removed)
    assert answers(network, "a", "b", "192.0.2.2")
    assert left_over.pid in processes_in(removed.namespace)
    network.remove_host("b")
    assert_killed(left_over)
    assert [view.name for view in network.hosts()] == ["world", "a"]
    network.add_host("b", [on("wire", "eth0", "192.0.2.2/24")])
    assert answers(network, "a", "b", "192.0.2.2")


def test_macs_depend_on_seed_and_names_only() -> None:
    def mac_of(seed: int, first: str) -> str:
        network = VirtualNetwork(seed=seed)
        network.start()
        for name in (first, "b"):
            network.add_host(name, [on("wire", "net1")])
        found = run_in(network.host("b").namespace, ["ip", "-br", "link", "show", "net1"]).split()[2]
        network.stop()
        return found

    assert mac_of(1, "a") == mac_of(1, "c") != mac_of(2, "a")


def test_default_routes_and_loopback_addresses(network: VirtualNetwork) -> None:
    attachment = Attachment(
        network="cluster",
        interface="eth0",
        addresses=(ip_interface("10.244.1.1/16"), ip_interface("fd00:10:244::1:1/64")),
        gateways=(ip_address("10.244.0.1"), ip_address("fd00:10:244::1")),
    )
    host = network.add_host(
        "a", [attachment], loopback=[ip_interface("200.100.0.100/32"), ip_interface("200:100::100/128")]
    )
    assert "default via 10.244.0.1 dev eth0" in run_in(host.namespace, ["ip", "route"])
    assert "default via fd00:10:244::1 dev eth0" in run_in(host.namespace, ["ip", "-6", "route"])
    lo = run_in(host.namespace, ["ip", "-br", "addr", "show", "lo"])
    assert "200.100.0.100/32" in lo
    assert "200:100::100/128" in lo


@pytest.mark.parametrize(
    ("interfaces", "said"),
    [
        (["a-name-of-16-byte"], "1 to 15 bytes"),
        ([""], "1 to 15 bytes"),
        (["net 1"], "no blank"),
        (["net1", "net1"], "two interfaces want the name 'net1'"),
    ],
)
def test_bad_interface_names_are_refused_and_leave_no_host(
    network: VirtualNetwork, interfaces: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        network.add_host("a", [on("wire", interface) for interface in interfaces])
    network.add_host("a", [on("wire", "net1")])


def test_a_name_is_given_once(network: VirtualNetwork) -> None:
    network.add_host("a", [on("wire", "net1")])
    with pytest.raises(ValueError, match="'a'"):
        network.add_host("a")


def test_the_poc_topology_is_up_and_down_quickly(capsys: pytest.CaptureFixture[str]) -> None:
    began_s = time.perf_counter()
    network = VirtualNetwork()
    network.start()
    network.add_host("vpn-b", [on("vlan-200", "vlan-200", "169.254.100.150/24", "100:100::150/64")])
    for number in (1, 2):
        name = f"gateway-{number}"
        network.add_host(
            name,
            [
                on("cluster", "eth0", f"10.244.1.{number}/16"),
                on("vlan-200", "vlan-200", f"169.254.100.{number}/24"),
                on("macvlan-nad-2", "net2", f"169.222.100.{number}/24"),
            ],
        )
    for number in range(3, 7):
        name = f"target-{number}"
        network.add_host(
            name,
            [
                on("cluster", "eth0", f"10.244.1.{number}/16"),
                on("macvlan-nad-2", "net2", f"169.222.100.{number}/24"),
            ],
        )
    up_s = time.perf_counter() - began_s
    assert answers(network, "gateway-1", "target-6", "169.222.100.6")
    began_s = time.perf_counter()
    network.stop()
    with capsys.disabled():
        sys.stdout.write(f" [up {up_s:.3f} s, down {time.perf_counter() - began_s:.3f} s]")


def test_a_process_that_ends_while_its_host_is_removed_is_no_trouble(
    network: VirtualNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = network.add_host("a", [on("wire", "eth0", "192.0.2.1/24")])
    process, ended = sleeping_in(host), sleeping_in(host)
    ended.kill()
    assert_killed(ended)
    monkeypatch.setattr(topology, "processes_in", lambda found: [ended.pid, *processes_in(found)])
    network.remove_host("a")
    assert_killed(process)
    assert "a" not in [view.name for view in network.hosts()]


def test_a_host_that_has_lost_an_interface_is_removed_all_the_same(network: VirtualNetwork) -> None:
    wires = [on("one", "eth0", "192.0.2.1/24"), on("two", "eth1", "198.51.100.1/24")]
    host = network.add_host("a", wires)
    network.add_host("b", [on("two", "eth0", "198.51.100.2/24")])
    process = sleeping_in(host)
    run_in(host.namespace, ["ip", "link", "del", "eth0"])
    with pytest.raises(DataplaneError, match="eth0"):
        network.remove_host("a")
    assert_killed(process)
    assert "a" not in [view.name for view in network.hosts()]
    network.add_host("a", wires)
    assert answers(network, "a", "b", "198.51.100.2")


def test_a_command_that_hangs_is_an_error_of_the_data_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "COMMAND_DEADLINE_S", 0.1)
    with pytest.raises(DataplaneError, match="sleep 1000 did not end within"):
        run_in(Path("/proc/self/ns/net"), ["sleep", "1000"])
