"""A plan as plain JSON values, and as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any, assert_never

from core.lb.forwarding import Flow, Pool
from core.model import Bgp, ParentRef, Static
from core.plan import GatewayPlan, Plan
from core.ports import Peer
from core.status import ClassStatus, Condition, GatewayStatus, RouterStatus, RouteStatus, Status
from scenarios.assumed import Assumption
from scenarios.tables import print_line, print_table


def plan_json(plan: Plan, assumptions: tuple[Assumption, ...]) -> dict[str, Any]:
    """The whole plan; what was assumed stands first."""
    return {
        "assumed": [{"pods": a.pods, "of": a.of} for a in assumptions],
        "gateways": [_gateway(planned) for planned in plan.gateways],
        "endpointSlices": [
            {
                "name": f"{s.meta.namespace}/{s.meta.name}",
                "service": s.service,
                "endpoints": [_plain(endpoint) for endpoint in s.endpoints],
            }
            for s in plan.slices
        ],
        "attachments": [
            {"pod": f"{pod.namespace}/{pod.name}", "attachments": [_plain(one) for one in attachments]}
            for pod, attachments in sorted(plan.attachments.items())
        ],
        "statuses": [_status(status) for status in plan.statuses],
    }


def _gateway(planned: GatewayPlan) -> dict[str, Any]:
    return {
        "name": f"{planned.gateway.meta.namespace}/{planned.gateway.meta.name}",
        "class": planned.class_,
        "replicas": planned.gateway.replicas,
        "vips": [str(vip) for vip in planned.vips],
        "announced": [str(vip) for vip in planned.announced],
        "peers": [_peer(peer) for peer in planned.peers],
        "nextHops": [str(hop) for hop in planned.next_hops],
        "seed": planned.forwarding.seed,
        "flows": [_flow(flow) for flow in planned.forwarding.flows],
        "pools": [_pool(pool) for pool in planned.forwarding.pools],
    }


def _peer(peer: Peer) -> dict[str, Any]:
    protocol = "BGP" if isinstance(peer.routing, Bgp) else "Static"
    head = {"name": peer.name, "address": str(peer.address), "interface": peer.interface, "protocol": protocol}
    return head | dict(_plain(peer.routing))


def _flow(flow: Flow) -> dict[str, Any]:
    return {
        "name": flow.name,
        "priority": flow.priority,
        "protocols": [protocol.name for protocol in flow.protocols],
        "destinations": [str(prefix) for prefix in flow.destinations],
        "destinationPorts": [str(ports) for ports in flow.destination_ports],
        "sources": [str(prefix) for prefix in flow.sources],
        "sourcePorts": [str(ports) for ports in flow.source_ports],
        "byteMatches": [str(match) for match in flow.byte_matches],
        "pool": flow.pool,
    }


def _pool(pool: Pool) -> dict[str, Any]:
    return {
        "name": pool.name,
        "tableSize": pool.table_size,
        "backends": [
            {
                "service": backend.service,
                "weight": backend.weight,
                "targets": [{"slot": t.slot, "address": str(t.address), "pod": t.pod} for t in backend.targets],
            }
            for backend in pool.backends
        ],
    }


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and addresses as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return dict(_plain(asdict(value)))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _status(status: Status) -> dict[str, Any]:
    body: dict[str, Any] = {"object": str(status.ref), "observedGeneration": status.generation}
    match status:
        case ClassStatus() | RouterStatus():
            return body | {"conditions": _plain(status.conditions)}
        case GatewayStatus():
            listeners = [
                {
                    "name": listener.name,
                    "attachedRoutes": listener.attached_routes,
                    "conditions": _plain(listener.conditions),
                }
                for listener in status.listeners
            ]
            addresses = [str(address) for address in status.addresses]
            return body | {"addresses": addresses, "conditions": _plain(status.conditions), "listeners": listeners}
        case RouteStatus():
            parents = [{"parent": _parent(p.parent), "conditions": _plain(p.conditions)} for p in status.parents]
            return body | {"parents": parents}
        case _:
            assert_never(status)


def _parent(parent: ParentRef) -> str:
    """``namespace/name``, and the listener or port that it is narrowed to."""
    narrowed = f", listener {parent.section_name}" if parent.section_name else ""
    return f"{parent.namespace}/{parent.name}{narrowed}" + (f", port {parent.port}" if parent.port else "")


def print_plan(plan: Plan) -> None:
    """The plan as tables: gateways, peers, flows, targets, statuses."""
    if not plan.gateways:
        print_line("No Gateway of a class of ours: nothing is programmed.")
    else:
        print_table(
            ("gateway", "class", "pods", "virtual addresses", "announced"),
            [
                (
                    _name(g),
                    g.class_,
                    g.gateway.replicas,
                    _lines(g.vips),
                    _lines(g.announced) or "none: no usable target",
                )
                for g in plan.gateways
            ],
        )
    _section(
        ("gateway", "peer", "address", "interface", "routing", "ASNs", "ports", "hold time", "BFD"), _peer_rows(plan)
    )
    _section(("flow", "priority", "protocols", "to", "ports", "from", "source ports", "byte matches"), _flow_rows(plan))
    _section(("flow", "service", "weight", "slot", "target", "pod"), _target_rows(plan))
    _section(("status of", "part", "condition", "status", "reason", "message"), _status_rows(plan))


def _section(head: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> None:
    found = list(rows)
    if found:
        print_line("")
        print_table(head, found)


def _name(planned: GatewayPlan) -> str:
    return f"{planned.gateway.meta.namespace}/{planned.gateway.meta.name}"


def _lines(items: tuple[object, ...]) -> str:
    shown = [str(item) for item in items[:8]]
    return "\n".join(shown + ([f"and {len(items) - 8} more"] if len(items) > 8 else []))


def _peer_rows(plan: Plan) -> Iterator[tuple[object, ...]]:
    for planned in plan.gateways:
        for peer in planned.peers:
            routing = peer.routing
            bfd = (
                f"{routing.bfd.min_tx_ms}/{routing.bfd.min_rx_ms} ms x {routing.bfd.multiplier}"
                if routing.bfd
                else "off"
            )
            who = (_name(planned), peer.name, str(peer.address), peer.interface)
            match routing:
                case Bgp():
                    asns, ports = (
                        f"{routing.local_asn} - {routing.remote_asn}",
                        f"{routing.local_port} - {routing.remote_port}",
                    )
                    yield (*who, "BGP", asns, ports, f"{routing.hold_time_s} s", bfd)
                case Static():
                    yield (*who, "Static", "", "", "", bfd)
                case _:
                    assert_never(routing)


def _flow_rows(plan: Plan) -> Iterator[tuple[object, ...]]:
    for planned in plan.gateways:
        for flow in planned.forwarding.flows:
            yield (
                flow.name,
                flow.priority,
                ", ".join(protocol.name for protocol in flow.protocols),
                _lines(flow.destinations),
                _lines(flow.destination_ports),
                _lines(flow.sources) or "any",
                _lines(flow.source_ports),
                _lines(flow.byte_matches),
            )


def _target_rows(plan: Plan) -> Iterator[tuple[object, ...]]:
    for planned in plan.gateways:
        for pool in planned.forwarding.pools:
            for backend in pool.backends:
                for target in backend.targets:
                    yield pool.name, backend.service, backend.weight, target.slot, str(target.address), target.pod
                if not backend.targets:
                    yield pool.name, backend.service, backend.weight, "", "rejected: no usable endpoint", ""


def _status_rows(plan: Plan) -> Iterator[tuple[object, ...]]:
    def rows(ref: object, part: str, conditions: tuple[Condition, ...]) -> Iterator[tuple[object, ...]]:
        for condition in conditions:
            yield str(ref), part, condition.type, str(condition.status), condition.reason, condition.message

    for status in plan.statuses:
        match status:
            case ClassStatus() | RouterStatus():
                yield from rows(status.ref, "", status.conditions)
            case GatewayStatus():
                yield from rows(status.ref, "", status.conditions)
                for listener in status.listeners:
                    part = f"listener {listener.name}, {listener.attached_routes} routes"
                    yield from rows(status.ref, part, listener.conditions)
            case RouteStatus():
                for parent in status.parents:
                    yield from rows(status.ref, f"parent {_parent(parent.parent)}", parent.conditions)
            case _:
                assert_never(status)
