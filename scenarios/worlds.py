"""The worlds by name: the place where what runs for real and what imitates a cluster are put together."""

from __future__ import annotations

import sys
from pathlib import Path

from scenarios.world import World

MININET = "mininet"
SIM = "sim"
NAMES = (MININET, SIM)


def enter(name: str, arguments: list[str]) -> None:
    """Goes to where the world `name` may run. For the virtual network this process is replaced by ``tidegate ARGUMENTS`` inside
    throw-away namespaces, unless it is there already. Raises MachineError."""
    if name == MININET:
        from sim.net import sandbox
        from sim.net.capabilities import require

        if not sandbox.entered():
            require("namespaces", "mnexec", "ip", "nft", "veth", "bridge", "bird")
            sandbox.enter([sys.executable, "-m", "scenarios.cli", *arguments])


def make_world(name: str, *, logs: Path) -> World:
    """A world that has not started yet; its processes write into `logs`."""
    if name == MININET:
        from scenarios.mininet_world import MininetWorld

        return MininetWorld(logs)
    if name == SIM:
        from scenarios.sim_world import SimWorld

        return SimWorld()
    raise ValueError(f"no world is called {name!r}: {', '.join(NAMES)}")
