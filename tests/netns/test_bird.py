"""BIRD itself: two of them on one wire, one of them ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from core.errors import DataplaneError, InputError, MachineError
from live.bird import Bird
from live.bird_reply import Session
from tests.conftest import require
from tests.netns._lab import same_moment

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 15.0
VIP, OTHER_VIP = ip_network("20.0.0.1/32"), ip_network("40.0.0.1/32")

PEER = """
router id {own};
timeformat protocol iso long ms;
protocol device {{ scan time 1; }}
protocol bfd {{ interface "*" {{ min rx interval 50 ms; min tx interval 50 ms; multiplier 5; }}; }}
protocol static vips {{ ipv4; {routes} }}
protocol bgp peer_a {{
    local {own} port 10179 as {own_asn};
    neighbor {other} port 10179 as {other_asn};
    bfd on;
    connect delay time 1; connect retry time 2; error wait time 1,2; error forget time 5;
    ipv4 {{ import all; export all; }};
}}
"""


@pytest.fixture(autouse=True)
def _bird_or_skip() -> None:
    require("netns", shutil.which("bird") is not None, "BIRD is missing: apt-get install bird2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bird"


@pytest.fixture
def bird(folder: Path) -> Iterator[Bird]:
    ours = Bird(folder)
    yield ours
    ours.stop()


def text(*vips: object) -> str:
    routes = "".join(f"route {vip} blackhole; " for vip in vips)
    return PEER.format(own="10.0.0.1", other="10.0.0.2", own_asn=8103, other_asn=4248829953, routes=routes)


ALONE = "router id 1.1.1.1;\nprotocol device {}\n"


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Bird]:
    """A BIRD in a namespace of its own at the other end of a wire."""
    holder = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "echo ready; exec sleep 600"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    inside = ("nsenter", "-t", str(holder.pid), "-n")
    for command in (
        f"ip link add net1 type veth peer name net1 netns {holder.pid}",
        "ip addr add 10.0.0.1/24 dev net1",
        "ip link set net1 up",
    ):
        subprocess.run(command.split(), check=True)
    for command in ("ip addr add 10.0.0.2/24 dev net1", "ip link set net1 up"):
        subprocess.run([*inside, *command.split()], check=True)
    peer = Bird(tmp_path / "remote", command=(*inside, "bird"))
    peer.configure(PEER.format(own="10.0.0.2", other="10.0.0.1", own_asn=4248829953, other_asn=8103, routes=""))
    yield peer
    peer.stop()
    holder.kill()
    holder.wait()
    holder.stdout.close()


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def session(bird: Bird) -> Session:
    (only,) = bird.sessions()
    return only


def learned(bird: Bird) -> set[object]:
    return {route.prefix for route in bird.routes() if route.protocol == "peer_a"}


def test_sessions_and_routes_are_observed_and_a_change_disturbs_no_session(bird: Bird, remote: Bird) -> None:
    assert bird.configure(text(VIP)) is True
    eventually(lambda: session(bird).established and session(bird).bfd == "Up", "BGP and BFD come up")
    before = session(bird)
    assert before.neighbor == ip_address("10.0.0.2")
    assert before.neighbor_asn == 4248829953
    eventually(lambda: learned(remote) == {VIP}, "the VIP is announced")
    (route,) = (route for route in remote.routes() if route.prefix == VIP)
    assert route.next_hops == ((ip_address("10.0.0.1"), "net1"),)
    assert route.best
    assert session(bird).channels[0].exported == 1

    assert bird.configure(text(VIP)) is False
    assert bird.configure(text(VIP, OTHER_VIP)) is True
    eventually(lambda: learned(remote) == {VIP, OTHER_VIP}, "the new VIP is announced")
    assert bird.configure(text()) is True
    eventually(lambda: learned(remote) == set(), "all VIPs are withdrawn")
    assert same_moment(session(bird).since, before.since)

    remote.stop()
    eventually(lambda: not session(bird).established, "the end of the peer is noticed")
    eventually(lambda: session(bird).last_error != "", "and why")


def test_a_new_agent_finds_bird_and_its_sessions_undisturbed(bird: Bird, remote: Bird, folder: Path) -> None:
    bird.configure(text(VIP))
    eventually(lambda: session(bird).established, "BGP comes up")
    before, pid = session(bird), bird.pid
    bird.close()
    successor = Bird(folder)
    assert successor.pid == pid
    successor.configure(text(VIP))
    successor.configure(text(VIP, OTHER_VIP))
    eventually(lambda: learned(remote) == {VIP, OTHER_VIP}, "the successor is obeyed")
    assert successor.pid == pid
    assert same_moment(session(successor).since, before.since)
    successor.close()


def test_bird_outlives_the_process_that_started_it(bird: Bird, folder: Path) -> None:
    program = "import os, signal, sys; from pathlib import Path; from live.bird import Bird\n"
    program += f"Bird(Path({str(folder)!r})).configure({ALONE!r}); os.kill(os.getpid(), signal.SIGKILL)"
    agent = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True)
    assert agent.returncode == -signal.SIGKILL, agent.stderr
    assert bird.pid is not None
    assert os.getsid(bird.pid) == bird.pid


def test_a_wrong_configuration_is_refused_with_birds_words_and_what_ran_runs_on(bird: Bird, folder: Path) -> None:
    wrong = "router id 1.1.1.1;\nprotocol bgp 'vpn' { }\n"
    with pytest.raises(DataplaneError, match=r":2:\d+ syntax error.*line 2 is \"protocol bgp 'vpn'"):
        bird.configure(wrong)
    assert bird.pid is None
    bird.configure(ALONE)
    pid = bird.pid
    with pytest.raises(DataplaneError, match="syntax error"):
        bird.configure(wrong)
    assert bird.pid == pid
    assert (folder / "bird.conf").read_text() == ALONE
    assert bird.configure(ALONE) is False


def test_passwords_stay_secret(bird: Bird, folder: Path) -> None:
    with pytest.raises(DataplaneError) as caught:
        bird.configure('router id 1.1.1.1;\nprotocol bgp x { password "hunter2" oops; }\n')
    assert "syntax error" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    bird.configure(ALONE)
    assert (folder / "bird.conf").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_bird_that_dies_is_missed_and_started_again(folder: Path) -> None:
    died = threading.Event()
    bird = Bird(folder, on_death=died.set)
    bird.configure(ALONE)
    pid = bird.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert died.wait(DEADLINE_S)
    assert bird.pid is None
    with pytest.raises(DataplaneError, match="does not answer"):
        bird.sessions()
    assert bird.configure(ALONE) is True
    assert bird.pid not in (None, pid)
    assert bird.sessions() == ()
    assert bird.bfd_sessions() == ()
    died.clear()
    bird.stop()
    bird.stop()
    assert bird.pid is None
    assert not died.is_set()


def test_an_adopted_bird_that_dies_is_missed_too(bird: Bird, folder: Path) -> None:
    died = threading.Event()
    bird.configure(ALONE)
    successor = Bird(folder, on_death=died.set)
    assert successor.pid == bird.pid
    assert successor.pid is not None
    os.kill(successor.pid, signal.SIGKILL)
    assert died.wait(DEADLINE_S)
    assert successor.configure(ALONE) is True
    successor.stop()


def test_the_log_of_a_long_life_is_bounded(bird: Bird, folder: Path) -> None:
    logged = folder / "bird.log"
    bird.configure(ALONE + "log stderr all;\n")
    with logged.open("a") as file:
        file.write("refused again\n" * 100_000)
    bird.sessions()
    assert logged.stat().st_size == 0
    bird.configure(ALONE + "log stderr all;\nprotocol static { ipv4; }\n")
    eventually(lambda: "Reconfigur" in logged.read_text(), "BIRD goes on writing, at the beginning")
    assert "refused again" in (folder / "bird.log.1").read_text()


def test_what_the_machine_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="apt-get install bird2"):
        Bird(tmp_path, command=("no-such-bird",)).configure(ALONE)
    with pytest.raises(InputError, match="control socket"):
        Bird(tmp_path / ("x" * 120))
