"""Routes and endpoints to a Forwarding: what the load balancers of one gateway must do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network

from core import names
from core.binding import Binding
from core.lb.forwarding import Backend, Flow, Forwarding, Pool, Target
from core.lb.maglev import DEFAULT_TABLE_SIZE
from core.model import (
    ANY_PORT,
    BackendRef,
    EndpointSlice,
    L4Protocol,
    Listener,
    Match,
    PortRange,
    Prefix,
    Route,
    Service,
)

TCP_UDP_ROUTE_PRIORITY = 0
"""TCPRoutes and UDPRoutes have no priority of their own; an L34Route of priority 1 or more goes before them."""

Resolve = Callable[[Route, BackendRef], Service | None]
SlicesOf = Mapping[tuple[str, str], Sequence[EndpointSlice]]
"""(namespace, name) of a Service -> its slices."""


def forwarding(bindings: Iterable[Binding], resolve: Resolve, slices: SlicesOf) -> Forwarding:
    """The full desired set of one gateway. `bindings` are those of this gateway; the ones not accepted are ignored.

    Matching order: highest priority first; among equals the older route, then the lower namespace/name (Gateway API, "conflict
    resolution" of routes).
    """
    flows: list[Flow] = []
    pools: list[Pool] = []
    known: set[str] = set()
    for binding in sorted((b for b in bindings if b.accepted), key=_precedence):
        for listener, match in listener_matches(binding):
            for version in (4, 6):
                name = _flow_name(binding.route, listener, version)
                if name in known:
                    continue  # two parentRefs that mean the same listener
                known.add(name)
                new_flows, new_pools = _flows_of_family(name, binding.route, match, version, resolve, slices)
                flows += new_flows
                pools += new_pools
    flows.sort(key=lambda flow: -flow.priority)
    return Forwarding(flows=tuple(flows), pools=tuple(pools))


def _flow_name(route: Route, listener: Listener | None, version: int) -> str:
    ref = route.meta.ref
    return "/".join([ref.kind, ref.namespace, ref.name, *([listener.name] if listener else []), f"ipv{version}"])


def _precedence(binding: Binding) -> tuple[int, str, str, str, str]:
    meta, match = binding.route.meta, binding.route.match
    priority = match.priority if match else TCP_UDP_ROUTE_PRIORITY
    return (-priority, meta.created, meta.namespace, meta.name, meta.ref.kind)


def matches_of(binding: Binding) -> tuple[Match, ...]:
    """What the route of `binding` says of packets at this gateway."""
    return tuple(match for _, match in listener_matches(binding))


def listener_matches(binding: Binding) -> tuple[tuple[Listener | None, Match], ...]:
    """What the route of `binding` says of packets, with the listener that narrowed it; None when none did.

    An L34Route that names no listener says everything itself, as it always did; one that names a listener (sectionName or port) is
    narrowed to that listener's protocol and port. A TCPRoute or UDPRoute takes the gateway's addresses and its listeners' ports.
    """
    match = binding.route.match
    if match is None:
        destinations = tuple(ip_network(address) for address in binding.gateway.addresses)
        protocol = L4Protocol.TCP if binding.route.meta.ref.kind == "TCPRoute" else L4Protocol.UDP
        ports = tuple(PortRange(first=listener.port, last=listener.port) for listener in binding.listeners)
        whole = Match(
            priority=TCP_UDP_ROUTE_PRIORITY,
            protocols=(protocol,),
            destinations=destinations,
            sources=(),
            destination_ports=ports,
            source_ports=(ANY_PORT,),
        )
        return ((None, whole),) if destinations else ()
    if not binding.parent.section_name and binding.parent.port is None:
        return ((None, match),)
    narrowed = ((listener, _narrowed(match, listener)) for listener in binding.listeners)
    return tuple((listener, narrow) for listener, narrow in narrowed if narrow is not None)


def _narrowed(match: Match, listener: Listener) -> Match | None:
    if listener.protocol == names.ALL_PORTS_PROTOCOL:
        return match
    protocols = tuple(p for p in match.protocols if p.name == listener.protocol)
    if not protocols or not any(listener.port in ports for ports in match.destination_ports):
        return None
    port = PortRange(first=listener.port, last=listener.port)
    return replace(match, protocols=protocols, destination_ports=(port,))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """One backendRef: its weight, and the usable targets with the VIPs that each does not hold yet."""

    service: str
    weight: int
    targets: tuple[tuple[Target, tuple[Prefix, ...]], ...]


def _flows_of_family(
    base: str, route: Route, match: Match, version: int, resolve: Resolve, slices: SlicesOf
) -> tuple[list[Flow], list[Pool]]:
    destinations = tuple(p for p in match.destinations if p.version == version)
    sources = tuple(p for p in match.sources if p.version == version)
    if not destinations or (match.sources and not sources):
        return [], []
    shares = tuple(_share(route, backend, version, resolve, slices) for backend in route.backends)
    groups: dict[tuple[Backend, ...], list[Prefix]] = {}
    for destination in destinations:
        groups.setdefault(_backends_for(destination, shares), []).append(destination)
    flows, pools = [], []
    for backends, group in groups.items():
        # The group of the first destination keeps the name, so that a VIP that is added disturbs no pool.
        name = base if group[0] == destinations[0] else f"{base}/{group[0]}"
        pools.append(Pool(name=name, version=version, backends=backends, table_size=DEFAULT_TABLE_SIZE))
        flows.append(
            Flow(
                name=name,
                version=version,
                pool=name,
                priority=match.priority,
                protocols=match.protocols,
                destinations=tuple(group),
                sources=sources,
                destination_ports=match.destination_ports,
                source_ports=match.source_ports,
                byte_matches=match.byte_matches,
            )
        )
    return flows, pools


def _share(route: Route, backend: BackendRef, version: int, resolve: Resolve, slices: SlicesOf) -> _Share:
    name = f"{backend.namespace}/{backend.name}"
    found = slices.get((backend.namespace, backend.name), ()) if resolve(route, backend) is not None else ()
    targets = tuple(
        (Target(service=name, slot=e.slot, address=e.address, pod=e.pod), e.pending_vips)
        for slice_ in found
        if slice_.version == version
        for e in sorted(slice_.endpoints, key=lambda e: e.slot)
        if e.ready
    )
    return _Share(service=name, weight=backend.weight, targets=targets)


def _backends_for(destination: Prefix, shares: tuple[_Share, ...]) -> tuple[Backend, ...]:
    """The backends of packets to `destination`: targets that do not hold that VIP yet are left out."""
    return tuple(
        Backend(
            service=share.service,
            weight=share.weight,
            targets=tuple(target for target, pending in share.targets if destination not in pending),
        )
        for share in shares
    )
