"""Gateways between clients and targets, each in a network namespace that ends with this process, and the traffic program.

    client  c0 ---- ext0  gateway 0  t0 ---- net0  target 0
            c1 ---- ext0  gateway 1  t0 ---- net1  target 0 ...

One target per namespace. Neighbours are permanent, so that no packet waits for one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.errors import MachineError
from core.lb.forwarding import Target
from live.dataplane import bpf
from sim.net.namespaces import CLONE_NEWNET, ip_batch, prepare, within

Result = TypeVar("Result")
_PROG_TYPE_SCHED_CLS = 3
_TC_ACT_SHOT = 2
SOURCE = Path(__file__).with_name("load.c")
Ends = tuple[IPv4Address, IPv4Address]
"""Source and destination."""
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace without a name, prepared like those of the virtual network."""

    def __init__(self) -> None:
        opened: list[int] = []

        def make() -> None:
            if _libc.unshare(CLONE_NEWNET) == 0:
                opened.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if not opened:
            raise MachineError("no new network namespace can be made", "run as root, or allow user namespaces")
        self._descriptor = opened[0]
        self._links: list[int] = []
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")
        prepare(self.path)
        # Frames are counted: no link-local addresses, so none of what IPv6 sends of its own accord.
        self.run(lambda: Path("/proc/sys/net/ipv6/conf/default/addr_gen_mode").write_text("1"))
        self.ip("link set lo up")

    def run(self, call: Callable[[], Result]) -> Result:
        """What `call` returns inside."""
        return within(self.path, call)

    def ip(self, *commands: str) -> None:
        """`ip` commands, inside."""
        ip_batch(self.path, commands)

    def received(self, interface: str) -> int:
        """Packets that `interface` has received."""
        text = self.run(lambda: Path("/proc/thread-self/net/dev").read_text())
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{interface}:"))
        return int(line.split(":")[1].split()[1])

    @property
    def inode(self) -> int:
        """What no other namespace has at this time."""
        return os.fstat(self._descriptor).st_ino

    def drop_arriving(self, interface: str) -> None:
        """From now on, whatever arrives at `interface` is dropped at its ingress."""

        def attach() -> int:
            with bpf.closing(bpf.load_trivial(_PROG_TYPE_SCHED_CLS, result=_TC_ACT_SHOT)) as program:
                return bpf.link_tcx_ingress(program, socket.if_nametoindex(interface))

        self._links.append(self.run(attach))

    def close(self) -> None:
        for descriptor in (*self._links, self._descriptor):
            os.close(descriptor)


@dataclass(slots=True)
class Lab:
    """One client, some gateways, some targets."""

    client: Namespace
    gateways: list[Namespace]
    targets: list[Namespace]

    @classmethod
    def make(cls, *, gateways: int = 1, targets: int = 4) -> Lab:
        lab = cls(Namespace(), [Namespace() for _ in range(gateways)], [Namespace() for _ in range(targets)])
        for g, gateway in enumerate(lab.gateways):
            _connect(gateway, "ext0", lab.client, f"c{g}", f"169.254.{g}")
            for t, target in enumerate(lab.targets):
                _connect(gateway, f"t{t}", target, f"net{g}", f"172.{16 + g}.{t}")
        return lab

    def target(self, number: int, gateway: int = 0) -> Target:
        """Target `number` as `gateway` reaches it."""
        return Target(service="default/service", slot=number, address=address_of(number, gateway), pod=f"pod-{number}")

    def arrived(self) -> int:
        """Packets that the targets have got from the first gateway."""
        return sum(target.received("net0") for target in self.targets)

    def close(self) -> None:
        for namespace in (self.client, *self.gateways, *self.targets):
            namespace.close()


def address_of(target: int, gateway: int = 0) -> IPv4Address:
    """Where `gateway` reaches the target."""
    return IPv4Address(f"172.{16 + gateway}.{target}.2")


def _connect(left: Namespace, left_name: str, right: Namespace, right_name: str, network: str) -> None:
    left.ip(f"link add {left_name} numtxqueues 1 numrxqueues 1 type veth peer name {right_name} netns {right.path}")
    for namespace, name, host in ((left, left_name, 1), (right, right_name, 2)):
        namespace.ip(f"link set {name} up", f"address add {network}.{host}/24 dev {name}")
    for namespace, name, other, other_name, host in (
        (left, left_name, right, right_name, 2),
        (right, right_name, left, left_name, 1),
    ):
        mac = mac_of(other, other_name).hex(":")
        namespace.ip(f"neigh replace {network}.{host} lladdr {mac} dev {name} nud permanent")


def mac_of(namespace: Namespace, interface: str) -> bytes:
    """The MAC address of an interface."""

    def read() -> bytes:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as opened:
            opened.bind((interface, 0))
            mac: bytes = opened.getsockname()[4]
            return mac

    return namespace.run(read)


def udp_frames(lab: Lab, ends: Sequence[Ends], port: int = 4000) -> bytes:
    """A frame from and to each of `ends` by the first gateway, as the traffic program wants them."""
    macs = mac_of(lab.gateways[0], "ext0"), mac_of(lab.client, "c0")
    return b"".join(udp_frame(*macs, both, (1, port)) for both in ends)


def udp_frame(to_mac: bytes, from_mac: bytes, ends: Ends, ports: tuple[int, int]) -> bytes:
    """60 bytes (64 with the checksum on a wire), without a UDP checksum; `ports`: source, destination."""
    source, destination = ends
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 46, 0, 0x4000, 64, 17, 0, source.packed, destination.packed)
    udp = struct.pack(">HHHH", *ports, 26, 0) + bytes(18)
    return to_mac + from_mac + b"\x08\x00" + ip[:10] + _checksum(ip) + ip[12:] + udp


def _checksum(header: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF)


class Cost(NamedTuple):
    """What some frames or connections took."""

    cpu_ns: int
    wall_ns: int


@dataclass(slots=True)
class Load:
    """The traffic program at work, on one CPU."""

    program: Path
    folder: Path
    cpu: int = field(default_factory=lambda: max(os.sched_getaffinity(0)))
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def compile(cls, folder: Path) -> Load:
        """Raises MachineError without a compiler."""
        compiler = shutil.which("clang") or shutil.which("cc")
        if compiler is None:
            raise MachineError("no C compiler for the traffic of this benchmark", "apt-get install clang")
        program = folder / "load"
        subprocess.run([compiler, "-O2", "-o", str(program), str(SOURCE)], check=True)
        return cls(program, folder)

    def udp(self, lab: Lab, ends: Sequence[Ends]) -> Callable[[int], Cost]:
        """Sends so many frames between `ends` in turn, by the first gateway."""
        path = self.folder / f"frames-{len(self._processes)}"
        path.write_bytes(udp_frames(lab, ends))
        return self._start("udp", str(lab.client.path), "c0", str(path))

    def tcp(self, lab: Lab, address: IPv4Address, port: int) -> Callable[[int], Cost]:
        """Makes so many connections, which the targets answer."""
        servers = (str(target.path) for target in lab.targets)
        return self._start("tcp", str(port), str(address), str(lab.client.path), *servers)

    def sink(self, lab: Lab) -> Callable[[], NDArray[np.uint32]]:
        """Counts what arrives at the targets from the first gateway, on another CPU if there is one; what is returned ends that, and
        gives packets by target and source port, shape (targets, 65536)."""
        cpu = min(os.sched_getaffinity(0))
        asked, answered = self._popen("sink", cpu, "net0", *(str(target.path) for target in lab.targets))
        if answered.readline() != b"ready\n":
            raise AssertionError("the traffic program does not count")

        def finish() -> NDArray[np.uint32]:
            asked.write(b"\n")
            asked.flush()
            if lost := int(answered.readline()):
                raise AssertionError(f"{lost} packets arrived and were not counted: this machine is too slow for it")
            counts = np.frombuffer(answered.read(4 * 65536 * len(lab.targets)), np.uint32)
            return counts.reshape(len(lab.targets), 65536)

        return finish

    def _start(self, kind: str, *arguments: str) -> Callable[[int], Cost]:
        asked, answered = self._popen(kind, self.cpu, *arguments)

        def work(count: int) -> Cost:
            asked.write(f"{count}\n".encode())
            asked.flush()
            words = answered.readline().split()
            if len(words) != 2:
                raise AssertionError(f"the traffic program ended: {kind} {' '.join(arguments)}")
            return Cost(int(words[0]), int(words[1]))

        return work

    def _popen(self, kind: str, cpu: int, *arguments: str) -> tuple[IO[bytes], IO[bytes]]:
        command = [str(self.program), kind, str(cpu), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        return process.stdin, process.stdout

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
