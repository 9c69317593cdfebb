"""A small lab for data planes and routes: an outside router, a gateway and targets, wired by veths; raw frames in, captures out.

    outside ──ext0── gateway ──net1── bridge ──net1── target-0 … target-n

For tests marked ``sandbox`` only: the namespaces are named in the sandbox's own /run and end with it.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from core.errors import DataplaneError
from core.model import Address
from sim.net.namespaces import ip_batch, prepare, run_in, within

DEADLINE_S = 10.0
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4


def add_namespace(name: str) -> Path:
    """A new namespace with `lo` up and the testbed's sysctls; the file that stands for it."""
    ip_batch(Path("/proc/self/ns/net"), [f"netns add {name}"])
    path = Path("/run/netns", name)
    prepare(path)
    ip_batch(path, ["link set dev lo up"])
    return path


def wait_forwarding(namespace: Path, port: str) -> None:
    """Returns when a port of a bridge forwards. The bridge learns of a carrier from a workqueue, which a busy machine delays."""
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        (link,) = json.loads(run_in(namespace, ["ip", "-json", "-details", "link", "show", "dev", port]))
        if link["linkinfo"]["info_slave_data"]["state"] == "forwarding":
            return
        assert time.monotonic() < deadline_s, f"{port} does not forward"
        time.sleep(0.02)


def same_moment(one: str, other: str) -> bool:
    """BIRD works it out from two clocks each time that it is asked."""
    return abs((datetime.fromisoformat(one) - datetime.fromisoformat(other)).total_seconds()) < 0.1


def target_address(n: int, version: int) -> Address:
    """The address of target n on the network behind the gateway."""
    return IPv4Address("10.2.0.10") + n if version == 4 else IPv6Address("fd02::10") + n


@dataclass(frozen=True, slots=True)
class Frame:
    """What a capture saw: when, how long and where."""

    target: int
    data: bytes


class Lab:
    """The namespaces of the picture above. `outside` reaches everything through the gateway; targets know only their network."""

    GATEWAY_INSIDE = (IPv4Address("10.2.0.1"), IPv6Address("fd02::1"))
    CLIENTS = ("200.100.0.100/32", "200:100::100/128")

    def __init__(self, targets: int = 4) -> None:
        self.outside = add_namespace("outside")
        self.gateway = add_namespace("gateway")
        self.wire = add_namespace("wire")
        self.targets = tuple(add_namespace(f"target-{n}") for n in range(targets))
        ip_batch(
            Path("/proc/self/ns/net"),
            [
                "link add name ext0 netns outside type veth peer name ext0 netns gateway",
                "link add name gateway netns wire type veth peer name net1 netns gateway",
                *(f"link add name t{n} netns wire type veth peer name net1 netns target-{n}" for n in range(targets)),
            ],
        )
        ports = ["gateway", *(f"t{n}" for n in range(targets))]
        ip_batch(
            self.wire,
            [
                "link add name br type bridge",
                "link set dev br up",
                *(f"link set dev {port} master br up" for port in ports),
            ],
        )
        ip_batch(self.outside, ["link set dev ext0 up", *self._addresses("ext0", "10.1.0.2/24", "fd01::2/64")])
        ip_batch(self.outside, [f"address add {client} dev lo" for client in self.CLIENTS])
        ip_batch(self.outside, ["route add default via 10.1.0.1", "route add ::/0 via fd01::1"])
        ip_batch(
            self.gateway,
            [
                "link set dev ext0 up",
                "link set dev net1 up",
                *self._addresses("ext0", "10.1.0.1/24", "fd01::1/64"),
                *self._addresses("net1", "10.2.0.1/24", "fd02::1/64"),
                "route add default via 10.1.0.2",
                "route add ::/0 via fd01::2",
            ],
        )
        for n, target in enumerate(self.targets):
            ip_batch(
                target,
                [
                    "link set dev net1 up",
                    *self._addresses("net1", f"{target_address(n, 4)}/24", f"{target_address(n, 6)}/64"),
                ],
            )

    @staticmethod
    def _addresses(interface: str, *addresses: str) -> list[str]:
        return [f"address add {address} dev {interface}{' nodad' if ':' in address else ''}" for address in addresses]

    @staticmethod
    def mac_of(namespace: Path, interface: str) -> bytes:
        """The MAC address of an interface, 6 bytes."""
        (link,) = json.loads(run_in(namespace, ["ip", "-json", "link", "show", "dev", interface]))
        return bytes.fromhex(link["address"].replace(":", ""))

    def send(self, packets: Iterable[bytes], target: int | None = None) -> None:
        """Sends IP packets from outside, or from a target, to the gateway, each in one frame."""
        mine = bytes.fromhex("020000000001")
        namespace, interface = (self.outside, "ext0") if target is None else (self.targets[target], "net1")
        mac = self.mac_of(self.gateway, interface)
        with within(namespace, lambda: raw_socket(interface)) as wire:
            for packet in packets:
                kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
                wire.send(mac + mine + kind + packet)

    def capture(self) -> Capture:
        """Listens on every target's ``net1`` from now on."""
        return Capture(self.targets)


def raw_socket(interface: str) -> socket.socket:
    """An AF_PACKET socket in the calling thread's namespace."""
    # With a protocol from the beginning it would have frames of all interfaces until it is bound.
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)
    made.bind((interface, ETH_P_ALL))
    return made


class Capture:
    """Incoming IP packets of many namespaces, without their Ethernet headers."""

    def __init__(self, namespaces: Sequence[Path], interface: str = "net1") -> None:
        self._sockets = [within(namespace, lambda: raw_socket(interface)) for namespace in namespaces]

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def collect(
        self, n: int, wanted: Callable[[bytes], bool] = lambda _: True, *, deadline_s: float = DEADLINE_S
    ) -> list[Frame]:
        """The next `n` packets that are `wanted`, or fewer when the deadline comes first."""
        found: list[Frame] = []
        deadline = time.monotonic() + deadline_s
        while len(found) < n and (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(self._sockets, [], [], left)
            for each in ready:
                data, origin = each.recvfrom(65535)
                packet = data[14:]
                if origin[2] != PACKET_OUTGOING and self._is_ip(packet) and wanted(packet):
                    found.append(Frame(self._sockets.index(each), packet))
        return found

    @staticmethod
    def _is_ip(packet: bytes) -> bool:
        return len(packet) >= 20 and packet[0] >> 4 in (4, 6)


def addresses_of(packet: bytes) -> tuple[Address, Address]:
    """(source, destination) of an IP packet."""
    if packet[0] >> 4 == 4:
        return ip_address(packet[12:16]), ip_address(packet[16:20])
    return ip_address(packet[8:24]), ip_address(packet[24:40])


def way_out(namespace: Path, source: str, *, arrived_on: str = "") -> str:
    """The interface by which a packet from `source` to a client outside leaves, forwarded or sent; ``""``: nowhere."""
    family, to = ("-6", "200:100::100") if ":" in source else ("-4", "200.100.0.100")
    words = ["ip", "-json", family, "route", "get", to, "from", source]
    try:
        found = json.loads(run_in(namespace, words + (["iif", arrived_on] if arrived_on else [])))
    except DataplaneError as error:
        if "unreachable" in str(error) or "Invalid argument" in str(error):  # what blackholes say
            return ""
        raise
    return str(found[0]["dev"])
