"""An outside router with real BIRDs as gateway pods: sessions, ECMP, and what is left when one goes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from sim.net.bird_control import BirdError
from sim.net.impair import Impairments
from sim.net.namespaces import run_in
from sim.net.routers import BirdSpeaker, OutsideRouter, add_router, wait_for
from sim.net.topology import Attachment, VirtualNetwork

pytestmark = pytest.mark.sandbox

VPN = OutsideRouter(
    name="vpn-b",
    network="eth0.200",
    interface="vlan-200",
    addresses=(ip_interface("169.254.100.150/24"), ip_interface("100:100::150/64")),
    loopback=(ip_interface("200.100.0.100/32"), ip_interface("200:100::100/128")),
)
VIP4, VIP6 = ip_network("20.0.0.1/32"), ip_network("2000::1/128")

POD = """
log stderr {{ error, fatal }};
router id 169.254.100.{number};
protocol device {{ scan time 1; }}
protocol bfd {{ interface "*" {{ min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }}; }}
protocol static p_vip4 {{ ipv4; route 20.0.0.1/32 blackhole; }}
protocol static p_vip6 {{ ipv6; route 2000::1/128 blackhole; }}
protocol kernel p_k4 {{ ipv4 {{ import none; export where source = RTS_BGP; }}; kernel table 4096; scan time 1; }}
template bgp t_s {{
  hold time 3; error wait time 1, 2; error forget time 5; connect delay time 1; connect retry time 2; bfd on;
}}
protocol bgp p_b4 from t_s {{
  local 169.254.100.{number} port 10179 as 8103; neighbor 169.254.100.150 port 10179 as 4248829953;
  ipv4 {{ import all; export where source = RTS_STATIC; }};
}}
protocol bgp p_b6 from t_s {{
  local 100:100::{number} port 10179 as 8103; neighbor 100:100::150 port 10179 as 4248829953;
  ipv6 {{ import all; export where source = RTS_STATIC; }};
}}
"""


class Wire:
    """An outside router and gateway pods (a BIRD each) on one VLAN."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = VirtualNetwork()
        self.network.start()
        self.vpn = add_router(self.network, VPN, run_dir=folder, log_dir=folder)
        self.pods: dict[int, subprocess.Popen[bytes]] = {}

    def add_pod(self, number: int) -> None:
        addresses = (ip_interface(f"169.254.100.{number}/24"), ip_interface(f"100:100::{number}/64"))
        attachment = Attachment(network=VPN.network, interface="vlan-200", addresses=addresses)
        host = self.network.add_host(f"pod-{number}", [attachment])
        configuration = self.folder / f"pod-{number}.conf"
        configuration.write_text(POD.format(number=number))
        command = ["bird", "-f", "-c", str(configuration), "-s", str(self.folder / f"pod-{number}.ctl")]
        self.pods[number] = host.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_for_ecmp(self, *numbers: int) -> None:
        hops4 = frozenset(ip_address(f"169.254.100.{number}") for number in numbers)
        hops6 = frozenset(ip_address(f"100:100::{number}") for number in numbers)
        wait_for(
            self.vpn,
            lambda state: state.next_hops(VIP4) == hops4 and state.next_hops(VIP6) == hops6,
            deadline_s=10,
            what=f"the VIPs lead to pods {numbers} in both families",
        )

    def close(self) -> None:
        self.vpn.kill()
        for process in self.pods.values():
            process.kill()
            process.wait()
        self.network.stop()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path)
    yield wire
    wire.close()


def test_routes_of_two_pods_get_in_as_ecmp_and_leave_when_one_pod_dies(
    wire: Wire, capsys: pytest.CaptureFixture[str]
) -> None:
    began_s = time.perf_counter()
    wire.vpn.start()
    wire.add_pod(1)
    wire.add_pod(2)
    wire.wait_for_ecmp(1, 2)
    up_s = time.perf_counter() - began_s

    state = wire.vpn.observe()
    assert {str(session.neighbor) for session in state.established} == {
        "169.254.100.1",
        "169.254.100.2",
        "100:100::1",
        "100:100::2",
    }
    assert {session.asn for session in state.sessions} == {8103}
    assert IPv4Network("0.0.0.0/0") not in {route.prefix for route in state.routes}
    default = run_in(wire.network.host("pod-1").namespace, ["ip", "route", "show", "table", "4096"])
    assert default.startswith("default via 169.254.100.150 dev vlan-200")
    wait_for(
        wire.vpn,
        lambda state: {session.state for session in state.bfd} == {"Up"} and len(state.bfd) == 4,
        deadline_s=10,
        what="four BFD sessions are up",
    )

    began_s = time.perf_counter()
    wire.pods[1].kill()
    wire.wait_for_ecmp(2)
    with capsys.disabled():
        sys.stdout.write(f" [ECMP after {up_s:.2f} s, death seen after {time.perf_counter() - began_s:.3f} s]")


def test_bfd_sees_a_blackhole_long_before_the_hold_time_and_all_comes_back(wire: Wire) -> None:
    wire.vpn.start()
    wire.add_pod(1)
    wire.add_pod(2)
    wire.wait_for_ecmp(1, 2)
    wait_for(wire.vpn, lambda state: len(state.bfd) == 4, deadline_s=10, what="BFD sessions exist")
    impairments = Impairments(wire.network)
    wait_for(
        wire.vpn,
        lambda state: all(session.state == "Up" for session in state.bfd),
        deadline_s=10,
        what="BFD sessions are up",
    )
    began_s = time.monotonic()
    impairments.blackhole("pod-1")
    wire.wait_for_ecmp(2)
    assert time.monotonic() - began_s < 2.0  # 3 x 300 ms by BFD, at least 2 s by the hold time of 3 s
    impairments.mend("pod-1")
    wire.wait_for_ecmp(1, 2)


def test_stop_takes_the_routes_back_and_start_learns_them_again(wire: Wire) -> None:
    wire.vpn.start()
    wire.add_pod(1)
    wire.wait_for_ecmp(1)
    wire.vpn.stop()
    stopped = wire.vpn.observe()
    assert not stopped.running
    assert not stopped.sessions
    assert not stopped.routes
    wire.vpn.start()
    wire.wait_for_ecmp(1)


def test_after_kill_the_routes_are_left_over(wire: Wire) -> None:
    wire.vpn.start()
    wire.add_pod(1)
    wire.wait_for_ecmp(1)
    wire.vpn.kill()
    left = wire.vpn.observe()
    assert not left.running
    assert left.next_hops(VIP4) == {ip_address("169.254.100.1")}


def test_a_configuration_that_bird_refuses_is_an_error_with_birds_words(wire: Wire) -> None:
    broken = dataclasses.replace(VPN, interface='"')
    speaker = BirdSpeaker(wire.network, broken, run_dir=wire.folder, log_dir=wire.folder)
    with pytest.raises(BirdError, match=r"vpn-b did not start: bird: .*Unterminated string"):
        speaker.start()
