"""A gateway pod: its load-balancer agent and its router agent."""

from __future__ import annotations

from collections.abc import Callable

from core.lb.forwarding import Forwarding
from core.model import Address, Bgp, Prefix
from core.plan import gateway_ref, peers_of
from core.ports import Peer
from sim.des.fabric import PodPlace
from sim.des.kernel import Loop
from sim.des.nodes import TellReady
from sim.des.parts import Parts
from sim.des.routing import Neighbour, Session

BALANCER_READS = (
    "GatewayClass",
    "Gateway",
    "L34Route",
    "TCPRoute",
    "UDPRoute",
    "Service",
    "EndpointSlice",
    "Namespace",
    "ReferenceGrant",
)
ROUTER_READS = ("Gateway", "GatewayRouter")


class GatewayPod:
    """Models: the load balancer programs what the EndpointSlices say, the router announces what is programmed and has a target; ready
    when programmed and, with BGP peers, when one session is up. Does not model: BIRD's process, passwords, statuses of
    sessions, restarts of one container of the two.
    """

    def __init__(self, parts: Parts, place: PodPlace, tell_ready: TellReady, namespace: str, name: str) -> None:
        self.start_s = parts.latencies.agent_start_s
        self.forwarding = Forwarding()
        self._parts = parts
        self._place = place
        self._tell_ready = tell_ready
        self._gateway = (namespace, name)
        self._programmed = False
        self._peers: tuple[Peer, ...] = ()
        self._sessions: dict[tuple[Peer, Address], Session] = {}
        self._ends: list[Callable[[], None]] = []

    @property
    def pod(self) -> str:
        return self._place.name

    @property
    def programmed(self) -> bool:
        """Whether the load balancer has taken its first turn."""
        return self._programmed

    def start(self) -> None:
        kernel, api, latencies = self._parts.kernel, self._parts.api, self._parts.latencies
        window_s = latencies.work_window_s
        balancer = Loop(kernel, self._program, turn_s=latencies.program_s, window_s=window_s)
        self._router = Loop(kernel, self._configure, turn_s=latencies.bird_configure_s, window_s=window_s)
        self._ends = [
            api.watch(BALANCER_READS, balancer.wake),
            api.watch(ROUTER_READS, self._router.wake),
            balancer.stop,
            self._router.stop,
        ]
        self._parts.fabric.add_plane(self._place, self)
        balancer.wake()
        self._router.wake()

    def stop(self) -> None:
        for end in self._ends:
            end()
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._parts.fabric.remove_plane(self._place)

    def way_out(self, version: int) -> bool:
        return any(s.established for (_, address), s in self._sessions.items() if address.version == version) or any(
            not isinstance(peer.routing, Bgp) and peer.address.version == version for peer in self._peers
        )

    def _program(self) -> None:
        wanted = self._parts.forwardings.of(self._parts.api.seen.objects(), *self._gateway)
        changed = wanted is not self.forwarding
        self.forwarding, self._programmed = wanted, True
        if changed:
            self._parts.fabric.changed.fire()
            self._router.wake()
        self._judge()

    def _configure(self) -> None:
        objects = self._parts.api.seen.objects()
        gateway = next((g for g in objects.gateways if g.meta.ref == gateway_ref(*self._gateway)), None)
        self._peers = peers_of(gateway, objects.routers) if gateway is not None else ()
        wanted = {(peer, address): None for peer in self._peers for address in self._addresses(peer)}
        for key in [key for key in self._sessions if key not in wanted]:
            self._sessions.pop(key).close()
        for peer, address in wanted:
            if (peer, address) not in self._sessions:
                self._open(peer, address)
        usable = frozenset(self.forwarding.usable_destinations())
        for (peer, _), session in self._sessions.items():
            session.announce(_of_family(usable, peer.address.version))
        self._judge()

    def _addresses(self, peer: Peer) -> tuple[Address, ...]:
        """The pod's address on the peer's interface, in the peer's family; none when the interface is not there."""
        found = [
            address.ip
            for one in self._place.interfaces
            if one.interface == peer.interface
            for address in one.addresses
            if address.ip.version == peer.address.version
        ]
        return tuple(found[:1])

    def _open(self, peer: Peer, address: Address) -> None:
        bridges = {one.bridge for one in self._place.interfaces if one.interface == peer.interface}
        for rib in self._parts.fabric.ribs.values():
            if rib.router.bridge in bridges and any(own.ip == peer.address for own in rib.router.addresses):
                neighbour = Neighbour(address=address, peer=peer)
                self._sessions[(peer, address)] = self._parts.routing.open(neighbour, rib, self._session_changed)

    def _session_changed(self) -> None:
        self._parts.fabric.changed.fire()
        self._judge()

    def _judge(self) -> None:
        has_bgp = any(isinstance(peer.routing, Bgp) for peer in self._peers)
        up = not has_bgp or any(session.established for session in self._sessions.values())
        self._tell_ready(self._programmed and up)


def _of_family(prefixes: frozenset[Prefix], version: int) -> frozenset[Prefix]:
    return frozenset(prefix for prefix in prefixes if prefix.version == version)
