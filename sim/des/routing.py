"""Routers outside, and how gateway pods and they come to know of each other.

The seam for models of BGP, BFD and ECMP: a `Routing` opens a `Session` for every gateway pod and peer, and changes the `Rib` of the
router outside; an `Ecmp` spreads connections over the next hops in it. `FixedRouting` and `HashThreshold` are the simplest of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol

from core.lb.jhash import reciprocal_scale_array
from core.lb.placement import FiveTuples, Indices, hash_tuples
from core.model import Address, Bfd, Bgp, Prefix
from core.ports import Peer
from sim.des.kernel import Kernel
from sim.des.latencies import Latencies


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideRouter:
    """A router outside the cluster, as it is configured. It is passive: gateways connect to it."""

    name: str
    bridge: str
    """The network on which it meets the gateways, as `sim.cluster.networks.vlan_bridge` names it."""
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    asn: int
    gateway_asn: int
    """The autonomous system whose speakers it accepts."""
    port: int
    hold_time_s: int
    bfd: Bfd


class Rib:
    """What a router outside has learned: adj-rib-in and neighbours."""

    def __init__(self, router: OutsideRouter, on_change: Callable[[], None]) -> None:
        self.router = router
        self.established: dict[Address, None] = {}
        self.bfd_up: dict[Address, None] = {}
        self._learned: dict[Address, frozenset[Prefix]] = {}
        self._on_change = on_change

    def neighbour(self, address: Address, *, established: bool, bfd_up: bool) -> None:
        """The session with a neighbour is up, or not; without it nothing of it is known."""
        for known, up in ((self.established, established), (self.bfd_up, bfd_up)):
            known.pop(address, None)
            if up:
                known[address] = None
        self._on_change()
        if not established:
            self.learn(address, frozenset())

    def learn(self, address: Address, prefixes: frozenset[Prefix]) -> None:
        """A neighbour announces exactly these."""
        if self._learned.get(address, frozenset()) != prefixes:
            self._learned[address] = prefixes
            self._on_change()

    def prefixes(self) -> frozenset[Prefix]:
        return frozenset(prefix for learned in self._learned.values() for prefix in learned)

    def over(self, prefix: Prefix) -> frozenset[Address]:
        """The next hops to exactly this prefix."""
        return frozenset(address for address, learned in self._learned.items() if prefix in learned)

    def next_hops(self, destination: Address) -> tuple[Address, ...]:
        """The next hops to `destination`, by the longest prefix; sorted."""
        matching = [p for p in self.prefixes() if p.version == destination.version and destination in p]
        if not matching:
            return ()
        return tuple(sorted(self.over(max(matching, key=lambda prefix: prefix.prefixlen)), key=int))


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A gateway pod's address, and the peer to which it shall speak from there."""

    address: Address
    peer: Peer

    def agrees(self, router: OutsideRouter) -> bool:
        """Whether both sides are configured for each other."""
        routing = self.peer.routing
        return (
            isinstance(routing, Bgp)
            and routing.auth is None
            and (routing.remote_asn, routing.local_asn) == (router.asn, router.gateway_asn)
            and routing.remote_port == router.port
        )


class Session(Protocol):
    """One gateway pod's session with one router outside."""

    @property
    def established(self) -> bool: ...

    def announce(self, prefixes: frozenset[Prefix]) -> None:
        """From now on exactly these are announced, once the session is up."""

    def close(self) -> None:
        """The gateway's side ends."""


class Routing(Protocol):
    """How sessions come up, tell, and go down."""

    def open(self, neighbour: Neighbour, rib: Rib, on_change: Callable[[], None]) -> Session:
        """A session that tries to come up from now on. `on_change` is called when `established` has changed."""


class Ecmp(Protocol):
    """How a router spreads connections over equal next hops."""

    def choose(self, tuples: FiveTuples, next_hops: int) -> Indices:
        """For each connection a number from 0 to `next_hops` - 1; shape (n,)."""


class FixedRouting:
    """Models: sessions that come up when both sides are configured for each other, BFD after them, announcements and withdrawals, each
    after a fixed time. Does not model: messages, timers, hold time, retries, detection of a silent failure, graceful restart.
    """

    def __init__(self, kernel: Kernel, latencies: Latencies) -> None:
        self._kernel = kernel
        self._latencies = latencies

    def open(self, neighbour: Neighbour, rib: Rib, on_change: Callable[[], None]) -> Session:
        return _FixedSession(self._kernel, self._latencies, neighbour, rib, on_change)


class _FixedSession:
    def __init__(
        self, kernel: Kernel, latencies: Latencies, neighbour: Neighbour, rib: Rib, on_change: Callable[[], None]
    ) -> None:
        self._kernel, self._latencies = kernel, latencies
        self._address = neighbour.address
        self._has_bfd = neighbour.peer.routing.bfd is not None
        self._rib = rib
        self._on_change = on_change
        self._announced: frozenset[Prefix] = frozenset()
        self._closed = False
        self.established = False
        if neighbour.agrees(rib.router):
            kernel.later(latencies.bgp_establish_s, self._establish, routing=True)

    def _establish(self) -> None:
        if self._closed:
            return
        self.established = True
        self._rib.neighbour(self._address, established=True, bfd_up=False)
        if self._has_bfd:
            self._kernel.later(self._latencies.bfd_up_s, self._bfd_comes_up, routing=True)
        self._send()
        self._on_change()

    def _bfd_comes_up(self) -> None:
        if not self._closed:
            self._rib.neighbour(self._address, established=True, bfd_up=True)

    def announce(self, prefixes: frozenset[Prefix]) -> None:
        if prefixes != self._announced:
            self._announced = prefixes
            self._send()

    def _send(self) -> None:
        prefixes = self._announced
        if self.established:
            self._kernel.later(self._latencies.bgp_update_s, lambda: self._arrive(prefixes), routing=True)

    def _arrive(self, prefixes: frozenset[Prefix]) -> None:
        if not self._closed:
            self._rib.learn(self._address, prefixes)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        was_up, self.established = self.established, False
        if was_up:
            self._kernel.later(
                self._latencies.bgp_down_s,
                lambda: self._rib.neighbour(self._address, established=False, bfd_up=False),
                routing=True,
            )


class HashThreshold:
    """Models: Linux's multipath choice: a hash of the 5-tuple, and for each next hop an equal part of its range. Does not
    model: Linux's hash itself and its secret seed, weights, resilient groups.

    Source: net/ipv4/fib_semantics.c (fib_select_multipath, fib_rebalance); RFC 2992.
    """

    SEED = 0x6563_6D70

    def choose(self, tuples: FiveTuples, next_hops: int) -> Indices:
        return reciprocal_scale_array(hash_tuples(tuples, self.SEED), next_hops).astype("int32")
