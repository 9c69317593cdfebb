"""Captures: every frame between start and stop, readable by others."""

from __future__ import annotations

import shutil
import socket
import subprocess
from ipaddress import ip_interface
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.utils import rdpcap

from sim.net.capture import Capture
from sim.net.namespaces import within
from sim.net.topology import Attachment, VirtualNetwork

pytestmark = pytest.mark.sandbox


def test_a_capture_has_what_was_sent_between_start_and_stop(tmp_path: Path) -> None:
    network = VirtualNetwork()
    network.start()
    for number in (1, 2):
        address = ip_interface(f"192.0.2.{number}/24")
        network.add_host(f"h{number}", [Attachment(network="wire", interface="net1", addresses=(address,))])

    def sender() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def receiver() -> socket.socket:
        made = sender()
        made.bind(("", 4100))
        made.settimeout(5)
        return made

    with (
        within(network.host("h1").namespace, sender) as here,
        within(network.host("h2").namespace, receiver) as there,
    ):
        here.sendto(b"before", ("192.0.2.2", 4100))
        assert there.recv(100) == b"before"
        capture = Capture(network, "h2", "net1", tmp_path / "h2.pcap")
        capture.start()
        for number in range(50):
            here.sendto(b"packet %d" % number, ("192.0.2.2", 4100))
            there.recv(100)
        captured = capture.stop()
        here.sendto(b"after", ("192.0.2.2", 4100))
        assert there.recv(100) == b"after"
    network.stop()

    payloads = [bytes(packet[UDP].payload) for packet in rdpcap(str(captured.path)) if UDP in packet]
    assert payloads == [b"packet %d" % number for number in range(50)]
    assert captured.packets >= 50
    assert captured.dropped == 0
    if shutil.which("tcpdump"):
        command = ["tcpdump", "-nr", str(captured.path), "udp"]
        read = subprocess.run(command, capture_output=True, text=True, check=True)
        assert len(read.stdout.splitlines()) == 50


def test_an_interface_that_is_not_there_is_an_error_at_the_start(tmp_path: Path) -> None:
    network = VirtualNetwork()
    network.start()
    network.add_host("h1")
    with pytest.raises(OSError, match="No such device"):
        Capture(network, "h1", "net9", tmp_path / "h1.pcap").start()
    network.stop()
