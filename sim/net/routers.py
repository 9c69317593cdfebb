"""The routers outside of the cluster ("VPN gateways"): router, BGP peer and home of the clients at once.

Each is a host on the wire of its VLAN. It waits for BGP sessions from the gateway pods (dynamic neighbors, passive BFD), gives them a
default route, and installs the VIPs that they announce, over all of them (ECMP).
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.errors import TidegateError
from sim.net.bird_control import BfdSession, BgpSession, BirdError, IpAddress, ask, bfd_sessions, bgp_sessions
from sim.net.capabilities import require
from sim.net.namespaces import run_in
from sim.net.topology import Address, Attachment, VirtualNetwork

POLL_S = 0.02
STOP_DEADLINE_S = 5.0
MINIMUM_HOLD_TIME_S = 3

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Bfd:
    """Timers of RFC 5880 section 6.8.1, as this side wishes them."""

    min_tx_ms: int = 300
    min_rx_ms: int = 300
    multiplier: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideRouter:
    """What a scenario says of one outside router. The defaults are those of the proof-of-concept.

    `addresses` are on the wire `network`, `loopback` are the clients' own. `hold_time_s` is 0 (never) or at least 3 (RFC 4271 4.2).
    """

    name: str
    network: str
    interface: str
    addresses: tuple[Address, ...]
    loopback: tuple[Address, ...] = ()
    asn: int = 4248829953
    peer_asn: int = 8103
    port: int = 10179
    hold_time_s: int = 3
    bfd: Bfd | None = Bfd()
    password: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    address: IpAddress | None
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedRoute:
    """A route that BGP put into the kernel's main table."""

    prefix: IpNetwork
    next_hops: tuple[NextHop, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterState:
    """What an outside router knows at one moment. A router that does not run has no sessions; routes may be left over."""

    running: bool
    sessions: tuple[BgpSession, ...]
    bfd: tuple[BfdSession, ...]
    routes: tuple[LearnedRoute, ...]

    @property
    def established(self) -> tuple[BgpSession, ...]:
        return tuple(session for session in self.sessions if session.established)

    def next_hops(self, prefix: IpNetwork) -> frozenset[IpAddress]:
        """The gateway pods to which the kernel sends packets for `prefix`."""
        return frozenset(
            hop.address
            for route in self.routes
            if route.prefix == prefix
            for hop in route.next_hops
            if hop.address is not None
        )


class Speaker(Protocol):
    """A routing daemon in an outside router's namespace. `BirdSpeaker` is one; an ExaBGP that a scenario scripts would be another."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def observe(self) -> RouterState: ...


def render(router: OutsideRouter) -> str:
    """The BIRD configuration of an outside router.

    Raises:
        ValueError: the hold time is one that RFC 4271 forbids.
    """
    if router.hold_time_s and router.hold_time_s < MINIMUM_HOLD_TIME_S:
        raise ValueError(
            f"{router.name}: hold time {router.hold_time_s} s: RFC 4271 section 4.2 wants 0 or at least 3 s"
        )
    lines = [
        "log stderr { warning, error, auth, fatal, bug };",
        f"router id {_router_id(router)};",
        "protocol device { scan time 1; }",
    ]
    if router.bfd is not None:
        lines.append(
            f'protocol bfd {{ interface "{router.interface}" {{ min tx interval {router.bfd.min_tx_ms} ms; min rx interval'
            f" {router.bfd.min_rx_ms} ms; multiplier {router.bfd.multiplier}; passive yes; }}; }}"
        )
    lines.append(_session_template(router))
    for address in router.addresses:
        lines += _family(router, address)
    return "\n".join(lines) + "\n"


def _router_id(router: OutsideRouter) -> ipaddress.IPv4Address:
    """The first IPv4 address; without one, 32 bits that depend on the name only."""
    for address in (*router.loopback, *router.addresses):
        if isinstance(address, ipaddress.IPv4Interface):
            return address.ip
    digest = hashlib.blake2s(router.name.encode(), digest_size=4).digest()
    return ipaddress.IPv4Address(int.from_bytes(digest, "big") | 1)


def _session_template(router: OutsideRouter) -> str:
    # With BIRD's own error wait time (60 to 300 s) a session that BFD has ended would be gone for a minute.
    lines = [
        "template bgp t_session {",
        f"  hold time {router.hold_time_s};" + (" keepalive time 1;" if router.hold_time_s else ""),
        "  startup hold time 5; connect delay time 1; connect retry time 2; error wait time 1, 2; error forget time 5;",
        *(["  bfd { passive yes; };"] if router.bfd is not None else []),
        *([f'  password "{router.password}";'] if router.password is not None else []),
        "}",
    ]
    return "\n".join(lines)


def _family(router: OutsideRouter, address: Address) -> list[str]:
    """Kernel, default route and listener of one address family. Names have a prefix: BIRD's keywords are many, and cannot be quoted."""
    family, everything = address.version, "0.0.0.0/0" if address.version == 4 else "::/0"
    channel = f"ipv{family}"
    # scan time: the first scan after the start is what lets routes into the kernel
    kernel = f"{channel} {{ import none; export where source = RTS_BGP; }}; merge paths yes limit 64; scan time 1;"
    return [
        f"protocol kernel p_kernel{family} {{ {kernel} }}",
        f"protocol static p_default{family} {{ {channel}; route {everything} blackhole; }}",
        f"protocol bgp p_wait{family} from t_session {{",
        f"  local {address.ip} port {router.port} as {router.asn};",
        f"  neighbor range {address.network} port {router.port} as {router.peer_asn};",
        f'  dynamic name "p_pod{family}_";',
        f"  {channel} {{ import where net.len > 0; export where source = RTS_STATIC; }};",
        "}",
    ]


class BirdSpeaker:
    """BIRD in the namespace of an outside router: started, stopped, killed, observed through its control socket."""

    def __init__(self, network: VirtualNetwork, router: OutsideRouter, *, run_dir: Path, log_dir: Path) -> None:
        require("bird")
        self._network, self._router = network, router
        self._configuration = run_dir / f"{router.name}.conf"
        self._control = run_dir / f"{router.name}.ctl"
        self._log = log_dir / f"{router.name}.bird.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts BIRD; returns when it answers on its control socket. Nothing when it runs already.

        Raises:
            BirdError: it ended, or did not answer in time; the message has the end of its log.
        """
        if self.running:
            return
        self._configuration.parent.mkdir(parents=True, exist_ok=True)
        self._configuration.write_text(render(self._router))
        self._control.unlink(missing_ok=True)
        command = ["bird", "-f", "-c", str(self._configuration), "-s", str(self._control)]
        with self._log.open("ab") as log:
            process = self._network.host(self._router.name).popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._process = process
        deadline_s = time.monotonic() + STOP_DEADLINE_S
        while True:
            try:
                ask(self._control, "show status")
            except BirdError as error:
                if process.poll() is not None or time.monotonic() > deadline_s:
                    self.kill()
                    said = self._log.read_text(errors="replace").strip().splitlines()[-3:]
                    raise BirdError(f"BIRD of {self._router.name} did not start: {'; '.join(said) or error}") from error
                time.sleep(POLL_S / 4)
            else:
                return

    def stop(self) -> None:
        """Ends BIRD in order: it says goodbye to its peers (Cease) and takes its routes out of the kernel."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Ends BIRD without a word; the kernel closes its connections, and its routes stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def observe(self) -> RouterState:
        """Sessions, BFD and the kernel's routes now."""
        sessions: tuple[BgpSession, ...] = ()
        bfd: tuple[BfdSession, ...] = ()
        running = self.running
        if running:
            try:
                sessions = bgp_sessions(ask(self._control, "show protocols all"))
                bfd = bfd_sessions(ask(self._control, "show bfd sessions")) if self._router.bfd is not None else ()
            except BirdError:
                running = self.running
                if running:
                    raise
        namespace = self._network.host(self._router.name).namespace
        routes = tuple(route for family in ("-4", "-6") for route in _kernel_routes(namespace, family))
        return RouterState(running=running, sessions=sessions, bfd=bfd, routes=routes)


def add_router(network: VirtualNetwork, router: OutsideRouter, *, run_dir: Path, log_dir: Path) -> BirdSpeaker:
    """Adds the host of an outside router to the network and returns its BIRD, not yet started."""
    network.add_host(
        router.name,
        [Attachment(network=router.network, interface=router.interface, addresses=router.addresses)],
        loopback=router.loopback,
    )
    return BirdSpeaker(network, router, run_dir=run_dir, log_dir=log_dir)


def wait_for(speaker: Speaker, holds: Callable[[RouterState], bool], *, deadline_s: float, what: str) -> RouterState:
    """The first state of the router that satisfies `holds`, looked for every 20 ms.

    Raises:
        TidegateError: `what` did not come to be within `deadline_s` seconds; the message has the last state.
    """
    until_s = time.monotonic() + deadline_s
    while True:
        state = speaker.observe()
        if holds(state):
            return state
        if time.monotonic() > until_s:
            raise TidegateError(f"not within {deadline_s:g} s: {what}; the last state was {state}")
        time.sleep(POLL_S)


def _kernel_routes(namespace: Path, family: str) -> list[LearnedRoute]:
    """The routes that BIRD put into the main table."""
    found = []
    for entry in json.loads(run_in(namespace, ["ip", family, "-j", "route", "show", "proto", "bird"]) or "[]"):
        destination = entry["dst"]
        if destination == "default":
            destination = "0.0.0.0/0" if family == "-4" else "::/0"
        hops = entry.get("nexthops", [entry])
        found.append(
            LearnedRoute(
                prefix=ipaddress.ip_network(destination),
                next_hops=tuple(_next_hop(hop) for hop in hops if "dev" in hop),
            )
        )
    return found


def _next_hop(hop: dict[str, str | dict[str, str]]) -> NextHop:
    """`via` holds the address of another family than the route's (RFC 8950), `gateway` one of the same."""
    via = hop.get("via")
    address = via["host"] if isinstance(via, dict) else hop.get("gateway")
    return NextHop(address=ipaddress.ip_address(str(address)) if address else None, interface=str(hop["dev"]))
