"""Every adapter of `core.ports.Dataplane`, in a gateway between a client and targets (world.py)."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from core.lb.forwarding import Forwarding
from core.ports import Dataplane, FlowCounter
from live.dataplane import tc
from tests.conftest import require
from tests.contract.dataplane.world import World, world

PLANES: Final = ("tc", "nft")


def bpf_file_system() -> Path:
    """A BPF file system that is mounted nowhere and dies with this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    fsopen, fsconfig, fsmount, fsconfig_create = 430, 431, 432, 6
    context = libc.syscall(fsopen, b"bpf", 0)
    require("bpf", context >= 0, f"fsopen of bpf: {os.strerror(ctypes.get_errno())}")
    created = libc.syscall(fsconfig, context, fsconfig_create, None, None, 0)
    require("bpf", created == 0, f"creating a BPF file system: {os.strerror(ctypes.get_errno())}")
    mount = libc.syscall(fsmount, context, 0, 0)
    os.close(context)
    require("bpf", mount >= 0, f"fsmount of bpf: {os.strerror(ctypes.get_errno())}")
    return Path(f"/proc/{os.getpid()}/fd/{mount}")


@dataclass(slots=True)
class Plane:
    """An adapter at work in the gateway."""

    name: str
    adapter: Dataplane
    world: World
    pins: Path | None = None

    def apply(self, forwarding: Forwarding, interfaces: Sequence[str] | None = None) -> None:
        chosen = self.world.interfaces if interfaces is None else interfaces
        self.world.gateway.run(lambda: self.adapter.apply(forwarding, interfaces=chosen))

    def counters(self) -> Sequence[FlowCounter]:
        return self.world.gateway.run(self.adapter.counters)

    def remove(self) -> None:
        self.world.gateway.run(self.adapter.remove)

    def restart(self) -> None:
        """The agent is killed and another one starts: what it finds in the kernel is all there is."""
        if isinstance(self.adapter, tc.TcDataplane):
            self.adapter.close()
        self.adapter = make_adapter(self.name, self.world, self.pins)


def make_adapter(name: str, at: World, pins: Path | None) -> Dataplane:
    if name == "tc":
        answers_per_s = 1_000_000  # more than a test can ask for
        return at.gateway.run(lambda: tc.TcDataplane(pins=pins, answers_per_s=answers_per_s))
    from live.dataplane.nft import NftDataplane

    return at.gateway.run(NftDataplane)


@pytest.fixture(scope="package")
def gateway_world() -> Iterator[World]:
    require("netns", os.geteuid() == 0, "only root makes network namespaces that hold every data plane")
    with world(target_count=4) as made:
        yield made


@pytest.fixture(scope="package")
def pins_root() -> Path:
    return bpf_file_system()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """CI has the seeds that the tests name, so that it judges a change and not the luck of a day; elsewhere each run has others.

    A test that fails says which one it had.
    """
    named: int = request.param
    drawn = named if "CI" in os.environ else random.SystemRandom().getrandbits(32)
    chosen = int(os.environ.get("TIDEGATE_SEED", drawn))
    request.node.add_report_section("setup", "seed", f"TIDEGATE_SEED={chosen} repeats it")
    return chosen


@pytest.fixture(params=PLANES)
def plane(request: pytest.FixtureRequest, gateway_world: World, pins_root: Path) -> Iterator[Plane]:
    name: str = request.param
    pins = None
    if name == "tc":
        reason = tc.why_not_bpf()
        require("bpf", reason is None, str(reason))
        pins = pins_root / "gateway"
    made = Plane(name, make_adapter(name, gateway_world, pins), gateway_world, pins)
    try:
        yield made
    finally:
        made.remove()
