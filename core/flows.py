"""Routes and endpoints to a Forwarding: what the load balancers of one gateway must do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """The endpoints of one Service, in one family, that packets may go to."""

    targets: tuple[Target, ...] = ()
    """The ready ones, by slot."""
    pending: Mapping[Prefix, tuple[int, ...]] = field(default_factory=dict)
    """VIP -> the numbers, in `targets`, of those that do not hold it yet."""
    spoken: tuple[tuple[frozenset[Prefix] | None, tuple[int, ...]], ...] = ()
    """The VIPs that may be held at all, as the slices speak of them, and the numbers, in `targets`, of those that this is said of: a
    slice is from before any other was added. None: nothing need be held."""

    def missing(self, vip: Prefix) -> tuple[int, ...]:
        """The numbers, in `targets`, of those that must not get packets to `vip`."""
        pending = self.pending.get(vip, ())
        silent = [i for vips, numbers in self.spoken if vips is not None and vip not in vips for i in numbers]
        return tuple(sorted({*pending, *silent})) if silent else pending


UsableOf = Callable[[tuple[str, str], int], Usable]
"""Takes (namespace, name) of a Service and 4 or 6."""


def usable_of(slice_: EndpointSlice) -> Usable:
    """What of a slice packets may go to."""
    name = f"{slice_.meta.namespace}/{slice_.service}"
    ready = sorted((e for e in slice_.endpoints if e.ready), key=lambda e: e.slot)
    pending: dict[Prefix, list[int]] = {}
    for i, endpoint in enumerate(ready):
        for vip in endpoint.pending_vips:
            pending.setdefault(vip, []).append(i)
    vips = None if slice_.vips is None else frozenset(slice_.vips)
    return Usable(
        targets=tuple(Target(service=name, slot=e.slot, address=e.address, pod=e.pod) for e in ready),
        pending={vip: tuple(numbers) for vip, numbers in pending.items()},
        spoken=((vips, tuple(range(len(ready)))),) if ready else (),
    )


def joined(parts: Sequence[Usable]) -> Usable:
    """What of several slices of one Service, in one family, packets may go to; no endpoint is in two of them (`told_once`).

    It does not depend on how the endpoints are spread over the slices. O(targets).
    """
    parts = [part for part in parts if part.targets]
    if len(parts) <= 1:
        return parts[0] if parts else Usable()
    targets = [target for part in parts for target in part.targets]
    order = sorted(range(len(targets)), key=lambda i: targets[i].slot)
    place = dict(zip(order, range(len(targets)), strict=True))
    pending: dict[Prefix, list[int]] = {}
    spoken: dict[frozenset[Prefix] | None, list[int]] = {}
    first = 0
    for part in parts:
        for vip, numbers in part.pending.items():
            pending.setdefault(vip, []).extend(place[first + i] for i in numbers)
        for vips, numbers in part.spoken:
            spoken.setdefault(vips, []).extend(place[first + i] for i in numbers)
        first += len(part.targets)
    return Usable(
        targets=tuple(targets[i] for i in order),
        pending={vip: tuple(sorted(numbers)) for vip, numbers in pending.items()},
        spoken=tuple(sorted(((vips, tuple(sorted(numbers))) for vips, numbers in spoken.items()), key=lambda s: s[1])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a route says of packets at a gateway; `listener` narrowed it, or None."""

    route: Route
    listener: Listener | None
    match: Match


def forwarding(bound: Iterable[Bound], resolve: Resolve, usable: UsableOf) -> Forwarding:
    """The full desired set of one gateway; `bound` in the order of `precedence`."""
    flows: list[Flow] = []
    pools: list[Pool] = []
    known: set[str] = set()
    for one in bound:
        for version in (4, 6):
            name = _flow_name(one.route, one.listener, version)
            if name in known:
                continue  # two parentRefs that mean the same listener
            known.add(name)
            new_flows, new_pools = _flows_of_family(name, one.route, one.match, version, resolve, usable)
            flows += new_flows
            pools += new_pools
    return Forwarding(flows=tuple(flows), pools=tuple(pools))


def _flow_name(route: Route, listener: Listener | None, version: int) -> str:
    ref = route.meta.ref
    return "/".join([ref.kind, ref.namespace, ref.name, *([listener.name] if listener else []), f"ipv{version}"])


def precedence(binding: Binding) -> tuple[int, str, str, str, str]:
    """The matching order: highest priority first; among equals the older route, then the lower namespace/name.

    Source: Gateway API, "conflict resolution" of routes.
    """
    meta, match = binding.route.meta, binding.route.match
    priority = match.priority if match else TCP_UDP_ROUTE_PRIORITY
    return (-priority, meta.created, meta.namespace, meta.name, meta.ref.kind)


def bound_matches(binding: Binding) -> tuple[tuple[Listener | None, Match], ...]:
    """What the route of `binding` says of packets, with the listener that narrowed it; None when none did.

    An L34Route that names no listener says everything itself, as it always did; one that names a listener (sectionName or port) is
    narrowed to that listener's protocol and port. A TCPRoute or UDPRoute takes the gateway's addresses and its listeners' ports.
    """
    names_listener = bool(binding.parent.section_name) or binding.parent.port is not None
    match = binding.route.match
    if match is None:
        if not binding.gateway.addresses:
            return ()
        if names_listener:
            return tuple((listener, _of_listeners(binding, (listener,))) for listener in binding.listeners)
        return ((None, _of_listeners(binding, binding.listeners)),)
    if not names_listener:
        return ((None, match),)
    narrowed = ((listener, _narrowed(match, listener)) for listener in binding.listeners)
    return tuple((listener, narrow) for listener, narrow in narrowed if narrow is not None)


def _of_listeners(binding: Binding, listeners: Sequence[Listener]) -> Match:
    """What a TCPRoute or UDPRoute says of packets to these listeners of its gateway."""
    return Match(
        priority=TCP_UDP_ROUTE_PRIORITY,
        protocols=(L4Protocol.TCP if binding.route.meta.ref.kind == "TCPRoute" else L4Protocol.UDP,),
        destinations=tuple(ip_network(address) for address in binding.gateway.addresses),
        sources=(),
        destination_ports=tuple(PortRange(first=listener.port, last=listener.port) for listener in listeners),
        source_ports=(ANY_PORT,),
    )


def _narrowed(match: Match, listener: Listener) -> Match | None:
    if listener.protocol == names.ALL_PORTS_PROTOCOL:
        return match
    protocols = tuple(p for p in match.protocols if p.name == listener.protocol)
    if not protocols or not any(listener.port in ports for ports in match.destination_ports):
        return None
    port = PortRange(first=listener.port, last=listener.port)
    return replace(match, protocols=protocols, destination_ports=(port,))


def _flows_of_family(
    base: str, route: Route, match: Match, version: int, resolve: Resolve, usable: UsableOf
) -> tuple[list[Flow], list[Pool]]:
    destinations = tuple(p for p in match.destinations if p.version == version)
    sources = tuple(p for p in match.sources if p.version == version)
    if not destinations or (match.sources and not sources):
        return [], []
    shares = [
        (backend, usable((backend.namespace, backend.name), version) if resolve(route, backend) else Usable())
        for backend in route.backends
    ]
    flows, pools = [], []
    for missing, group in _groups(destinations, [found for _, found in shares]).items():
        # The group of the first destination keeps the name, so that a VIP that is added disturbs no pool.
        name = base if group[0] == destinations[0] else f"{base}/{group[0]}"
        backends = tuple(
            Backend(
                service=f"{backend.namespace}/{backend.name}",
                weight=backend.weight,
                targets=_without(found.targets, without),
            )
            for (backend, found), without in zip(shares, missing, strict=True)
        )
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


def _groups(
    destinations: tuple[Prefix, ...], shares: Sequence[Usable]
) -> dict[tuple[tuple[int, ...], ...], list[Prefix]]:
    """The destinations by what lacks them: for each share the numbers of the targets that do not hold the VIP yet."""
    groups: dict[tuple[tuple[int, ...], ...], list[Prefix]] = {}
    for destination in destinations:
        missing = tuple(share.missing(destination) for share in shares)
        groups.setdefault(missing, []).append(destination)
    return groups


def _without(targets: tuple[Target, ...], numbers: tuple[int, ...]) -> tuple[Target, ...]:
    if not numbers:
        return targets
    left_out = frozenset(numbers)
    return tuple(target for i, target in enumerate(targets) if i not in left_out)
