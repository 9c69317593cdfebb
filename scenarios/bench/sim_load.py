"""One load of `tidegate bench sim`: ``python -m scenarios.bench.sim_load CONNECTIONS`` prints what it cost as JSON."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

import numpy as np
from numpy.typing import NDArray

from core import names
from core.kube import Json
from core.lb.placement import FiveTuples, Placer
from core.model import Bfd, L4Protocol
from core.plan import forwarding_of
from scenarios.cluster_view import resource_of, with_namespace
from scenarios.load import EXAMPLES
from scenarios.sim_world import GC_THRESHOLDS, installed
from scenarios.yamlsource import read_documents
from sim.cluster.networks import vlan_bridge
from sim.des.routing import OutsideRouter
from sim.des.traffic import Drive
from sim.des.world import VirtualWorld

TARGETS = 1000
CHANGES = 100
PODS_A_NODE = 100
DEPLOYMENT = "example-target-application-b"
TARGET_NETWORK = "macvlan-nad-2"
ROUTER = "vpn-b"
SETTLE_LIMIT_S = 60.0
"""Of virtual time."""
CONNECTIONS_A_CLIENT = 50_000
FIRST_PORT = 10_000


class Clock:
    """Processor time, and what of it was spent on connections."""

    def __init__(self) -> None:
        self._start_s = time.process_time()
        self.left_out_s = 0.0
        self.traffic_s = 0.0

    @property
    def cpu_s(self) -> float:
        return time.process_time() - self._start_s - self.left_out_s


def run(connections: int, *, targets: int = TARGETS, changes: int = CHANGES) -> dict[str, int | float]:
    """Opens the connections when the cluster stands, changes the number of targets again and again, and counts what breaks."""
    gc.set_threshold(*GC_THRESHOLDS)
    clock = Clock()
    world = _world(targets)
    world.settle(limit_s=SETTLE_LIMIT_S)
    setup_s = clock.cpu_s
    tuples = _tuples(connections)
    drive = _timed(world.drive(router=ROUTER, tuples=tuples, stays_open=True, timeout_s=5.0), clock)
    while not drive.over:
        world.advance(world.now_s + 1.0)
    oracle = _Oracle(world, tuples, clock)
    for replicas in sizes(targets, changes):
        world.scale("default", DEPLOYMENT, replicas)
        world.settle(limit_s=SETTLE_LIMIT_S)
        oracle.look()
    lost_s = drive.finish().lost_s
    cpu_s = clock.cpu_s
    return {
        "connections": connections,
        "targets": targets,
        "changes": changes,
        "cpu_s": round(cpu_s, 2),
        "setup_s": round(setup_s, 2),
        "traffic_s": round(clock.traffic_s, 3),
        "peak_mb": round(peak_mb(), 1),
        "broken": int(np.count_nonzero(~np.isnan(lost_s))),
        "must_break": oracle.moved,
    }


def sizes(targets: int, changes: int) -> Iterator[int]:
    """How many targets there are after each change: one fewer each time, so that no table has been there before."""
    for change in range(1, changes + 1):
        yield targets - change


class _Oracle:
    """The connections whose target is another one than at first, after any change, by the EndpointSlices alone."""

    def __init__(self, world: VirtualWorld, tuples: FiveTuples, clock: Clock) -> None:
        self._world, self._clock = world, clock
        self._placer = Placer(tuples)
        self._numbers: dict[str, int] = {}
        self._first = self._targets()
        self._moved = np.zeros(len(tuples), np.bool_)

    def look(self) -> None:
        begin_s = time.process_time()
        self._moved |= self._targets() != self._first
        self._clock.left_out_s += time.process_time() - begin_s

    @property
    def moved(self) -> int:
        return int(np.count_nonzero(self._moved))

    def _targets(self) -> NDArray[np.int32]:
        wanted = forwarding_of(self._world.api.seen.objects(), "default", "gateway-b")
        if wanted is None:
            raise AssertionError("there is no gateway")
        placed = self._placer.place(wanted)
        numbers = [self._numbers.setdefault(target.pod, len(self._numbers)) for target in placed.targets]
        found: NDArray[np.int32] = np.array(numbers, np.int32)[placed.target]
        return found


def _timed(drive: Drive, clock: Clock) -> Drive:
    """`drive`, whose looks at its connections are added up."""
    look = drive.look

    def timed() -> None:
        begin_s = time.process_time()
        look()
        clock.traffic_s += time.process_time() - begin_s

    drive.look = timed  # type: ignore[method-assign]  # the one place that measures it
    return drive


def _world(targets: int) -> VirtualWorld:
    router = OutsideRouter(
        name=ROUTER,
        bridge=vlan_bridge(200),
        addresses=(ip_interface("169.254.100.150/24"),),
        asn=4248829953,
        gateway_asn=8103,
        port=10179,
        hold_time_s=3,
        bfd=Bfd(min_tx_ms=300, min_rx_ms=300, multiplier=5),
    )
    world = VirtualWorld(nodes=max(2, targets // PODS_A_NODE), routers=[router])
    for resource, obj in installed("auto"):
        world.apply(resource, obj)
    for obj in _objects(targets):
        resource = resource_of(obj)
        world.apply(resource, with_namespace(resource, obj))
    return world


def _objects(targets: int) -> Iterator[Json]:
    """The example of the stateless load balancer, with room for so many targets."""
    for name in ("applications", "gateway"):
        for document in read_documents(EXAMPLES / "poc2" / f"{name}.yaml"):
            obj = document.json()
            match obj["kind"], obj["metadata"]["name"]:
                case "NetworkAttachmentDefinition", name if name == TARGET_NETWORK:
                    config = json.loads(obj["spec"]["config"])
                    config["ipam"]["ipRanges"] = [{"range": "10.99.0.0/16"}]
                    obj["spec"]["config"] = json.dumps(config)
                case "Deployment", _:
                    obj["spec"]["replicas"] = targets
                case "Service", _:
                    obj["metadata"]["annotations"] = {names.MAX_ENDPOINTS: str(targets)}
                case _:
                    pass
            yield obj


def _tuples(connections: int) -> FiveTuples:
    numbers = np.arange(connections)
    clients = ip_network("200.0.0.0/8")
    return FiveTuples(
        protocol=L4Protocol.TCP,
        sources=tuple(clients[i] for i in range(1 + (connections - 1) // CONNECTIONS_A_CLIENT)),
        source=(numbers // CONNECTIONS_A_CLIENT).astype(np.int32),
        source_port=(numbers % CONNECTIONS_A_CLIENT + FIRST_PORT).astype(np.uint16),
        destination=ip_address("20.0.0.1"),
        destination_port=4000,
    )


def peak_mb() -> float:
    """The most memory that this process has had, in MB of 10^6 bytes; 0 where the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    json.dump(run(int(sys.argv[1])), sys.stdout)
