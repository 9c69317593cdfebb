"""The virtual network: networks (bridges) and hosts (namespaces), added and removed while it runs."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sim.net.capabilities import require
from sim.net.mn import Mininet
from sim.net.namespaces import ip_batch, prepare
from sim.net.node import NetworkHost, Wire
from sim.net.switch import IpBridge

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Gateway = ipaddress.IPv4Address | ipaddress.IPv6Address

INTERFACE_NAME_BYTES = 15
"""IFNAMSIZ less the terminating zero. Source: include/uapi/linux/if.h."""
THIS_SIDE = "world"
"""The host that stands for the namespace in which the run itself lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One interface of a host: on which network, under which name, with which addresses.

    `mac` is derived from the seed, the host and the interface when None. `gateways` become default routes.
    """

    network: str
    interface: str
    addresses: tuple[Address, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    mac: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """Where a host's wire ends: the interface `name` in the namespace of its network's bridge."""

    network: str
    namespace: Path
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What a host looks like from outside: for drawings, `status` and `exec`."""

    name: str
    pid: int
    attachments: tuple[Attachment, ...]
    loopback: tuple[Address, ...] = field(default=())


class VirtualNetwork:
    """Networks and hosts, over one Mininet. Every method may be called from any thread; they take turns.

    It expects to run inside `sandbox.enter`: nothing here is undone one by one, because all of it ends with the namespaces.
    """

    def __init__(self, *, seed: int = 0) -> None:
        require("mnexec", "ip", "veth", "bridge")
        self._seed = seed
        self._lock = threading.RLock()
        self._mininet = Mininet(topo=None, controller=None, switch=IpBridge, host=NetworkHost, link=Wire, build=False)
        self._views: dict[str, HostView] = {}

    def start(self) -> None:
        """Prepares the namespace of the run itself and adds it as the host `world`, so that it can be attached to networks."""
        with self._lock:
            prepare(Path("/proc/self/ns/net"))
            self._add(THIS_SIDE, in_namespace=False)

    def stop(self) -> None:
        """Ends every host and bridge. Their processes are the business of who started them."""
        with self._lock:
            self._mininet.stop()
            self._views.clear()

    def add_network(self, name: str) -> None:
        """Makes the bridge of a network; nothing when it exists."""
        with self._lock:
            if name not in self._mininet:
                self._mininet.addSwitch(name).start()

    def networks(self) -> tuple[str, ...]:
        return tuple(switch.name for switch in self._mininet.switches)

    def hosts(self) -> tuple[HostView, ...]:
        """All hosts in the order in which they were added."""
        with self._lock:
            return tuple(self._views.values())

    def port(self, host_name: str, interface: str) -> Port:
        """The far end of a host's interface.

        Raises:
            KeyError: there is no such host or interface.
        """
        with self._lock:
            end = self.host(host_name).nameToIntf[interface]
            far = end.link.intf2
            return Port(network=far.node.name, namespace=far.node.namespace, name=far.name)

    def host(self, name: str) -> NetworkHost:
        """The Mininet host, for its `popen`, `pid` and `namespace`.

        Raises:
            KeyError: no host has this name.
        """
        found: NetworkHost = self._mininet[name]
        return found

    def add_host(
        self, name: str, attachments: Sequence[Attachment] = (), *, loopback: Sequence[Address] = ()
    ) -> NetworkHost:
        """A host in a namespace of its own, complete with interfaces, addresses and routes when this returns.

        Raises:
            ValueError: the name is taken, or an interface name is used twice or too long.
            DataplaneError: the kernel refused an interface, an address or a route.
        """
        with self._lock:
            host = self._add(name)
            try:
                prepare(host.namespace)
                lo = ["link set lo up", *(f"addr add {address} dev lo nodad" for address in loopback)]
                self._views[name] = HostView(name=name, pid=host.pid, attachments=(), loopback=tuple(loopback))
                self._attach(name, tuple(attachments), lo)
            except BaseException:
                self._forget(name)
                raise
            return host

    def attach(self, host_name: str, *attachments: Attachment) -> None:
        """Adds interfaces to a host; networks that do not exist yet are made."""
        with self._lock:
            self._attach(host_name, attachments, [])

    def remove_host(self, name: str) -> None:
        """Takes the host off its wires (at once: its addresses answer no more) and ends every process in its namespace.

        Raises:
            KeyError: there is no such host.
            DataplaneError: an interface was not there any more, or the like. The host is gone all the same.
        """
        with self._lock, contextlib.ExitStack() as steps:
            host, view = self.host(name), self._views[name]
            # In the opposite order, and each whatever becomes of the others.
            steps.callback(self._forget, name)
            steps.callback(_end_processes, host)
            down = [f"link set {attachment.interface} down" for attachment in view.attachments]
            ip_batch(host.namespace, down, go_on=True)

    def _add(self, name: str, *, in_namespace: bool = True) -> NetworkHost:
        if name in self._mininet:
            raise ValueError(f"two hosts or networks want the name {name!r}; names are unique in the virtual network")
        host: NetworkHost = self._mininet.addHost(name, inNamespace=in_namespace)
        self._views[name] = HostView(name=name, pid=host.pid, attachments=())
        return host

    def _attach(self, host_name: str, attachments: tuple[Attachment, ...], first: list[str]) -> None:
        """Two processes whatever the number of interfaces: one `ip` makes the wires, one configures the host, after `first`."""
        host, view = self.host(host_name), self._views[host_name]
        for attachment in attachments:
            self.add_network(attachment.network)
        _check_names(host_name, view.attachments + attachments)
        ip_batch(Path("/proc/self/ns/net"), [self._wire(host, attachment) for attachment in attachments])
        ip_batch(host.namespace, first + [line for attachment in attachments for line in _address_lines(attachment)])
        self._views[host_name] = HostView(
            name=host_name, pid=host.pid, attachments=view.attachments + attachments, loopback=view.loopback
        )

    def _forget(self, name: str) -> None:
        host = self.host(name)
        for link in [link for link in self._mininet.links if host in (link.intf1.node, link.intf2.node)]:
            self._mininet.delLink(link)
        self._mininet.delHost(host)
        self._views.pop(name, None)

    def _wire(self, host: NetworkHost, attachment: Attachment) -> str:
        """Tells Mininet of a wire, and gives the `ip` line that makes it: both ends in place, the far one up and in its bridge.

        The near end cannot be born up: the kernel opens it before it has a peer (ENOTCONN, drivers/net/veth.c).
        """
        switch: IpBridge = self._mininet[attachment.network]
        port = switch.next_port()
        mac = attachment.mac or self.mac(host.name, attachment.interface)
        port_mac = self.mac(switch.name, port)
        self._mininet.addLink(host, switch, intfName1=attachment.interface, intfName2=port, addr1=mac, addr2=port_mac)
        return (
            # "if<number>" is how ip(8) takes an interface index of another namespace
            f"link add name {port} address {port_mac} up master if{switch.bridge_index} netns {switch.pid}"
            f" type veth peer name {attachment.interface} address {mac} netns {host.pid}"
        )

    def mac(self, host: str, interface: str) -> str:
        """The MAC that an interface gets unless its Attachment says otherwise.

        A locally administered unicast address that depends on the seed, the host and the interface only.
        """
        digest = hashlib.blake2s(f"{self._seed}/{host}/{interface}".encode(), digest_size=5).digest()
        return ":".join(f"{byte:02x}" for byte in (0x02, *digest))


def _end_processes(host: NetworkHost) -> None:
    """Kills what runs in a host's namespace, but for the process that keeps it."""
    for pid in processes_in(host.namespace):
        if pid != host.pid:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)


def processes_in(namespace: Path) -> list[int]:
    """The PIDs of the processes whose network namespace this is."""
    wanted = namespace.stat().st_ino
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/net").stat().st_ino == wanted:
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
    return found


def _check_names(host: str, attachments: Sequence[Attachment]) -> None:
    names = [attachment.interface for attachment in attachments]
    for name in names:
        if not 0 < len(name.encode()) <= INTERFACE_NAME_BYTES or "/" in name or any(map(str.isspace, name)):
            raise ValueError(
                f"{host}: {name!r} cannot name an interface: 1 to {INTERFACE_NAME_BYTES} bytes, no blank and no slash"
            )
        if names.count(name) > 1:
            raise ValueError(f"{host}: two interfaces want the name {name!r}")


def _address_lines(attachment: Attachment) -> list[str]:
    lines = [f"link set {attachment.interface} up"]
    lines += [f"addr add {address} dev {attachment.interface}" for address in attachment.addresses]
    lines += [f"route add default via {gateway} dev {attachment.interface}" for gateway in attachment.gateways]
    return lines
