"""A gateway between a client and targets, each in a network namespace that only this process knows of: it dies with the process.

client c0 ------ ext0 GATEWAY t0 ------ net1 target 0
                      |       t1 ------ net1 target 1  ...
                      eth0 --- primary (where nothing of a VIP may ever be seen)
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from core.lb.forwarding import Target
from core.model import Address
from live.namespaces import inside

DEADLINE_S = 10.0
VIP_NETWORKS = ("20.0.0.0/8", "2001:db8:20::/48")
"""Everything that tests use as a VIP: its replies go back to the client, as the router's agent sees to."""
REPLY_TABLE = 4096
_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_libc = ctypes.CDLL(None, use_errno=True)

Result = TypeVar("Result")


class Namespace:
    """A network namespace without a name."""

    def __init__(self) -> None:
        opened: list[int] = []

        def make() -> None:
            clone_newnet = 0x40000000
            if _libc.unshare(clone_newnet):
                raise OSError(ctypes.get_errno(), "unshare")
            opened.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        self._fd = opened[0]
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._fd}")

    def run(self, action: Callable[[], Result]) -> Result:
        return inside(self.path, action)

    def ip(self, *commands: str) -> None:
        """Runs `ip` commands, those that begin with -6 for IPv6, in two batches."""

        def run() -> None:
            for version in ("-4", "-6"):
                mine = [c.removeprefix("-6 ") for c in commands if c.startswith("-6 ") == (version == "-6")]
                subprocess.run(["ip", version, "-batch", "-"], input="\n".join(mine), text=True, check=True)

        self.run(run)

    def sysctl(self, **values: str) -> None:
        """``net__ipv4__ip_forward="1"``."""

        def write() -> None:
            for name, value in values.items():
                Path("/proc/sys", *name.split("__")).write_text(value)

        self.run(write)

    def close(self) -> None:
        os.close(self._fd)


def quiet(namespace: Namespace) -> None:
    """No automatic addresses, no duplicate address detection, no reverse path filter."""
    namespace.sysctl(
        net__ipv6__conf__default__addr_gen_mode="1",
        net__ipv6__conf__all__accept_dad="0",
        net__ipv6__conf__default__accept_dad="0",
        net__ipv4__conf__all__rp_filter="0",
        net__ipv4__conf__default__rp_filter="0",
    )
    namespace.ip("link set lo up")


@dataclass(slots=True)
class Port:
    """A packet socket on an interface, in its namespace."""

    name: str
    socket: socket.socket
    mac: bytes = b""
    frames: list[bytes] = field(default_factory=list)

    @classmethod
    def open(cls, namespace: Namespace, name: str) -> Port:
        def make() -> Port:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            so_rcvbufforce = 33
            opened.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, 64 << 20)
            opened.bind((name, _ETH_P_ALL))
            opened.setblocking(False)
            return cls(name, opened, mac=opened.getsockname()[4])

        return namespace.run(make)

    def drain(self) -> list[bytes]:
        """The frames that have arrived since; frames that this namespace has sent are left out."""
        arrived: list[bytes] = []
        while True:
            try:
                frame, address = self.socket.recvfrom(65_600)
            except BlockingIOError:
                return arrived
            if address[2] != _PACKET_OUTGOING:
                arrived.append(frame)


@dataclass(slots=True)
class World:
    client: Namespace
    gateway: Namespace
    primary: Namespace
    targets: list[Namespace]
    client_port: Port
    primary_port: Port
    target_ports: list[Port]
    gateway_mac: bytes

    interfaces: tuple[str, ...] = ("ext0",)
    """Where VIP traffic comes in."""

    def target(self, index: int, version: int, service: str = "default/service", slot: int | None = None) -> Target:
        """Target number `index`, as an endpoint of a service."""
        slot = index if slot is None else slot
        return Target(service=service, slot=slot, address=target_address(index, version), pod=f"pod-{index}")

    def number_of(self, address: Address) -> int:
        return next(i for i in range(len(self.targets)) if address in (target_address(i, 4), target_address(i, 6)))

    def send(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            while True:
                try:
                    self.client_port.socket.send(frame)
                    break
                except BlockingIOError:
                    select.select([], [self.client_port.socket], [], DEADLINE_S)

    def exchange(self, frames: Sequence[bytes]) -> Seen:
        """What every end has seen when all that `frames` set off is over."""
        seen = Seen(client=[], primary=[], targets=[[] for _ in self.targets])
        for first in range(0, len(frames), 64):
            self.send(frames[first : first + 64])
            self._collect(seen)
        # Packets pass in order. What goes through the gateway twice (an answer, fragments) is queued behind the first marker and before
        # the second.
        for round_ in range(3):
            self._pass_markers(seen, round_)
        return seen

    def _collect(self, seen: Seen) -> None:
        seen.client += self.client_port.drain()
        seen.primary += self.primary_port.drain()
        for frames, port in zip(seen.targets, self.target_ports, strict=True):
            frames += port.drain()

    def _pass_markers(self, seen: Seen, round_: int) -> None:
        """One packet to each target that the gateway routes like any other; returns when all have arrived."""
        marker = b"marker-%d-" % round_ + os.urandom(8)
        header = self.gateway_mac + self.client_port.mac + b"\x08\x00"
        self.send([header + _udp4(target_address(i, 4), marker) for i in range(len(self.targets))])
        deadline = time.monotonic() + DEADLINE_S
        missing = set(range(len(self.targets)))
        while missing:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"no marker at targets {sorted(missing)} within {DEADLINE_S} s"
            select.select([self.target_ports[i].socket for i in missing], [], [], left_s)
            self._collect(seen)
            missing = {i for i in missing if not any(marker in frame for frame in seen.targets[i])}
        for i, frames in enumerate(seen.targets):
            seen.targets[i] = [frame for frame in frames if marker not in frame]

    def close(self) -> None:
        for port in (self.client_port, self.primary_port, *self.target_ports):
            port.socket.close()
        for namespace in (self.client, self.gateway, self.primary, *self.targets):
            namespace.close()


@dataclass(slots=True)
class Seen:
    """Frames by where they arrived."""

    client: list[bytes]
    primary: list[bytes]
    targets: list[list[bytes]]


def target_address(index: int, version: int) -> Address:
    return ip_address(f"172.16.{index}.2" if version == 4 else f"fd00:16:{index}::2")


def _udp4(destination: Address, payload: bytes) -> bytes:
    from scapy.layers.inet import IP, UDP

    return bytes(IP(src="169.254.1.2", dst=str(destination)) / UDP(sport=9, dport=9) / payload)


@contextmanager
def world(target_count: int) -> Iterator[World]:
    """Namespaces and links, nothing programmed yet. Neighbours are known, so that no packet waits for one."""
    client, gateway, primary = Namespace(), Namespace(), Namespace()
    targets = [Namespace() for _ in range(target_count)]
    for namespace in (client, gateway, primary, *targets):
        quiet(namespace)
    gateway.sysctl(
        net__ipv4__ip_forward="1",
        net__ipv6__conf__all__forwarding="1",
        # The kernel's own ICMP errors, as many as tests ask for.
        net__ipv4__icmp_ratelimit="0",
        net__ipv4__icmp_msgs_per_sec="1000000",
        net__ipv4__icmp_msgs_burst="1000000",
        net__ipv6__icmp__ratelimit="0",
    )
    connect(gateway, "ext0", client, "c0", "169.254.1.{}/24", "fd00:1::{}/64")
    # So that the checksums of the kernel's own resets are there for a packet socket to see.
    gateway.run(lambda: subprocess.run(["ethtool", "-K", "ext0", "tx", "off"], check=True, stdout=subprocess.PIPE))
    connect(gateway, "eth0", primary, "eth0", "10.99.0.{}/24", "fd00:99::{}/64")
    for i, namespace in enumerate(targets):
        connect(gateway, f"t{i}", namespace, "net1", f"172.16.{i}.{{}}/24", f"fd00:16:{i}::{{}}/64")
    gateway.ip(
        "route add default via 10.99.0.2 dev eth0",
        "-6 route add default via fd00:99::2 dev eth0",
        f"route add default via 169.254.1.2 dev ext0 table {REPLY_TABLE}",
        f"-6 route add default via fd00:1::2 dev ext0 table {REPLY_TABLE}",
        *(f"{'-6 ' if ':' in vip else ''}rule add from {vip} lookup {REPLY_TABLE} pref 20100" for vip in VIP_NETWORKS),
    )
    made = World(
        client=client,
        gateway=gateway,
        primary=primary,
        targets=targets,
        client_port=Port.open(client, "c0"),
        primary_port=Port.open(primary, "eth0"),
        target_ports=[Port.open(namespace, "net1") for namespace in targets],
        gateway_mac=_mac(gateway, "ext0"),
    )
    try:
        yield made
    finally:
        made.close()


def connect(left: Namespace, left_name: str, right: Namespace, right_name: str, v4: str, v6: str) -> None:
    """A veth pair, up, with host 1 of both networks on the left and host 2 on the right; they know each other's MAC address."""
    left.ip(f"link add {left_name} type veth peer name {right_name} netns {right.path}")
    for namespace, name, host in ((left, left_name, 1), (right, right_name, 2)):
        namespace.ip(
            f"link set {name} up",
            f"address add {v4.format(host)} dev {name}",
            f"-6 address add {v6.format(host)} dev {name} nodad",
        )
    for namespace, name, other, other_name, host in (
        (left, left_name, right, right_name, 2),
        (right, right_name, left, left_name, 1),
    ):
        mac = _mac(other, other_name).hex(":")
        namespace.ip(
            f"neigh replace {v4.format(host).split('/')[0]} lladdr {mac} dev {name} nud permanent",
            f"-6 neigh replace {v6.format(host).split('/')[0]} lladdr {mac} dev {name} nud permanent",
        )


def _mac(namespace: Namespace, name: str) -> bytes:
    text = namespace.run(
        lambda: subprocess.run(["ip", "-br", "link", "show", name], capture_output=True, text=True, check=True)
    )
    return bytes.fromhex(text.stdout.split()[2].replace(":", ""))
