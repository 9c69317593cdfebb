"""bench dataplane: what a packet and a connection cost on each data plane, beside the kernel's own forwarding.

How it is measured. A frame sent into a veth is received, looked up, forwarded and received again by its sender: the kernel does all of
it in the sender's context before the system call returns. So the CPU time of one pinned thread (`load.c`) is the cost of the whole way,
and other programs on the machine take nothing of it but cache. Wall time would measure them as well; `perf` counters are missing in
many virtual machines; the run time that the kernel keeps of BPF programs leaves out what happens behind the redirect.

The same way is laid in fresh namespaces for each plane. At the targets' interfaces a BPF program of two instructions drops what
arrives. On the way called `drop` the same program stands at the gateway's ingress; its cost (making the frame, sending it, one veth) is
subtracted from the others, which leaves the load balancer's share: decision, forwarding, and the second veth. Rounds take turns, every
round gives one ratio to the kernel's forwarding of the same round, and the median of these counts. Every frame must have arrived.

Frames are UDP of 64 bytes (with the checksum of the wire), from 64 addresses and all ports: every bucket of a table is met, the worst
case for caches. Connections are made, answered with one byte and closed by one thread that holds both ends, through two
gateways over ECMP, replies by either of them: what one costs is the CPU time of client, gateways and server together. Gateways are
as in the product: the data plane is at all their interfaces, so that replies meet it, and replies leave by the policy rule of the
VIP and a table of their own, as the router agent makes them. Kernel forwarding has neither.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.lb.classifier import Packet
from core.lb.forwarding import Flow
from core.model import L4Protocol
from core.plan import Plan, Planner
from live.routes import GATEWAY_TABLE, KernelPolicyRoutes
from scenarios.bench import Report, Row, Target
from scenarios.bench.lab import Cost, Ends, Lab, Load, address_of
from scenarios.bench.plan import model_of, objects
from scenarios.bench.planes import ALL_INTERFACES, CLIENT, PLANES, PORT, VIP, flow, forwarding, make_plane
from scenarios.explain import Explainer

FEW, MANY_ROUTES, MANY_CIDRS = 20, 2_000, 10_000
FRAMES: Final = 4096
"""Different frames of each way: making them costs every way the same, also what it costs the caches."""
STRAYS: Final = 20
"""Frames that are none of ours: what the kernel sends by itself in a minute, such as questions for neighbours."""
NOTES: Final = (
    "ns: CPU time of one frame from its making to its drop at the target, or of one connection with both its ends.",
    "share_ns: without what a frame costs that is dropped at the gateway's ingress.",
    "ratio: to kernel forwarding with one route, of frames the shares; the median over rounds that take turns.",
    "per_s: of one core that does everything, sender and receiver included.",
    "Routes: one VIP each, all to one pool of 4 targets. CIDRs: source prefixes of one route. Packets are spread over all of them.",
    "Connections by nft pay for replies, which meet hooks and policy rules, and for each expression: docs/decisions/0065.",
)

Costs = NDArray[np.float64]
"""Nanoseconds of CPU time of one frame or connection, by round."""
Way = tuple[Callable[[int], Cost], Callable[[], int] | None]
"""What makes so many frames or connections, and what tells how many have arrived since it all began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured."""

    rounds: int
    frames: int
    connection_rounds: int
    """More: of a connection the gateways are a small part, so what they cost is less sure after a round."""
    connections: int


QUICK: Final = Effort(rounds=3, frames=4_000, connection_rounds=3, connections=200)
FULL: Final = Effort(rounds=25, frames=40_000, connection_rounds=75, connections=2_000)


def run(quick: bool) -> Report:
    """All ways side by side. Expects to be in a sandbox with a BPF file system.

    Raises MachineError when a data plane cannot be had here.
    """
    effort = QUICK if quick else FULL
    with ExitStack() as exits:
        load = Load.compile(Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-"))))
        exits.callback(load.close)
        frames = _measure(_frame_ways(exits, load), effort.rounds, effort.frames)
        connections = _measure(_connection_ways(exits, load), effort.connection_rounds, effort.connections)
    shares = {name: costs - frames["drop"] for name, costs in frames.items()}
    rows = [_row(name, "frame", frames[name], share / shares["kernel"], share) for name, share in shares.items()]
    rows += [_row(name, "connection", costs, costs / connections["kernel"]) for name, costs in connections.items()]
    explained = {count: _decision_ns(_routes(count), effort.rounds) for count in (FEW, MANY_ROUTES)}
    explained_cidrs = {count: _decision_ns(_cidrs(count), effort.rounds) for count in (FEW, MANY_CIDRS)}
    rows += [_row(f"explain, {count} routes", "decision", costs) for count, costs in explained.items()]
    rows += [_row(f"explain, {count} CIDRs", "decision", costs) for count, costs in explained_cidrs.items()]
    growth = {
        "explain, routes": explained[MANY_ROUTES] / explained[FEW],
        "explain, CIDRs": explained_cidrs[MANY_CIDRS] / explained_cidrs[FEW],
    }
    return Report(bench="dataplane", rows=rows, targets=_targets(shares, connections, growth), notes=NOTES)


def _targets(
    shares: Mapping[str, Costs], connections: Mapping[str, Costs], growth: Mapping[str, Costs]
) -> list[Target]:
    def target(name: str, op: str, bound: float, ratios: Costs) -> Target:
        return Target(name=name, op=op, bound=bound, value=round(float(np.median(ratios)), 3))

    targets = [
        target("packet by tc, of kernel forwarding", "<=", 0.85, shares["tc"] / shares["kernel"]),
        target("packet by nft, of kernel forwarding", "<=", 2.5, shares["nft"] / shares["kernel"]),
    ]
    for plane in PLANES:
        rate = connections["kernel"] / connections[plane]
        targets.append(target(f"connections/s by {plane}, of kernel forwarding", ">=", 0.95, rate))
    for plane in PLANES:
        for what, many in (("routes", MANY_ROUTES), ("CIDRs", MANY_CIDRS)):
            ratios = shares[f"{plane}, {many} {what}"] / shares[f"{plane}, {FEW} {what}"]
            targets.append(target(f"packet by {plane}, {many} {what} of {FEW}", "<", 1.5, ratios))
    return targets + [target(f"{name}, many of {FEW}", "<", 1.5, ratios) for name, ratios in growth.items()]


def _row(way: str, of: str, costs: Costs, ratios: Costs | None = None, shares: Costs | None = None) -> Row:
    def median(values: Costs | None, digits: int) -> float | str:
        return "" if values is None else round(float(np.median(values)), digits)

    return {
        "way": way,
        "of": of,
        "min_ns": round(float(costs.min())),
        "median_ns": round(float(np.median(costs))),
        "max_ns": round(float(costs.max())),
        "share_ns": median(shares, 0),
        "ratio": median(ratios, 3),
        "min_ratio": "" if ratios is None else round(float(ratios.min()), 3),
        "max_ratio": "" if ratios is None else round(float(ratios.max()), 3),
        "per_s": round(1e9 / float(np.median(costs))),
    }


def _measure(ways: Mapping[str, Way], rounds: int, count: int) -> dict[str, Costs]:
    """Rounds that take turns; the first one, which warms caches, does not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    before = {name: arrived() for name, (_, arrived) in ways.items() if arrived is not None}
    for _ in range(rounds + 1):
        for name, (work, _) in ways.items():
            found[name].append(work(count).cpu_ns / count)
    for name, number in before.items():
        arrived = ways[name][1]
        assert arrived is not None
        wanted, got = 0 if name == "drop" else count * (rounds + 1), arrived() - number
        if not wanted <= got <= wanted + STRAYS:
            raise AssertionError(f"{name}: {got} of {wanted} frames arrived")
    return {name: np.array(costs[1:]) for name, costs in found.items()}


# --- ways ------------------------------------------------------------------------------------------------------------------


def _frame_ways(exits: ExitStack, load: Load) -> dict[str, Way]:
    made: dict[str, Way] = {}

    def lay(name: str, flows: Sequence[Flow] = (flow("flow"),)) -> Lab:
        lab = _lab(exits)
        for target in lab.targets:
            target.drop_arriving("net0")
        made[name] = load.udp(lab, _ends(flows)), lab.arrived
        return lab

    lay("drop").gateways[0].drop_arriving("ext0")
    lay("kernel").gateways[0].ip(f"route add {VIP} via {address_of(0)}")
    for plane in PLANES:
        _balance(plane, lay(plane), (flow("flow"),))
        for count in (FEW, MANY_ROUTES):
            flows = _routes(count)
            _balance(plane, lay(f"{plane}, {count} routes", flows), flows)
        for count in (FEW, MANY_CIDRS):
            flows = _cidrs(count)
            _balance(plane, lay(f"{plane}, {count} CIDRs", flows), flows)
    return made


def _connection_ways(exits: ExitStack, load: Load) -> dict[str, Way]:
    made: dict[str, Way] = {}
    for way in ("kernel", *PLANES):
        lab = _lab(exits, gateways=2)
        over = " ".join(f"nexthop via 169.254.{g}.1" for g in range(2))
        lab.client.ip(f"address add {CLIENT}/32 dev lo", f"route add {VIP} src {CLIENT} {over}")
        for t, target in enumerate(lab.targets):
            back = " ".join(f"nexthop via 172.{16 + g}.{t}.1" for g in range(2))
            target.ip(f"address add {VIP}/32 dev lo", f"route add default {back}")
        for g, gateway in enumerate(lab.gateways):
            hops = " ".join(f"nexthop via {address_of(t, g)}" for t in range(len(lab.targets)))
            back = f"route add {CLIENT} via 169.254.{g}.2"
            if way == "kernel":
                gateway.ip(back, f"route add {VIP} {hops}")
            else:
                _balance(way, lab, (flow("flow"),), g)
                gateway.run(lambda: KernelPolicyRoutes().apply([IPv4Network(VIP)]))
                gateway.ip(f"{back} table {GATEWAY_TABLE}")
        made[way] = load.tcp(lab, VIP, PORT), None
    return made


def _lab(exits: ExitStack, gateways: int = 1) -> Lab:
    lab = Lab.make(gateways=gateways)
    exits.callback(lab.close)
    return lab


def _balance(plane: str, lab: Lab, flows: Sequence[Flow], gateway: int = 0) -> None:
    """Gives one gateway of `lab` a data plane with these flows, all to the lab's targets."""
    namespace = lab.gateways[gateway]
    wanted = forwarding(lab, flows, range(len(lab.targets)), gateway)
    adapter = make_plane(plane, namespace)
    namespace.run(lambda: adapter.apply(wanted, interfaces=ALL_INTERFACES))


# --- forwarding sets -------------------------------------------------------------------------------------------------------


def _routes(count: int) -> tuple[Flow, ...]:
    """So many routes, each with a VIP of its own."""
    return tuple(flow(f"route-{number}", VIP + number) for number in range(count))


def _cidrs(count: int) -> tuple[Flow, ...]:
    """One route for so many source prefixes, no two of them side by side: they cannot be joined."""
    first = int(IPv4Address("100.0.0.0"))
    return (flow("route", sources=[IPv4Network((first + 512 * number, 24)) for number in range(count)]),)


def _ends(flows: Sequence[Flow]) -> list[Ends]:
    """Packets for every route and every source prefix, in an order that caches do not foresee; FRAMES of them."""
    draw = np.random.default_rng(1)
    sources = [int(source.network_address) for source in flows[0].sources] or [int(CLIENT)]
    destinations = [int(one.destinations[0].network_address) for one in flows]
    return [
        (IPv4Address(source + 1 + number % 64), IPv4Address(destination))
        for number, (source, destination) in enumerate(
            zip(draw.choice(sources, FRAMES).tolist(), draw.choice(destinations, FRAMES).tolist(), strict=True)
        )
    ]


# --- explain ---------------------------------------------------------------------------------------------------------------


def _decision_ns(flows: Sequence[Flow], rounds: int) -> Costs:
    """What `explain` needs for a packet when the plan with these flows has been made, and packets have been explained before."""
    explainer = Explainer(_plan(flows))
    packets = [
        Packet(source=source, destination=destination, protocol=L4Protocol.TCP, source_port=1024, destination_port=PORT)
        for source, destination in _ends(flows)[:200]
    ]
    costs = []
    for _ in range(rounds + 1):
        begin_ns = time.thread_time_ns()
        for packet in packets:
            explainer.explain(packet)
        costs.append((time.thread_time_ns() - begin_ns) / len(packets))
    return np.array(costs[1:])


def _plan(flows: Sequence[Flow]) -> Plan:
    """A Plan of one gateway with a route for each flow."""
    planner = Planner()
    for obj in objects(1, services=1, endpoints=4):
        if obj["kind"] != "L34Route":
            planner.put(model_of(obj))
    for one in flows:
        spec = {
            "parentRefs": [{"name": "gateway-0"}],
            "backendRefs": [{"name": "svc-0-0", "port": PORT}],
            "priority": 1,
            "protocols": ["TCP", "UDP"],
            "destinationCIDRs": [str(destination) for destination in one.destinations],
            "sourceCIDRs": [str(source) for source in one.sources],
        }
        head = {"apiVersion": "l34.gateway.api.poc/v1alpha1", "kind": "L34Route", "metadata": {"name": one.name}}
        planner.put(model_of({**head, "spec": spec}))
    plan = planner.plan()
    assert len(plan.gateways[0].forwarding.flows) == len(flows)
    return plan
