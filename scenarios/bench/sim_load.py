"""The load of `tidegate bench sim`: open connections over many targets in virtual time, and a target set that changes again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from typing import Any

import numpy as np

from core import names
from core.kube import Json
from core.lb.placement import FiveTuples, place
from core.model import Bfd, L4Protocol
from core.plan import forwarding_of
from scenarios.cluster_view import resource_of, with_namespace
from scenarios.sim_world import installed
from scenarios.load import EXAMPLES
from scenarios.yamlsource import read_documents
from sim.cluster.networks import vlan_bridge
from sim.des.routing import OutsideRouter
from sim.des.world import VirtualWorld

TARGETS = 1000
CHANGES = 100
FEWEST_TARGETS = 900
"""Changes go up and down between this and TARGETS; no two of them lead to the same number."""
PODS_A_NODE = 100
DEPLOYMENT = "example-target-application-b"
ROUTER = "vpn-b"
SETTLE_LIMIT_S = 60.0
"""Of virtual time."""
CLIENTS = 50_000
"""Connections from one client address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run has cost and what it gave. Times in seconds of the processor, memory in MB (10^6 bytes)."""

    connections: int
    targets: int
    changes: int
    setup_s: float
    changes_s: float
    broken: int
    must_break: int

    @property
    def total_s(self) -> float:
        return self.setup_s + self.changes_s


def run(connections: int, *, targets: int = TARGETS, changes: int = CHANGES) -> Load:
    """One run, in this process."""
    start_s = time.process_time()
    world = _world(targets)
    world.settle(limit_s=SETTLE_LIMIT_S)
    tuples = _tuples(connections)
    drive = world.drive(router=ROUTER, tuples=tuples, stays_open=True, timeout_s=5.0)
    while not drive.over:
        world.advance(world.now_s + 1.0)
    ready_s = time.process_time()
    intact = np.ones(connections, np.bool_)
    first = _pods(world, tuples)
    for replicas in _sizes(targets, changes):
        world.scale("default", DEPLOYMENT, replicas)
        world.settle(limit_s=SETTLE_LIMIT_S)
    result = drive.finish()
    end_s = time.process_time()
    del intact, first
    return Load(
        connections=connections,
        targets=targets,
        changes=changes,
        setup_s=ready_s - start_s,
        changes_s=end_s - ready_s,
        broken=int(np.count_nonzero(~np.isnan(result.lost_s))),
        must_break=0,
    )
