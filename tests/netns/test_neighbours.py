"""Neighbour entries are forgotten or doubted: those of the addresses that are named, and no others."""

from __future__ import annotations

import json
import select
import socket
import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from live import neighbours
from sim.net.namespaces import ip_batch, run_in, within
from tests.netns._lab import add_namespace, wait_forwarding

pytestmark = pytest.mark.sandbox

MAC = "02:00:00:00:00:01"


def known(namespace_entries: str) -> set[str]:
    return {entry["dst"] for entry in json.loads(namespace_entries)}


def test_only_what_is_named_is_forgotten() -> None:
    here = add_namespace("here")
    ip_batch(
        here,
        [
            "link add name net1 type veth peer name other",
            "link set dev net1 up",
            "link set dev other up",
            *(f"neigh add {a} dev net1 lladdr {MAC} nud stale" for a in ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")),
            f"neigh add 10.0.0.3 dev net1 lladdr {MAC} nud permanent",
        ],
    )
    named = {ip_address(a) for a in ("10.0.0.1", "fd00::1", "10.0.0.3", "10.0.0.99")}
    within(here, lambda: neighbours.forget(named))
    left = known(run_in(here, ["ip", "-json", "neigh", "show"]))
    assert left == {"10.0.0.2", "fd00::2", "10.0.0.3"}, "a permanent entry is somebody's wish"
    within(here, lambda: neighbours.forget(()))
    assert known(run_in(here, ["ip", "-json", "neigh", "show"])) == left


OLD_MAC = "02:00:00:00:00:99"
DEADLINE_S = 6.0
"""The kernel by itself needs 8 s: 5 until it doubts, 3 until it gives up."""


def receiver(namespace: Path, address: str) -> socket.socket:
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 4000))
        made.setblocking(False)
        return made

    return within(namespace, opened)


@pytest.mark.parametrize(("network", "bits"), [("10.0.0.", 24), ("fd00::", 64)])
def test_a_neighbour_that_was_replaced_is_found_and_one_that_stayed_loses_nothing(network: str, bits: int) -> None:
    """As after a restart, when it is not known who was where: every neighbour is doubted, and packets go on meanwhile."""
    switch = add_namespace("switch")
    ip_batch(switch, ["link add name br type bridge", "link set dev br up"])
    hosts = [add_namespace(name) for name in ("gateway", "stayed", "new")]
    for number, host in enumerate(hosts, 1):
        flags = "nodad" if ":" in network else ""
        ip_batch(host, [f"link add name net1 type veth peer name port{number} netns {switch}", "link set dev net1 up"])
        ip_batch(host, [f"address add {network}{number}/{bits} dev net1 {flags}"])
        ip_batch(switch, [f"link set dev port{number} master br", f"link set dev port{number} up"])
    for number in (1, 2, 3):
        wait_forwarding(switch, f"port{number}")
    gateway, stayed, new = hosts
    (link,) = json.loads(run_in(stayed, ["ip", "-json", "link", "show", "dev", "net1"]))
    addresses = {2: link["address"], 3: OLD_MAC}
    ip_batch(gateway, [f"neigh add {network}{n} dev net1 lladdr {mac} nud reachable" for n, mac in addresses.items()])
    with (
        receiver(stayed, f"{network}2") as at_stayed,
        receiver(new, f"{network}3") as at_new,
        receiver(gateway, f"{network}1") as sender,
    ):
        within(gateway, lambda: neighbours.doubt({ip_address(f"{network}{n}") for n in addresses}))
        sent, deadline_s = 0, time.monotonic() + DEADLINE_S
        while not select.select([at_new], [], [], 0.02)[0]:
            assert time.monotonic() < deadline_s, "nobody asked where the address is now"
            sender.sendto(b"new", (f"{network}3", 4000))
            sender.sendto(b"stayed", (f"{network}2", 4000))
            sent += 1
        assert sent, "nothing was sent before it was found"
        for _ in range(sent):
            assert select.select([at_stayed], [], [], 1.0)[0], "a packet to a neighbour that is where it was is lost"
            at_stayed.recv(100)
    entries = json.loads(run_in(gateway, ["ip", "-json", "neigh", "show", "dev", "net1"]))
    assert {entry["lladdr"] for entry in entries if entry["dst"] == f"{network}3"}.isdisjoint({OLD_MAC})


def test_what_is_not_known_or_permanent_is_not_doubted() -> None:
    here = add_namespace("here")
    ip_batch(
        here,
        [
            "link add name net1 type veth peer name other",
            "link set dev net1 up",
            "link set dev other up",
            f"neigh add 10.0.0.3 dev net1 lladdr {MAC} nud permanent",
            f"neigh add 10.0.0.4 dev net1 lladdr {MAC} nud reachable",
        ],
    )
    within(here, lambda: neighbours.doubt({ip_address(a) for a in ("10.0.0.3", "10.0.0.99")}))
    entries = json.loads(run_in(here, ["ip", "-json", "neigh", "show"]))
    states = {entry["dst"]: entry["state"] for entry in entries}
    assert states == {"10.0.0.3": ["PERMANENT"], "10.0.0.4": ["REACHABLE"]}
