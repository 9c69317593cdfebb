"""The virtual-time world as a world of scenarios: models of cluster, agents, routers and traffic around the core itself.

Implements `scenarios.world.World` over `sim.des`, which knows nothing of scenarios. Needs Python and numpy, on any system.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import assert_never

import numpy as np

import live
from core.errors import MachineError
from core.kube import DAEMON_SETS, DEPLOYMENTS, Json, Resource
from core.lb.fingerprint import fingerprint
from core.lb.placement import FiveTuples
from core.model import Address, Bfd, Prefix
from core.objects import Objects
from scenarios.cluster_view import FOLLOWED, kind_of, resource_of, with_namespace
from scenarios.convergence import View, missing_in_api, missing_in_kernels, missing_in_pods, missing_in_router
from scenarios.spec import ApiServer, Delete, Mode, Router, Scale, Scenario, Traffic
from scenarios.world import NOBODY, Connections, Milestone, Observation, Running, Sample
from scenarios.yamlsource import read_documents
from sim.cluster.networks import vlan_bridge
from sim.des.latencies import Latencies
from sim.des.routing import OutsideRouter, Rib
from sim.des.traffic import LOST, WHY, Drive
from sim.des.world import VirtualWorld

GC_THRESHOLDS = (200_000, 50, 100)
DEPLOY = Path(live.__file__ or "").parent / "deploy"
KINDS = tuple(resource.kind for resource in FOLLOWED)


class SimWorld:
    """Implements `scenarios.world.World`."""

    name = "sim"

    def __init__(self, latencies: Latencies | None = None) -> None:
        self._latencies = latencies or Latencies()
        self._world: VirtualWorld | None = None
        self._routers: tuple[Router, ...] = ()
        self._passed: list[Objects] | None = None

    @property
    def world(self) -> VirtualWorld:
        """What happens in virtual time."""
        if self._world is None:
            raise AssertionError("the world has not started")
        return self._world

    def now_s(self) -> float:
        return self._world.now_s if self._world is not None else 0.0

    def start(self, scenario: Scenario) -> None:
        if scenario.api is not ApiServer.IMITATED:
            raise MachineError("the virtual-time world has no API server but its own", "leave out --set api=real")
        # Objects come by the hundred thousand and hardly ever in circles: to look for these all the time costs a tenth of a run.
        gc.set_threshold(*GC_THRESHOLDS)
        self._routers = scenario.topology.routers
        self._world = VirtualWorld(
            nodes=scenario.topology.nodes,
            routers=[_outside(router) for router in self._routers],
            latencies=self._latencies,
        )
        while self._world.advance(self._latencies.api_server_start_s):
            pass
        for resource, obj in installed(scenario.dataplane.value):
            self._world.apply(resource, obj)

    def stop(self) -> None:
        """Nothing runs while nobody lets time pass."""

    # --- what a scenario does -----------------------------------------------------------------------------------------------

    def apply(self, objects: Sequence[Json]) -> None:
        for obj in objects:
            resource = resource_of(obj)
            self.world.apply(resource, with_namespace(resource, obj))

    def act(self, action: Scale | Delete) -> None:
        match action:
            case Scale():
                self.world.scale(action.namespace, action.deployment, action.replicas)
            case Delete():
                resource = kind_of(action.kind)
                self.world.delete(resource, action.namespace if resource.namespaced else "", action.object_name)
            case _:
                assert_never(action)

    def converge(self, milestone: Milestone) -> Running:
        return _Convergence(self, milestone)

    def drive(self, traffic: Traffic, tuples: FiveTuples) -> _TrafficDrive:
        drive = self.world.drive(
            router=traffic.source,
            tuples=tuples,
            stays_open=traffic.mode is Mode.LONG,
            timeout_s=traffic.timeout_s,
        )
        return _TrafficDrive(drive, traffic, tuples, self.world.fabric.names)

    def wait(self, running: Sequence[Running], *, until_s: float) -> None:
        while not any(one.over for one in running):
            if not self.world.advance(until_s):
                return

    # --- what is seen -------------------------------------------------------------------------------------------------------

    def missing(self, milestone: Milestone) -> Iterator[str]:
        """What is missing, the cheapest things first."""
        view = View.of(self.world.api.objects(KINDS))
        yield from missing_in_api(view)
        programmed = {
            gateway.pod: fingerprint(gateway.forwarding)
            for gateway in self.world.gateways.values()
            if gateway.programmed
        }
        yield from missing_in_kernels(view, programmed)
        attached = {place.uid: place.attachments for place in self.world.fabric.all_places()}
        yield from missing_in_pods(view, lambda uid, wanted: attached.get(uid) == wanted)
        if milestone is Milestone.ROUTED:
            for router in self._routers:
                yield from missing_in_router(view, router, _Known(self.world.rib(router.name)))

    def observe(self) -> Observation:
        now_s = self.now_s()
        samples = []
        for router in self._routers:
            rib = self.world.rib(router.name)
            sessions, routes = len(rib.established), len(rib.prefixes())
            for metric, value in (("bgp_sessions_established", sessions), ("routes_learned", routes)):
                samples.append(Sample(t_s=now_s, entity=router.name, metric=metric, value=value, unit="1"))
        return Observation(t_s=now_s, objects=self.world.api.objects(KINDS), samples=tuple(samples))

    def passed(self) -> list[Objects]:
        if self._passed is None:
            self._passed = []
            self.world.api.watch(("EndpointSlice",), self._note_slices)
        found, self._passed = self._passed, []
        return found

    def _note_slices(self, _changed: Sequence[tuple[str, str, str]]) -> None:
        assert self._passed is not None
        self._passed.append(self.world.api.seen.objects())

    def facts(self) -> Mapping[str, str]:
        latencies = {f.name: f"{getattr(self._latencies, f.name):g}" for f in fields(self._latencies)}
        pods = sorted(gateway.pod for gateway in self.world.gateways.values())
        return {"api": "modelled", "dataplane": "tables of the core", "gateway_pods": ", ".join(pods)} | latencies


def installed(dataplane: str) -> Iterator[tuple[Resource, Json]]:
    """Tidegate itself, as `live/deploy` installs it."""
    (controller,) = (document.json() for document in read_documents(DEPLOY / "controller.yaml"))
    controller["spec"]["replicas"] = 1  # a standby would cost memory, and no node is ever lost
    controller["spec"]["template"]["spec"]["containers"][0]["args"] += ["--dataplane", dataplane]
    yield DEPLOYMENTS, controller
    (endpoint,) = (document.json() for document in read_documents(DEPLOY / "endpoint.yaml"))
    yield DAEMON_SETS, endpoint


def _outside(router: Router) -> OutsideRouter:
    return OutsideRouter(
        name=router.name,
        bridge=vlan_bridge(router.vlan),
        addresses=router.addresses,
        asn=router.asn,
        gateway_asn=router.gateway_asn,
        port=router.bgp_port,
        hold_time_s=router.hold_time_s,
        bfd=Bfd(min_tx_ms=router.bfd.min_tx_ms, min_rx_ms=router.bfd.min_rx_ms, multiplier=router.bfd.multiplier),
    )


class _Convergence:
    """Over when nothing is missing any more. While something is under way something is missing, so it does not look."""

    def __init__(self, world: SimWorld, milestone: Milestone) -> None:
        self._world = world
        self._milestone = milestone
        self._looked_at: tuple[int, ...] = ()
        self._missing: tuple[str, ...] = ("everything",)

    @property
    def over(self) -> bool:
        world = self._world.world
        quiet = world.quiet if self._milestone is Milestone.ROUTED else world.cluster_quiet
        if self._missing and quiet:
            state = (world.api.version, world.fabric.changed.count)
            if state != self._looked_at:
                self._looked_at = state
                self._missing = tuple(self._world.missing(self._milestone))
        return not self._missing

    def waiting_for(self) -> str:
        more = len(self._missing) - 5
        return "; ".join(self._missing[:5]) + (f"; and {more} more" if more > 0 else "")


class _TrafficDrive:
    """Implements `scenarios.world.Drive`."""

    def __init__(self, drive: Drive, traffic: Traffic, tuples: FiveTuples, names: Sequence[str]) -> None:
        self._drive, self._traffic, self._tuples, self._names = drive, traffic, tuples, names

    @property
    def over(self) -> bool:
        return self._drive.over

    def waiting_for(self) -> str:
        return f"{self._drive.waiting} connections of {self._traffic.name}"

    def finish(self) -> Connections:
        result = self._drive.finish()
        answered = result.answered_by >= 0
        used = np.unique(result.answered_by[answered])
        # Numbers in the order of names, as they have where connections are made one by one.
        order = sorted(used.tolist(), key=lambda number: self._names[number])
        number = np.full(len(self._names) + 1, NOBODY, np.int32)
        number[order] = np.arange(len(order))
        failed = {int(i): WHY[int(result.answered_by[i])] for i in np.flatnonzero(~answered)}
        lost = dict.fromkeys(np.flatnonzero(~np.isnan(result.lost_s)).tolist(), LOST)
        return Connections(
            tuples=self._tuples,
            started_s=result.started_s,
            established_s=result.established_s,
            lost_s=result.lost_s,
            answered_by=np.where(answered, number[result.answered_by], NOBODY).astype(np.int32),
            names=tuple(self._names[index] for index in order),
            errors=failed | lost,
        )


class _Known:
    """What a router outside has learned, as `scenarios.convergence.Known`."""

    def __init__(self, rib: Rib) -> None:
        self._rib = rib

    def next_hops(self, prefix: Prefix) -> frozenset[Address]:
        return self._rib.over(prefix)

    def prefixes(self) -> frozenset[Prefix]:
        return self._rib.prefixes()

    def established(self) -> frozenset[Address]:
        return frozenset(self._rib.established)

    def bfd_up(self) -> frozenset[Address]:
        return frozenset(self._rib.bfd_up)
