"""Random route sets, from manifests to a forwarding set: what users can write, in all combinations."""

from __future__ import annotations

import random
from dataclasses import replace

from core import names
from core.kube import Json
from core.lb.forwarding import Forwarding, Target
from core.manifests import parse
from core.model import L4Protocol
from core.plan import plan
from tests import objects
from tests.contract.dataplane.sets import CLIENTS, PORTS, SMALL_TABLE, VIPS
from tests.contract.dataplane.world import World, target_address

SERVICES = 4
BYTE_MATCHES = (
    "tcp[2:2] = 4000",
    "udp[0:4] & 0x0000ffff = 80",
    "tcp[13:1] & 0x02 = 2",
    "tcp[12:2] & 0xf000 = 0x5000",
    "udp[2:1] = 15",
    "sctp[0:2] & 0x0001 = 1",
)


def random_route_set(draw: random.Random, world: World, routes: int) -> Forwarding:
    """What plan() makes of a Gateway with so many L34Routes, a TCPRoute and a UDPRoute, of both families.

    Priorities that tie, before and behind the 0 of the TCPRoute and the UDPRoute, source CIDRs, ranges of ports and "any", byte
    matches, VIPs that are prefixes, weights, backends that do not exist, and Services that select no Pod.
    """
    numbers = range(len(world.targets))
    # The last Service selects nothing.
    selected = {n: draw.sample(numbers, draw.randint(1, len(numbers))) for n in range(SERVICES - 1)}
    vips = tuple(str(vip) for version in (4, 6) for vip in VIPS[version])
    items = [
        objects.gateway(
            addresses=[{"type": "IPAddress", "value": str(VIPS[version][0].network_address)} for version in (4, 6)],
            listeners=[
                {"name": "tcp", "port": 4000, "protocol": "TCP"},
                {"name": "udp", "port": 4001, "protocol": "UDP"},
            ],
        ),
        *(_l34_route(draw, n) for n in range(routes)),
        objects.tcp_route("tcp", rules=[{"backendRefs": _backends(draw)}]),
        objects.tcp_route("udp", rules=[{"backendRefs": _backends(draw)}]) | {"kind": "UDPRoute"},
        *(_service(n) for n in range(SERVICES)),
        *(_pod(i, vips, [n for n, pods in selected.items() if i in pods]) for i in range(len(world.targets))),
    ]
    (gateway,) = plan(parse(items)[0]).gateways
    return _in_world(gateway.forwarding)


def _service(number: int) -> Json:
    return objects.service(f"svc-{number}", selector={names.DUMMY_SELECTOR: "true", f"s{number}": "yes"})


def _pod(index: int, vips: tuple[str, ...], services: list[int]) -> Json:
    made = objects.pod(index, addresses=(f"10.2.0.{index + 1}", f"fd00::{index + 1}"), attached=vips)
    made["metadata"]["labels"] |= {f"s{n}": "yes" for n in services}
    return made


def _backends(draw: random.Random) -> list[Json]:
    found = draw.sample([*(f"svc-{n}" for n in range(SERVICES)), "gone"], draw.randint(1, 3))
    return [{"name": name, "port": 4000, "weight": draw.choice((0, 1, 1, 2, 5))} for name in found]


def _l34_route(draw: random.Random, number: int) -> Json:
    both = [str(vip) for version in (4, 6) for vip in VIPS[version]]
    clients = [str(prefix) for version in (4, 6) for prefix in CLIENTS[version]]
    more: Json = {}
    if draw.random() < 0.4:
        more["sourceCIDRs"] = draw.sample(clients, draw.randint(1, 4))
    if draw.random() < 0.4:
        more["sourcePorts"] = [_ports(draw) for _ in range(draw.randint(1, 2))]
    if draw.random() < 0.2:
        more["byteMatches"] = [draw.choice(BYTE_MATCHES)]
    return objects.l34_route(
        f"route-{number}",
        priority=draw.randint(-3, 4),
        protocols=[p.name for p in draw.sample(list(L4Protocol), draw.randint(1, 3))],
        destinationCIDRs=draw.sample(both, draw.randint(1, 4)),
        destinationPorts=[_ports(draw) for _ in range(draw.randint(1, 3))],
        backendRefs=_backends(draw),
        **more,
    )


def _ports(draw: random.Random) -> str:
    first, last = sorted(draw.choices(PORTS, k=2))
    return draw.choice(("any", str(first), f"{first}-{last}", f"0-{last}"))


def _in_world(forwarding: Forwarding) -> Forwarding:
    """The same with the Pods where the world has its targets, and with small tables."""

    def moved(target: Target) -> Target:
        number = int(target.pod.removeprefix("app-"))
        return replace(target, address=target_address(number, target.address.version))

    return replace(
        forwarding,
        pools=tuple(
            replace(
                pool,
                table_size=SMALL_TABLE,
                backends=tuple(replace(b, targets=tuple(map(moved, b.targets))) for b in pool.backends),
            )
            for pool in forwarding.pools
        ),
    )
