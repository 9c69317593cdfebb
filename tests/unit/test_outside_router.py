"""The configuration of outside routers and what is read from BIRD's answers."""

from __future__ import annotations

import dataclasses
import socket
import threading
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from sim.net.bird_control import BirdError, ask, bfd_sessions, bgp_sessions
from sim.net.routers import LearnedRoute, NextHop, OutsideRouter, RouterState, render

ROUTER = OutsideRouter(
    name="vpn-a",
    network="eth0.100",
    interface="vlan-100",
    addresses=(ip_interface("169.254.100.150/24"), ip_interface("100:100::150/64")),
)

PROTOCOLS = """\
2002-Name       Proto      Table      State  Since         Info
1002-p_wait4    BGP        ---        start  08:05:37.308  Passive
1006-  BGP state:          Passive
     Neighbor range:   169.254.100.0/24
     Neighbor AS:      8103
·
1002-p_pod6_1   BGP        ---        up     08:05:38.093  Established
1006-  BGP state:          Established
     Neighbor address: 100:100::2
     Neighbor AS:      8103
   Channel ipv6
     State:          UP
·
1002-p_pod4_1   BGP        ---        start  08:05:38.093  Idle  BGP Error: Bad peer AS
1006-  BGP state:          Idle
     Neighbor address: 169.254.100.2
     Neighbor AS:      4248829953
·
0000·
""".replace("·", " ")
BFD = """\
1020-p_bfd:
 IP address                Interface  State      Since         Interval  Timeout
 100:100::2                vlan-100   Up         08:05:38.132    0.300    1.500
 169.254.100.1             vlan-100   Down       08:05:38.199    0.000    0.000
0000·
""".replace("·", " ")


class FakeBird:
    """Answers like BIRD on a Unix socket: a greeting, then one text for every command."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"0001 BIRD 2.0.12 ready.\n")
                if connection.recv(1000):
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "bird.ctl"


def answered(control: Path, text: str, command: str) -> tuple[tuple[int, str], ...]:
    bird = FakeBird(control, text.encode())
    try:
        return ask(control, command)
    finally:
        bird.close()


def test_sessions_are_read_and_listeners_left_out(control: Path) -> None:
    sessions = bgp_sessions(answered(control, PROTOCOLS, "show protocols all"))
    assert [(s.protocol, str(s.neighbor), s.asn, s.state, s.established) for s in sessions] == [
        ("p_pod6_1", "100:100::2", 8103, "Established", True),
        ("p_pod4_1", "169.254.100.2", 4248829953, "Idle", False),
    ]


def test_bfd_sessions_are_read(control: Path) -> None:
    sessions = bfd_sessions(answered(control, BFD, "show bfd sessions"))
    assert [(str(s.neighbor), s.interface, s.state) for s in sessions] == [
        ("100:100::2", "vlan-100", "Up"),
        ("169.254.100.1", "vlan-100", "Down"),
    ]


def test_a_refusal_is_an_error_with_birds_words(control: Path) -> None:
    with pytest.raises(BirdError, match="refused 'nonsense': syntax error"):
        answered(control, "9001 syntax error, unexpected CF_SYM_UNDEFINED\n", "nonsense")


def test_an_answer_that_breaks_off_is_an_error(control: Path) -> None:
    with pytest.raises(BirdError, match="middle of an answer"):
        answered(control, "1002-p_wait4\n", "show protocols")


def test_nobody_there_is_an_error(control: Path) -> None:
    with pytest.raises(BirdError, match="No such file"):
        ask(control, "show status")


def test_the_configuration_has_a_listener_and_a_default_route_a_family() -> None:
    text = render(ROUTER)
    assert "router id 169.254.100.150;" in text
    assert "neighbor range 169.254.100.0/24 port 10179 as 8103;" in text
    assert "neighbor range 100:100::/64 port 10179 as 8103;" in text
    assert "local 100:100::150 port 10179 as 4248829953;" in text
    assert "route 0.0.0.0/0 blackhole;" in text
    assert "route ::/0 blackhole;" in text
    assert "hold time 3; keepalive time 1;" in text
    assert "passive yes" in text


def test_bfd_password_and_hold_time_are_the_scenarios() -> None:
    other = dataclasses.replace(ROUTER, bfd=None, password="secret", hold_time_s=0)
    text = render(other)
    assert "bfd" not in text
    assert 'password "secret";' in text
    assert "hold time 0;" in text
    assert "keepalive" not in text


def test_a_router_of_ipv6_alone_has_a_router_id_all_the_same() -> None:
    only6 = dataclasses.replace(ROUTER, addresses=(ip_interface("100:100::150/64"),))
    (line,) = [line for line in render(only6).splitlines() if line.startswith("router id")]
    assert ip_address(line.split()[2].rstrip(";")) != ip_address("0.0.0.0")
    assert render(only6) == render(only6)
    assert "ipv4" not in render(only6)


@pytest.mark.parametrize("hold_time_s", [1, 2])
def test_hold_times_that_the_rfc_forbids_are_refused(hold_time_s: int) -> None:
    with pytest.raises(ValueError, match=f"hold time {hold_time_s} s: RFC 4271"):
        render(dataclasses.replace(ROUTER, hold_time_s=hold_time_s))


def test_next_hops_of_a_prefix() -> None:
    hops = tuple(NextHop(address=ip_address(f"10.0.0.{n}"), interface="x") for n in (1, 2))
    route = LearnedRoute(prefix=ip_network("20.0.0.1/32"), next_hops=hops)
    state = RouterState(running=True, sessions=(), bfd=(), routes=(route,))
    assert state.next_hops(ip_network("20.0.0.1/32")) == {ip_address("10.0.0.1"), ip_address("10.0.0.2")}
    assert state.next_hops(ip_network("40.0.0.1/32")) == frozenset()
