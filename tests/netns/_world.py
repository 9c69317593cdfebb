"""The gateway of the proof-of-concept in the virtual network, for tests that hurt it: traffic that lasts, faults, what must follow.

For tests marked ``shared_sandbox``: a module starts one `World` and its tests use it one after the other. Nothing here sleeps and
hopes: every wait is for something that is looked at, and ends with what is missing when it does not come.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core import kube
from core.kube import Json
from core.lb.placement import FiveTuples
from core.model import Pod
from core.objects import Objects
from live.kube import KubeClient
from scenarios.convergence import View, missing_in_kernels
from scenarios.drive import TrafficDrive
from scenarios.load import LoadedScenario, load_scenario
from scenarios.manifests import desired, read_manifests
from scenarios.measure import MeasuredTraffic
from scenarios.mininet_world import MininetWorld
from scenarios.predict import Prediction, predict, predict_on_the_way
from scenarios.progress import Progress
from scenarios.runner import set_up
from scenarios.spec import Mode, SocketAddress, Traffic, TrafficProtocol
from scenarios.tuples import five_tuples
from scenarios.world import Connections, Milestone
from sim.net import capabilities
from sim.net.topology import processes_in
from tests.conftest import require

ROUTER = "vpn-b"
GATEWAY = "gateway-b"
APPLICATION = "example-target-application-b"
TCP = SocketAddress.parse("20.0.0.1:4000")
UDP = SocketAddress.parse("20.0.0.1:4100")
CONVERGE_S = 40.0
"""Within this everything must be as the plan says; a container that is restarted for the second time waits already."""
LOOK_EVERY_S = 0.02
FIRST_PORT, PORTS_END = 20_000, 65_536
FOREVER_S = float("inf")


def l34_route(name: str, vip: str, protocol: str, port: int) -> Json:
    """A route of one VIP, protocol and port to the application."""
    return {
        "apiVersion": "l34.gateway.api.poc/v1alpha1",
        "kind": "L34Route",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": GATEWAY}],
            "backendRefs": [{"name": "service-b", "port": port}],
            "priority": 1,
            "protocols": [protocol],
            "destinationCIDRs": [f"{vip}/32"],
            "destinationPorts": [str(port)],
            "sourceCIDRs": ["0.0.0.0/0"],
            "sourcePorts": ["any"],
        },
    }


def require_world(dataplane: str) -> None:
    """Skips, or fails, when this machine cannot run the virtual network with this data plane."""
    for name in ("namespaces", "mnexec", "nft", "bird", "veth", "bridge"):
        found = capabilities.probe(name)
        require("netns", found.available, f"{found.detail}; {found.remedy}")
    for name in ("bpf", "libbpf", "bpf-object", "clsact") if dataplane == "tc" else ():
        found = capabilities.probe(name)
        require("bpf", found.available, f"{found.detail}; {found.remedy}")


class SetReady(Protocol):
    """Writes whether a Pod is ready."""

    def __call__(self, ready: bool) -> None: ...


@dataclass(slots=True, eq=False)
class Held:
    """Connections that stay open, and where the objects said that they are when they began."""

    world: World
    traffic: Traffic
    tuples: FiveTuples
    drive: TrafficDrive
    before: Prediction
    passed: int
    """How many of the world's tables on the way were before."""

    def finish(self) -> MeasuredTraffic:
        """Ends them, each after a last request that must be answered; what they were, and where they would be now."""
        now_s = self.world.mininet.now_s()
        after = replace(self.world.predict(self.tuples), from_s=now_s)
        on_the_way = predict_on_the_way(
            self.world.passed()[self.passed :], self.tuples, from_s=self.before.from_s, until_s=now_s
        )
        return MeasuredTraffic(
            traffic=self.traffic,
            predictions=(replace(self.before, until_s=now_s), *on_the_way, after),
            connections=self.drive.finish(),
        )

    def all_survive(self) -> Connections:
        """Every one was established and none was lost."""
        connections = self.finish().connections
        assert not connections.errors, _why(connections)
        assert connections.established.all()
        assert not connections.lost.any()
        return connections

    def on(self, pods: Sequence[str]) -> NDArray[np.bool_]:
        """Those that were on one of `pods` when they began; shape (n,)."""
        mine: NDArray[np.bool_] = np.isin(
            self.before.pod, [i for i, name in enumerate(self.before.names) if name in pods]
        )
        return mine


class World:
    """A virtual network that runs, with the gateway programmed and routed."""

    def __init__(
        self, dataplane: str, logs: Path, *, scenario: str = "poc2-stateless", settings: Sequence[str] = ()
    ) -> None:
        self.logs = logs
        self.loaded: LoadedScenario = load_scenario(scenario, settings=[f"dataplane={dataplane}", *settings])
        self.dataplane = dataplane
        self.mininet = MininetWorld(logs, allow_faults=True)
        self._numbers = itertools.count(1)
        self._next_port = FIRST_PORT
        self._passed: list[Objects] = []

    def start(self) -> None:
        """Everything up to the moment at which traffic may begin; what came up is taken down again when it does not."""
        manifests = [*desired(read_manifests(self.loaded.manifests)), l34_route("udp-4100", "20.0.0.1", "UDP", 4100)]
        progress = Progress(self.mininet.now_s, quiet=True)
        try:
            set_up(self.loaded.scenario, manifests, self.mininet, _NoEvents(), progress)
        except BaseException:
            self.mininet.stop()
            raise

    # --- what there is -------------------------------------------------------------------------------------------------------

    @property
    def api(self) -> KubeClient:
        return self.mininet.api

    def view(self) -> View:
        """The objects as the test's own client knows them, and their plan."""
        return View.of(self.mininet.observe().objects)

    def passed(self) -> list[Objects]:
        """What load balancers may have seen since traffic was first held, in order."""
        self._passed += self.mininet.passed()
        return self._passed

    def programmed(self) -> str:
        """What the load balancers lack to forward as the slices in the API say; ``""``: nothing."""
        view = self.view()
        return "; ".join(missing_in_kernels(view, self.mininet._programmed(view)))

    def gateway_pods(self) -> tuple[Pod, ...]:
        """By name."""
        (found,) = (pods for planned, pods in self.view().balancers() if planned.gateway.meta.name == GATEWAY)
        return tuple(sorted(found, key=lambda pod: pod.meta.name))

    def targets(self) -> tuple[Pod, ...]:
        """The Pods of the application that are not being deleted, by name."""
        pods = (pod for pod in self.view().objects.pods if pod.meta.labels.get("app") == APPLICATION)
        return tuple(sorted((pod for pod in pods if not pod.meta.deleting), key=lambda pod: pod.meta.name))

    def system_pods(self, app: str) -> tuple[Pod, ...]:
        """The Pods of the controller or of the endpoint agents."""
        return tuple(pod for pod in self.view().objects.pods if pod.meta.labels.get("app") == app)

    def pids(self, pod: Pod) -> Mapping[str, int]:
        """The PIDs of a Pod's containers."""
        name = pod.meta.name
        return self.mininet.pids(name if pod.meta.namespace == "default" else f"{pod.meta.namespace}/{name}")

    def netns(self, pod: Pod) -> Path:
        """The file that stands for a Pod's network namespace."""
        return self.mininet.network.host(pod.meta.name).namespace

    # --- traffic -------------------------------------------------------------------------------------------------------------

    def predict(self, tuples: FiveTuples) -> Prediction:
        """Where connections go, as the objects are now."""
        return predict(self.mininet.observe().objects, tuples, from_s=0.0, until_s=FOREVER_S)

    def hold(self, n: int = 200, *, to: SocketAddress = TCP, mode: Mode = Mode.LONG) -> Held:
        """`n` connections that are established when this returns; long ones ask something every second."""
        traffic = self._traffic(n, to, mode)
        tuples = self._tuples(traffic)
        passed = len(self.passed())
        before = self.predict(tuples)
        drive = self.mininet.drive(traffic, tuples)
        self.wait_for(lambda: "" if drive.over else "connections are being opened", traffic.timeout_s + 5)
        return Held(self, traffic, tuples, drive, before, passed)

    def five_tuples(self, n: int, *, to: SocketAddress, mode: Mode) -> FiveTuples:
        """`n` connections from ports that nobody else uses."""
        return self._tuples(self._traffic(n, to, mode))

    def _tuples(self, traffic: Traffic) -> FiveTuples:
        return five_tuples(traffic, self.loaded.scenario.router(ROUTER), self.loaded.scenario.seed)

    def variants(self, flapping: Sequence[Pod]) -> list[tuple[Json, ...]]:
        """The objects as they are, with each choice of some Pods not ready and the others of `flapping` ready."""
        objects = self.mininet.observe().objects
        names = [pod.meta.name for pod in flapping]
        return [
            tuple(_with_readiness(obj, names, gone) for obj in objects)
            for size in range(len(names) + 1)
            for gone in itertools.combinations(names, size)
        ]

    def connects(self, n: int = 100, *, to: SocketAddress = TCP) -> None:
        """New connections succeed, each with the target that the core predicts."""
        measured = self.hold(n, to=to, mode=Mode.SHORT).finish()
        assert not measured.connections.errors, _why(measured.connections)
        assert not measured.mismatches().any()

    def _traffic(self, n: int, to: SocketAddress, mode: Mode) -> Traffic:
        return Traffic(
            name=f"t{next(self._numbers)}",
            source=ROUTER,
            to=to,
            protocol=TrafficProtocol.UDP if to.port >= 4100 else TrafficProtocol.TCP,
            connections=n,
            mode=mode,
            first_source_port=self._take_ports(n),
        )

    def _take_ports(self, n: int) -> int:
        """The first of `n` source ports that have not been used for as long as possible."""
        if self._next_port + n > PORTS_END:
            self._next_port = FIRST_PORT
        self._next_port += n
        return self._next_port - n

    # --- faults --------------------------------------------------------------------------------------------------------------

    def kill(self, pod: Pod, container: str) -> None:
        """Kills a container's process with -9; returns when its successor runs and the Pod is ready again."""
        before = self.pids(pod)[container]
        os.kill(before, signal.SIGKILL)

        def missing() -> str:
            now = self.pids(pod).get(container)
            if now in (None, before):
                return f"{container} of {pod.meta.name} has not been restarted"
            status = next((s for s in self._statuses(pod) if s["name"] == container), {})
            return "" if status.get("restartCount") and status.get("ready") else f"{container} is not ready again"

        self.wait_for(missing)

    def _statuses(self, pod: Pod) -> list[Json]:
        obj = self.api.get(kube.PODS, pod.meta.namespace, pod.meta.name) or {}
        return list((obj.get("status") or {}).get("containerStatuses") or ())

    def fault(self, **what: Any) -> None:
        """Orders a fault of the API server; see sim.cluster.apimachinery.faults."""
        self._faults("POST", what)

    def watches(self) -> Mapping[str, int]:
        """How many watches the API server runs, by the address of the client."""
        found: Mapping[str, int] = self._faults("GET")["watching"]
        return found

    def struck(self) -> Mapping[str, Mapping[str, int]]:
        """How often each fault has struck whom, by address, since the last were cleared."""
        found: Mapping[str, Mapping[str, int]] = self._faults("GET")["struck"]
        return found

    def clear_faults(self) -> None:
        """Ends all faults, and forgets whom they struck; a server that listens to nobody is waited for."""

        def missing() -> str:
            try:
                self._faults("DELETE")
            except OSError as error:
                return str(error)
            return ""

        self.wait_for(missing)

    def _faults(self, method: str, body: Json | None = None) -> Json:
        request = urllib.request.Request(
            f"{self.api.server}/tidegate/faults", method=method, data=json.dumps(body).encode() if body else None
        )
        with urllib.request.urlopen(request, timeout=5.0) as answer:
            said: Json = json.loads(answer.read())
            assert answer.status < 300, said
        return said

    def pid_of(self, host: str, program: str) -> int:
        """The process in a host's namespace whose command line has `program` in it."""
        pids = processes_in(self.mininet.network.host(host).namespace)
        (found,) = [pid for pid in pids if program in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")]
        return found

    @contextmanager
    def paused(self, pid: int) -> Iterator[None]:
        """A process that is stopped meanwhile: it is there, and does nothing."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    # --- waiting -------------------------------------------------------------------------------------------------------------

    def wait_for(self, missing: Callable[[], str], deadline_s: float = CONVERGE_S) -> None:
        """Returns when nothing is `missing` any more."""
        until_s = time.monotonic() + deadline_s
        while what := missing():
            assert time.monotonic() < until_s, f"not within {deadline_s:g} s: {what}"
            time.sleep(LOOK_EVERY_S)

    def converge(self, deadline_s: float = CONVERGE_S) -> None:
        """Returns when API, kernels and routers outside are as the plan of the objects says."""
        running = self.mininet.converge(Milestone.ROUTED)
        until_s = self.mininet.now_s() + deadline_s
        while True:
            self.mininet.wait([running], until_s=until_s)
            if running.over:
                return
            assert self.mininet.now_s() < until_s, running.waiting_for()

    def metric(self, pod: Pod, port: int, name: str) -> float:
        """The sum of a metric of an agent, over all of its labels."""
        address = next(str(a) for a in self.pod_ips(pod))
        with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=5.0) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split(" ")[0] == name)

    def pod_ips(self, pod: Pod) -> list[str]:
        """The addresses of a Pod on the primary network."""
        obj = self.api.get(kube.PODS, pod.meta.namespace, pod.meta.name) or {}
        return [entry["ip"] for entry in (obj.get("status") or {}).get("podIPs") or ()]

    def scale(self, replicas: int) -> None:
        """Sets the number of the application's replicas."""
        patch = {"spec": {"replicas": replicas}}
        self.api.merge_patch(kube.DEPLOYMENTS, "default", APPLICATION, patch)

    def readiness(self, pod: Pod) -> SetReady:
        """Writes the Ready condition of a Pod, as its kubelet would; the imitated one writes only when its own view changes."""
        obj = self.api.get(kube.PODS, pod.meta.namespace, pod.meta.name)
        assert obj is not None
        others = [condition for condition in obj["status"]["conditions"] if condition["type"] != "Ready"]

        def write(ready: bool) -> None:
            condition = {"type": "Ready", "status": "True" if ready else "False"}
            patch = {"status": {"conditions": [*others, condition]}}
            self.api.merge_patch(kube.PODS, pod.meta.namespace, pod.meta.name, patch, subresource="status")

        return write


def targets_of(objects: Iterable[Json], tuples: FiveTuples) -> NDArray[np.str_]:
    """The name of the Pod to which each connection goes, as `objects` say; shape (n,)."""
    placed = predict(objects, tuples, from_s=0.0, until_s=FOREVER_S)
    return np.array([*placed.names, "dropped", "rejected"])[placed.pod]


def _with_readiness(obj: Json, names: Sequence[str], gone: Sequence[str]) -> Json:
    name = obj["metadata"]["name"]
    if obj["kind"] != "Pod" or name not in names:
        return obj
    condition = {"type": "Ready", "status": "False" if name in gone else "True"}
    return obj | {"status": obj["status"] | {"conditions": [condition]}}


class Storm:
    """Pods that become ready and not ready in turn, `changes` times in `seconds`, from a thread; ready in the end."""

    def __init__(self, world: World, pods: Sequence[Pod], *, changes: int, seconds: float) -> None:
        self._write = [world.readiness(pod) for pod in pods]
        self._changes, self._gap_s = changes, seconds / changes
        self._thread = threading.Thread(target=self._run, name="storm")
        self.took_s = 0.0
        """More than `seconds` where the API takes the changes more slowly."""

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        start_s = time.monotonic()
        for change in range(self._changes):
            left_s = start_s + change * self._gap_s - time.monotonic()
            if left_s > 0:
                time.sleep(left_s)
            turn, pod = divmod(change, len(self._write))
            # The last turn makes all of them ready.
            self._write[pod](ready=(self._changes // len(self._write) - 1 - turn) % 2 == 0)
        self.took_s = time.monotonic() - start_s


class _NoEvents:
    def event(self, t_s: float, event: str, **more: object) -> None:
        """Tests look at what is there, not at a log."""


def _why(connections: Connections) -> str:
    some = list(connections.errors.items())[:5]
    return f"{len(connections.errors)} of {len(connections.tuples)} connections: {some}"
