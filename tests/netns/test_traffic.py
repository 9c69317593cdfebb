"""Targets from the fork server and the traffic client, over a wire that the tests may break."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Literal

import pytest

from sim.cluster.processes import ForkedProcess, ForkServer, StartError
from sim.net.impair import Impairments
from sim.net.topology import Attachment, VirtualNetwork
from sim.net.traffic import FlowKey, TrafficClient, TrafficError

pytestmark = pytest.mark.sandbox

CLIENT4, TARGET4 = ip_address("192.0.2.1"), ip_address("192.0.2.2")
CLIENT6, TARGET6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")


class Street:
    """A client and a target on one wire."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = VirtualNetwork()
        self.network.start()
        self.impairments = Impairments(self.network)
        for name, addresses in (("client", (CLIENT4, CLIENT6)), ("target", (TARGET4, TARGET6))):
            interfaces = tuple(ip_interface(f"{address}/{24 if address.version == 4 else 64}") for address in addresses)
            self.network.add_host(name, [Attachment(network="wire", interface="net1", addresses=interfaces)])
        self.forks = ForkServer()
        self.target = self.start_target()
        self.client = TrafficClient(self.network, "client", log=folder / "client.log")

    def start_target(self) -> ForkedProcess:
        return self.forks.spawn(
            "target",
            [],
            environment={"HOSTNAME": "target-1"},
            network=self.network.host("target").namespace,
            log=self.folder / "target.log",
        )

    def close(self) -> None:
        self.client.stop()
        self.forks.close()
        self.network.stop()


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    street = Street(tmp_path)
    yield street
    street.close()


def flows(
    count: int, *, first_port: int = 40000, port: int = 4000, six: bool = False, protocol: Literal["TCP", "UDP"] = "TCP"
) -> list[FlowKey]:
    return [
        FlowKey(
            source=CLIENT6 if six else CLIENT4,
            source_port=first_port + number,
            destination=TARGET6 if six else TARGET4,
            port=port,
            protocol=protocol,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_400_short_connections_all_answered(street: Street, six: bool, capsys: pytest.CaptureFixture[str]) -> None:
    asked = flows(400, six=six)
    batch = street.client.open(asked)
    results = street.client.results(batch, deadline_s=10)
    opened = street.client.wait_opened(batch, deadline_s=0)
    assert [result.flow for result in results] == asked
    assert {result.target for result in results} == {"target-1"}
    assert (opened.established, opened.failed) == (400, 0)
    assert all(result.established_s is not None and result.lost_s is None for result in results)
    took_s = max(result.answered_s or 0.0 for result in results) - min(
        result.established_s or 0.0 for result in results
    )
    with capsys.disabled():
        sys.stdout.write(f" [400 connections in {took_s:.3f} s]")


def test_the_same_ports_can_be_used_again_at_once(street: Street) -> None:
    for _ in range(3):
        results = street.client.results(street.client.open(flows(50)), deadline_s=10)
        assert [result.error for result in results] == [None] * 50


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_udp_is_answered_from_the_address_that_was_asked(street: Street, six: bool) -> None:
    batch = street.client.open(flows(20, port=4100, six=six, protocol="UDP"))
    results = street.client.results(batch, deadline_s=10)
    assert [(result.target, result.error, result.exchanges) for result in results] == [("target-1", None, 1)] * 20


def test_held_connections_exchange_lines_until_they_are_closed(street: Street) -> None:
    batch = street.client.open(flows(50), hold=True, every_s=0.05)
    assert street.client.wait_opened(batch, deadline_s=10).established == 50
    other = street.client.results(street.client.open(flows(10, first_port=50000)), deadline_s=10)
    assert all(result.error is None for result in other)
    results = street.client.close(batch, deadline_s=10)
    assert all(result.alive and result.lost_s is None and result.exchanges >= 1 for result in results)


def test_held_udp_flows_exchange_too(street: Street) -> None:
    batch = street.client.open(flows(5, port=4101, protocol="UDP"), hold=True, every_s=0.05)
    assert street.client.wait_opened(batch, deadline_s=10).established == 5
    results = street.client.close(batch, deadline_s=10)
    assert all(result.alive and result.error is None and result.exchanges >= 2 for result in results)


def test_connections_of_a_target_that_dies_are_broken_and_say_when(street: Street) -> None:
    batch = street.client.open(flows(10), hold=True, every_s=0.05)
    street.client.wait_opened(batch, deadline_s=10)
    killed_s = time.monotonic() - street.client.start_s
    street.target.send_signal(signal.SIGKILL)
    assert street.target.wait(5)
    assert street.target.exit_code() == -signal.SIGKILL
    results = street.client.close(batch, deadline_s=10)
    assert all(not result.alive and result.error for result in results)
    assert all(result.lost_s is not None and killed_s < result.lost_s < killed_s + 5 for result in results)
    assert {result.target for result in results} == {"target-1"}


def test_mute_connections_are_broken_at_the_end(street: Street) -> None:
    batch = street.client.open(flows(3), hold=True, every_s=0.05, timeout_s=0.3)
    street.client.wait_opened(batch, deadline_s=10)
    street.impairments.blackhole("target")
    results = street.client.close(batch, deadline_s=10)
    assert [result.error for result in results] == ["no answer at the end"] * 3
    assert all(result.lost_s is not None for result in results)


def test_refused_and_unanswered_connections_are_failures_not_broken(street: Street) -> None:
    refused = street.client.results(street.client.open(flows(3, port=9)), deadline_s=10)
    assert [(result.error, result.established_s, result.lost_s) for result in refused] == [
        ("Connection refused", None, None)
    ] * 3
    refused_udp = street.client.results(street.client.open(flows(2, port=9, protocol="UDP")), deadline_s=10)
    assert [result.error for result in refused_udp] == ["Connection refused"] * 2
    street.impairments.blackhole("target")
    mute = street.client.results(street.client.open(flows(3), timeout_s=0.2), deadline_s=10)
    assert [(result.error, result.established_s) for result in mute] == [("timed out", None)] * 3


def test_a_source_address_that_the_host_does_not_have_is_said(street: Street) -> None:
    stranger = FlowKey(source=ip_address("203.0.113.9"), source_port=40000, destination=TARGET4, port=4000)
    (result,) = street.client.results(street.client.open([stranger]), deadline_s=10)
    assert result.error == "Cannot assign requested address"


def test_connections_are_opened_at_the_rate_that_was_asked(street: Street) -> None:
    results = street.client.results(street.client.open(flows(20), rate_per_s=100.0), deadline_s=10)
    times_s = [result.established_s or 0.0 for result in results]
    assert 0.18 < times_s[-1] - times_s[0] < 1.0


def test_an_empty_batch_ends_at_once(street: Street) -> None:
    assert street.client.results(street.client.open([]), deadline_s=10) == ()


def test_a_client_that_was_killed_is_an_error(street: Street) -> None:
    os.kill(street.client._process.pid, signal.SIGKILL)
    with pytest.raises(TrafficError, match=r"ended|takes no more commands"):
        street.client.results(street.client.open(flows(1)), deadline_s=10)
    street.client.stop()
    street.client = TrafficClient(street.network, "client", log=street.folder / "client.log")


def test_programs_of_the_fork_server_live_in_their_namespace_and_die_with_it(street: Street) -> None:
    many = []
    began_s = time.perf_counter()
    for number in range(20):
        host = street.network.add_host(f"t{number}")
        many.append(
            street.forks.spawn(
                "target",
                [],
                environment={"HOSTNAME": f"t{number}"},
                network=host.namespace,
                log=street.folder / "t.log",
            )
        )
    took_s = time.perf_counter() - began_s
    assert took_s < 10
    for number, process in enumerate(many):
        inside = Path(f"/proc/{process.pid}/ns/net").stat().st_ino
        assert inside == street.network.host(f"t{number}").namespace.stat().st_ino
    street.forks.close()
    assert all(process.wait(5) for process in many)


def test_a_program_that_ends_before_it_is_ready_has_an_exit_code_and_a_log(street: Street) -> None:
    log = street.folder / "second.log"
    second = street.forks.spawn(
        "target", [], environment={"HOSTNAME": "x"}, network=street.network.host("target").namespace, log=log
    )
    assert second.wait(5)
    assert second.exit_code() == 1
    assert "Address already in use" in log.read_text()


def test_an_unknown_program_or_namespace_does_not_harm_the_server(street: Street, tmp_path: Path) -> None:
    log = tmp_path / "unknown.log"
    for program, network in (("no-such", Path("/proc/self/ns/net")), ("target", tmp_path / "nothing")):
        failed = street.forks.spawn(program, [], environment={}, network=network, log=log)
        assert failed.wait(5)
        assert failed.exit_code() == 1
    assert "no-such" in log.read_text()
    street.forks.close()
    with pytest.raises(StartError, match="not running"):
        street.forks.send({"signal": 15, "pid": 1})
