"""The worlds by name: the place where what runs for real and what imitates a cluster are put together."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from core.errors import MachineError
from scenarios.spec import Dataplane
from scenarios.world import World

MININET = "mininet"
SIM = "sim"
NAMES = (MININET, SIM)
TC_REMEDY = "run it as root, or choose the nft data plane: --set dataplane=nft"


def enter(name: str, arguments: list[str], dataplanes: Collection[Dataplane]) -> None:
    """Goes to where the world `name` may run. For the virtual network this process is replaced by ``tidegate ARGUMENTS`` inside
    throw-away namespaces, unless it is there already. `dataplanes`: those that the scenarios ask for.

    Raises MachineError when this machine lacks what the world or a data plane needs.
    """
    if name == MININET:
        from sim.net import sandbox
        from sim.net.capabilities import require

        if not sandbox.entered():
            require("namespaces", "mnexec", "ip", "nft", "veth", "bridge", "bird")
            if Dataplane.TC in dataplanes and (reason := why_not_tc()):
                raise MachineError(f"the tc data plane cannot be used: {reason}", TC_REMEDY)
            sandbox.enter([sys.executable, "-m", "scenarios.cli", *arguments])


def why_not_tc() -> str | None:
    """Why the virtual network cannot have the tc data plane on this machine; None: it can."""
    from live.dataplane.tc import why_not_bpf

    return why_not_bpf()


def make_world(name: str, *, logs: Path) -> World:
    """A world that has not started yet; its processes write into `logs`."""
    if name == MININET:
        from scenarios.mininet_world import MininetWorld

        return MininetWorld(logs)
    if name == SIM:
        from scenarios.sim_world import SimWorld

        return SimWorld()
    raise ValueError(f"no world is called {name!r}: {', '.join(NAMES)}")
