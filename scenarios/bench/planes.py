"""Data planes in a laboratory's gateways, and what they are given to forward."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from core.errors import MachineError
from core.lb.forwarding import Backend, Flow, Forwarding, Pool
from core.model import ANY_PORT, L4Protocol
from core.ports import Dataplane
from live.dataplane.nft import NftDataplane
from live.dataplane.tc import TcDataplane, why_not_bpf
from scenarios.bench.lab import Lab, Namespace
from sim.net.sandbox import bpffs

PLANES: Final = ("tc", "nft")
INTERFACES: Final = ("ext0",)
ALL_INTERFACES: Final = (*INTERFACES, "t0", "t1", "t2", "t3")
"""Those of all networks of a gateway, as the load-balancer agent names them: replies come in there."""
VIP: Final = IPv4Address("20.0.0.1")
CLIENT: Final = IPv4Address("200.100.0.1")
PORT: Final = 4000


def make_plane(name: str, namespace: Namespace) -> Dataplane:
    """A data plane for that namespace; its methods are to be called inside.

    Raises MachineError when it cannot be had here.
    """
    if name == "nft":
        return namespace.run(NftDataplane)
    folder = bpffs()
    reason = "there is no BPF file system in the sandbox" if folder is None else why_not_bpf()
    if folder is None or reason:
        raise MachineError(
            f"the tc data plane cannot be measured: {reason}", "run as root; `tidegate doctor` says more"
        )
    pins = folder / f"bench-{namespace.inode}"
    return namespace.run(lambda: TcDataplane(pins=pins))


def flow(name: str, vip: IPv4Address = VIP, sources: Sequence[IPv4Network] = ()) -> Flow:
    """TCP and UDP to a VIP."""
    return Flow(
        name=name,
        version=4,
        pool="pool",
        priority=1,
        protocols=(L4Protocol.TCP, L4Protocol.UDP),
        destinations=(IPv4Network(vip),),
        sources=tuple(sources),
        destination_ports=(ANY_PORT,),
        source_ports=(ANY_PORT,),
    )


def forwarding(lab: Lab, flows: Sequence[Flow], numbers: Sequence[int], gateway: int = 0) -> Forwarding:
    """All `flows` to the targets with these numbers, as one gateway of `lab` reaches them."""
    backend = Backend(service="default/service", weight=1, targets=tuple(lab.target(n, gateway) for n in numbers))
    return Forwarding(flows=tuple(flows), pools=(Pool(name="pool", version=4, backends=(backend,)),))
