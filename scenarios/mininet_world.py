"""The virtual network as a world: the imitated cluster, real agents, real routers outside, real traffic; on the wall clock."""

from __future__ import annotations

import http.client
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, assert_never

from core.errors import TidegateError
from core.kube import Json, ObjectName
from core.lb.placement import FiveTuples
from core.manifests import parse
from core.manifests.render import attachment_digest, attachment_text
from core.manifests.workloads import ENDPOINT_PORT, LOAD_BALANCER_PORT
from core.model import Address, Attachment, Prefix
from core.objects import Objects
from live.kube import KubeClient, connect
from scenarios.cluster_view import ClusterView
from scenarios.convergence import View, missing_in_api, missing_in_kernels, missing_in_pods, missing_in_router
from scenarios.drive import TrafficDrive
from scenarios.imitated_cluster import ImitatedCluster
from scenarios.spec import ApiServer, Delete, Router, Scale, Scenario, Traffic
from scenarios.testbed import Host
from scenarios.world import Milestone, Observation, Running, Sample
from sim.cluster.networks import vlan_bridge
from sim.net.namespaces import ip_batch
from sim.net.routers import Bfd, BirdSpeaker, OutsideRouter, RouterState, add_router
from sim.net.sandbox import RUN_DIR
from sim.net.topology import VirtualNetwork
from sim.net.traffic import TrafficClient

POLL_S = 0.02
"""How often routers outside are looked at: nothing tells when they have learned a route."""
METRICS_DEADLINE_S = 2.0
_FORWARDING_INFO = re.compile(
    r'^tidegate_forwarding_info\{(?=.*fingerprint="([0-9a-f]+)")(?=.*dataplane="(\w+)")', re.MULTILINE
)
_DATAPLANE_REASON = re.compile(r'^tidegate_dataplane_info\{(?=.*reason="((?:[^"\\]|\\.)*)")', re.MULTILINE)
_ATTACHMENT_INFO = re.compile(r'^tidegate_attachment_info\{digest="([0-9a-f]+)",pod_uid="([^"]+)"\}', re.MULTILINE)
ENDPOINT_AGENT = "tidegate-endpoint"
"""Their label `app`, in live/deploy/endpoint.yaml."""


class MininetWorld:
    """Implements `scenarios.world.World`. It expects to run inside of `sim.net.sandbox.enter`."""

    name = "mininet"

    def __init__(self, logs: Path, *, allow_faults: bool = False) -> None:
        """`logs`: the folder of all processes' logs. `allow_faults`: the imitated API server takes orders to misbehave."""
        self._allow_faults = allow_faults
        self._cluster: ImitatedCluster | None = None
        self._client: KubeClient | None = None
        self._start_s = time.monotonic()
        self._logs = logs
        self._exits = ExitStack()
        self._changed = threading.Condition()
        self._network = VirtualNetwork()
        self._speakers: dict[str, tuple[Router, BirdSpeaker]] = {}
        self._clients: dict[str, TrafficClient] = {}
        self._scenario_name = ""
        self._api = ApiServer.IMITATED
        self._view: ClusterView | None = None
        self._dataplanes: dict[str, str] = {}
        self._reasons: set[str] = set()
        self._seen: tuple[tuple[Mapping[ObjectName, Json], ...], View, tuple[str, ...]] | None = None
        """The view after so many changes, and what it lacks."""

    def now_s(self) -> float:
        return time.monotonic() - self._start_s

    # --- up and down --------------------------------------------------------------------------------------------------------

    def start(self, scenario: Scenario) -> None:
        self._scenario_name = scenario.name
        self._api = scenario.api
        self._cluster = cluster = ImitatedCluster(
            self._network,
            logs=self._logs,
            nodes=scenario.topology.nodes,
            dataplane=scenario.dataplane.value,
            api=scenario.api,
            allow_faults=self._allow_faults,
        )
        self._network.start()
        self._exits.callback(self._network.stop)
        self._exits.callback(cluster.stop)
        kubeconfig = cluster.start_api_server()
        for router in scenario.topology.routers:
            self._add_router(router)
        api: KubeClient = connect(kubeconfig)
        self._exits.callback(api.close)
        self._client = api
        cluster.start(api)
        self._view = ClusterView(api, self._changed)

    def _add_router(self, router: Router) -> None:
        outside = OutsideRouter(
            name=router.name,
            network=vlan_bridge(router.vlan),
            interface=f"vlan-{router.vlan}",
            addresses=router.addresses,
            loopback=tuple(ip_interface(f"{p.network_address}/{p.max_prefixlen}") for p in router.client_addresses),
            asn=router.asn,
            peer_asn=router.gateway_asn,
            port=router.bgp_port,
            hold_time_s=router.hold_time_s,
            bfd=Bfd(min_tx_ms=router.bfd.min_tx_ms, min_rx_ms=router.bfd.min_rx_ms, multiplier=router.bfd.multiplier),
        )
        speaker = add_router(self._network, outside, run_dir=RUN_DIR / "routers", log_dir=self._logs)
        wide = [prefix for prefix in router.client_addresses if prefix.num_addresses > 1]
        if wide:
            # Every address of the prefix is this host's own: clients may bind to it.
            ip_batch(self._network.host(router.name).namespace, [f"route add local {prefix} dev lo" for prefix in wide])
        self._speakers[router.name] = (router, speaker)
        speaker.start()
        self._exits.callback(speaker.kill)
        client = TrafficClient(self._network, router.name, log=self._logs / f"{router.name}.traffic.log")
        self._exits.callback(client.stop)
        self._clients[router.name] = client

    def stop(self) -> None:
        self._exits.close()

    # --- what a scenario does -----------------------------------------------------------------------------------------------

    def apply(self, objects: Sequence[Json]) -> None:
        for obj in objects:
            self._cluster_view.apply(obj)

    def act(self, action: Scale | Delete) -> None:
        match action:
            case Scale():
                self._cluster_view.scale(action.namespace, action.deployment, action.replicas)
            case Delete():
                self._cluster_view.delete(action.kind, action.namespace, action.object_name)
            case _:
                assert_never(action)

    def converge(self, milestone: Milestone) -> Running:
        return _Convergence(lambda: self._missing(milestone))

    def drive(self, traffic: Traffic, tuples: FiveTuples) -> TrafficDrive:
        return TrafficDrive(self._clients[traffic.source], traffic, tuples, self._changed, clock_start_s=self._start_s)

    def wait(self, running: Sequence[Running], *, until_s: float) -> None:
        while True:
            for one in running:
                if isinstance(one, _Convergence):
                    one.look()
            left_s = until_s - self.now_s()
            if left_s <= 0 or any(one.over for one in running):
                return
            with self._changed:
                if not any(one.over for one in running):
                    self._changed.wait(min(POLL_S, left_s))

    # --- what is seen -------------------------------------------------------------------------------------------------------

    @property
    def _cluster_view(self) -> ClusterView:
        if self._view is None:
            raise AssertionError("the world has not started")
        return self._view

    def _missing(self, milestone: Milestone) -> list[str]:
        """What is missing, the cheapest things first; empty: nothing."""
        behind = self._cluster_view.behind()
        if behind:
            return [f"{behind} is not seen"]
        view, lacking = self._looked_at()
        if lacking:
            return list(lacking)
        missing: list[str] = []
        if milestone is Milestone.ROUTED:
            for router, speaker in self._speakers.values():
                missing += missing_in_router(view, router, _Known(speaker.observe()))
        return (
            missing or list(missing_in_kernels(view, self._programmed(view))) or list(missing_in_pods(view, _has(view)))
        )

    def _looked_at(self) -> tuple[View, tuple[str, ...]]:
        """The objects as they are, and what they lack; a plan is made only when they have changed."""
        # Not by what was told: a change is there before it is told, and has been looked for already.
        snapshot = self._cluster_view.snapshot()
        if self._seen is None or any(old is not new for old, new in zip(self._seen[0], snapshot, strict=True)):
            view = View.of(obj for objects in snapshot for obj in objects.values())
            self._seen = (snapshot, view, tuple(missing_in_api(view)))
        return self._seen[1:]

    def _programmed(self, view: View) -> dict[str, str]:
        """Pod -> fingerprint of what its load balancer says it has programmed; those that do not answer are left out."""
        found = {}
        addresses = {
            obj["metadata"]["name"]: (obj.get("status") or {}).get("podIP") for obj in view.raw if obj["kind"] == "Pod"
        }
        for _, pods in view.balancers():
            for pod in pods:
                metrics = _metrics(addresses.get(pod.meta.name), LOAD_BALANCER_PORT)
                match = _FORWARDING_INFO.search(metrics)
                if match is not None:
                    found[pod.meta.name] = match[1]
                    self._dataplanes[pod.meta.name] = match[2]
                    self._reasons.update(reason[1] for reason in _DATAPLANE_REASON.finditer(metrics))
        return found

    def observe(self) -> Observation:
        now_s = self.now_s()
        samples = []
        for router, speaker in self._speakers.values():
            state = speaker.observe()
            samples.append(
                Sample(
                    t_s=now_s,
                    entity=router.name,
                    metric="bgp_sessions_established",
                    value=len(state.established),
                    unit="1",
                )
            )
            samples.append(
                Sample(t_s=now_s, entity=router.name, metric="routes_learned", value=len(state.routes), unit="1")
            )
        return Observation(t_s=now_s, objects=self._cluster_view.objects(), samples=tuple(samples))

    def passed(self) -> list[Objects]:
        return [parse(raw)[0] for raw in self._cluster_view.passed()]

    def hosts(self) -> list[Host]:
        """The hosts of the network, for `scenarios.testbed`."""
        return [
            Host(
                name=view.name,
                addresses=[str(a.ip) for one in view.attachments for a in one.addresses]
                + [str(a.ip) for a in view.loopback],
            )
            for view in self._network.hosts()
        ]

    @property
    def api(self) -> KubeClient:
        """The run's own client of the API."""
        if self._client is None:
            raise AssertionError("the world has not started")
        return self._client

    @property
    def network(self) -> VirtualNetwork:
        """The hosts and their namespaces."""
        return self._network

    def pids(self, host: str) -> Mapping[str, int]:
        """The PIDs of the containers of a Pod that runs, by their names. Raises KeyError when none of that name runs."""
        if self._cluster is None:
            raise KeyError(host)
        return self._cluster.pids(host)

    def speaker(self, router: str) -> BirdSpeaker:
        """The BGP speaker of a router outside."""
        return self._speakers[router][1]

    def status(self) -> dict[str, Any]:
        """What is up, for `scenarios.testbed`."""
        return {
            "scenario": self._scenario_name,
            "missing": "; ".join(self._missing(Milestone.ROUTED)),
            "hosts": [host._asdict() for host in self.hosts()],
            "routes": [
                {"router": name, "prefix": str(route.prefix), "over": [str(hop.address) for hop in route.next_hops]}
                for name, (_, speaker) in self._speakers.items()
                for route in speaker.observe().routes
            ],
        }

    def popen(self, host: str, command: list[str], streams: tuple[int, int, int]) -> subprocess.Popen[bytes]:
        """Runs a command in a host, for `scenarios.testbed`."""
        stdin, stdout, stderr = streams
        process: subprocess.Popen[bytes] = self._network.host(host).popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr
        )
        return process

    def facts(self) -> Mapping[str, str]:
        planes = ", ".join(sorted(set(self._dataplanes.values())))
        return {
            "api": self._api.value,
            "dataplane": planes,
            "dataplane_reason": "; ".join(sorted(self._reasons)),
            "gateway_pods": ", ".join(sorted(self._dataplanes)),
        }


class _Convergence:
    """Over when nothing is missing any more. Looks only when it is told to."""

    def __init__(self, missing: Callable[[], list[str]]) -> None:
        self._look = missing
        self._missing = ["everything"]

    @property
    def over(self) -> bool:
        return not self._missing

    def look(self) -> None:
        if self._missing:
            try:
                self._missing = self._look()
            except TidegateError as error:
                self._missing = [str(error)]

    def waiting_for(self) -> str:
        more = len(self._missing) - 5
        return "; ".join(self._missing[:5]) + (f"; and {more} more" if more > 0 else "")


class _Known:
    """A router's state as `scenarios.convergence.Known`."""

    def __init__(self, state: RouterState) -> None:
        self._state = state

    def next_hops(self, prefix: Prefix) -> frozenset[Address]:
        return self._state.next_hops(prefix)

    def prefixes(self) -> frozenset[Prefix]:
        return frozenset(route.prefix for route in self._state.routes)

    def established(self) -> frozenset[Address]:
        return frozenset(session.neighbor for session in self._state.established)

    def bfd_up(self) -> frozenset[Address]:
        return frozenset(session.neighbor for session in self._state.bfd if session.state == "Up")


def _has(view: View) -> Callable[[str, tuple[Attachment, ...]], bool]:
    """Whether a Pod has attachments, as the endpoint agent of its node says; of agents that do not answer, none has any."""
    found: dict[str, str] = {}
    for obj in view.raw:
        labels = obj["metadata"].get("labels") or {}
        if obj["kind"] == "Pod" and labels.get("app") == ENDPOINT_AGENT:
            metrics = _metrics((obj.get("status") or {}).get("podIP"), ENDPOINT_PORT)
            found.update((uid, digest) for digest, uid in _ATTACHMENT_INFO.findall(metrics))
    return lambda uid, wanted: found.get(uid) == attachment_digest(attachment_text(wanted))


def _metrics(address: str | None, port: int) -> str:
    """The metrics of an agent; ``""`` when it does not answer."""
    if not address:
        return ""
    host = f"[{address}]" if ":" in address else address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=METRICS_DEADLINE_S) as answer:
            text: bytes = answer.read()
    except (OSError, http.client.HTTPException):
        return ""
    return text.decode(errors="replace")
